"""Options that several commands share, and what every command does with its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apps.artifact_paths import artifacts_at, one_artifact_at
from apps.destinations import (
    check_destination,
    check_folder,
    claim_stdout,
    is_stdout,
    write_bytes,
    write_claimed,
)
from apps.streams import say_aside
from edge_sr.choices import expect_choice
from edge_sr.errors import ConfigError
from edge_sr.sizes import format_size, parse_size

if TYPE_CHECKING:
    from apps.progress import Progress
    from apps.results import Result

# More than any phone or desktop has; a runtime would start as many as it is told to.
MOST_THREADS = 256

Scale = Annotated[int, typer.Option("--scale", help="Upscaling factor: 2, 3 or 4. Weights are bundled for 4.")]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", help="Checkpoint file in place of the bundled one.", show_default=False)
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", help="Also write the whole result to this file; - is stdout.", show_default=False, metavar="FILE"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")]
Figure = Annotated[
    Path | None, typer.Option("--figure", help="Also draw a chart into this PNG.", show_default=False, metavar="FILE")
]
Artifacts = Annotated[
    list[Path],
    typer.Argument(
        help="Artifact folders as export wrote them, or folders of such.", show_default=False, callback=artifacts_at
    ),
]
Artifact = Annotated[
    Path, typer.Argument(help="Artifact folder, as export wrote it.", show_default=False, callback=one_artifact_at)
]
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


def choice(*names: str, known: tuple[str, ...] | str, help: str, panel: str | None = None) -> Any:
    """An option that takes one of a few names, or several times one: checked at once, completed by the shell.

    Args:
        names: as typed, ``--model``.
        known: the names that exist, or ``module:NAME`` of what holds them, imported when they are needed.
        help: as of other options.
        panel: heading of the help page that it stands under.
    """

    def names_known() -> tuple[str, ...]:
        if isinstance(known, tuple):
            return known
        module, _, name = known.partition(":")
        return tuple(getattr(import_module(module), name))

    def check(value: Any) -> Any:
        for one in (value,) if isinstance(value, str) else value or ():
            expect_choice(names[0], one, names_known())
        return value

    def complete(incomplete: str) -> list[str]:
        return [name for name in names_known() if name.startswith(incomplete)]

    return typer.Option(
        *names, help=help, metavar="NAME", callback=check, autocompletion=complete, rich_help_panel=panel
    )


Model = Annotated[str, choice("--model", known="edge_sr.networks:MODELS", help="Network; see edge-sr models.")]
Scheme = Annotated[str, choice("--scheme", known="quantization.schemes:SCHEMES", help="Quantized scheme.")]
Targets = Annotated[
    list[str] | None,
    choice(
        "--target",
        known="converters.targets:TARGETS",
        help="tflite, executorch, coreml, or an NPU's; may be given again. Default: those three.",
    ),
]


def read_tile(text: str) -> tuple[int, int]:
    """A tile as typed, WIDTHxHEIGHT, as (height, width); one that is not square is said again in words.

    Raises:
        ConfigError: it is no such size.
    """
    size = parse_size(text, "tile", "128x128")
    if size[0] != size[1]:
        say_aside(f"tile: {format_size(size)}")
    return size


@contextmanager
def working(json_file: Path | None, *, figure: Path | None = None, folder: Path | None = None) -> Iterator[Progress]:
    """:func:`claim` what the command will write, then draw progress while the work is done."""
    from apps.progress import progress_bars

    claim(json_file, figure=figure, folder=folder)
    with progress_bars() as progress:
        yield progress


def claim(json_file: Path | None, *, figure: Path | None = None, folder: Path | None = None) -> None:
    """Try every file that the command will write before any work.

    Where ``--json`` is standard output, what the command prints goes to standard error from here on.

    Args:
        json_file, figure: files of ``--json`` and ``--figure``.
        folder: of ``--out``; made later.
    Raises:
        ConfigError: one of them cannot be written.
    """
    from apps.results import check_json_target

    check_json_target(json_file)
    if figure is not None:
        _check_figure(figure)
    if folder is not None:
        check_folder(folder, "--out")
    if json_file is not None and is_stdout(json_file):
        claim_stdout()


def save(kind: str, result: Result, json_file: Path | None) -> None:
    """Write the result where ``--json`` asked for it."""
    if json_file is None:
        return
    from apps.results import envelope, json_text, write_json

    content = envelope(kind, result)
    if is_stdout(json_file):
        write_claimed(json_text(content))
    else:
        write_json(json_file, content)


def draw(figure: Path | None, chart: Callable[[], bytes | None]) -> None:
    """Write the PNG that ``chart`` makes where ``--figure`` asked for it; nothing where there is nothing to draw."""
    if figure is not None and (png := chart()):
        write_bytes(figure, png)


def _check_figure(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--figure must name a .png file, got {path}")
    check_destination(path, "--figure", is_own=_is_png)


def _is_png(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(8) == b"\x89PNG\r\n\x1a\n"
