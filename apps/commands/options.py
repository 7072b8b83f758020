"""Options that several commands share, and what every command does with its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from apps.progress import Progress, progress_bars
from apps.results import Result, check_json_target, envelope, write_json

# More than any phone or desktop has; a runtime would start as many as it is told to.
MOST_THREADS = 256

Model = Annotated[str, typer.Option("--model", help="Network; see edge-sr models.")]
Scale = Annotated[int, typer.Option("--scale", help="Upscaling factor: 2, 3 or 4.")]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", help="Checkpoint file in place of the bundled one.", show_default=False)
]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the whole result to this file.", show_default=False, metavar="FILE"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]
Artifacts = Annotated[list[Path], typer.Argument(help="Artifact folders, as export wrote them.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder with Set5/HR and so on, or a plain folder of images. Default: scikit-image's sample photos.",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Image set in --data; may be given again. Default: all of them.")
]


def examples(*lines: str) -> str:
    """Text for the end of a ``--help`` page: one example per line."""
    return "Examples:\n\n" + "\n\n".join(lines)


@contextmanager
def working(json_file: Path | None) -> Iterator[Progress]:
    """Check the ``--json`` path before any work, then draw progress while the work is done."""
    check_json_target(json_file)
    with progress_bars() as progress:
        yield progress


def save(kind: str, result: Result, json_file: Path | None) -> None:
    """Write the result where ``--json`` asked for it."""
    if json_file is not None:
        write_json(json_file, envelope(kind, result))
