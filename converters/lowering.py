"""What a lowering takes and gives: the one interface between export and the three toolchains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from converters.artifact import Compiled, Delegation, IoVariant

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LoweringJob:
    """One network to be lowered for one target.

    Attributes:
        network: the deployed float network, or a ``QuantizedNetwork`` where the scheme is quantized.
        scheme: name of the scheme; checked against the target before a job is made.
        model, scale: what the network is.
        tile: (height, width) of the LR input; a multiple of the network's ``tile_multiple``.
        work_dir: existing empty folder that the lowering writes its files into.
        target: name of the target, for a lowering that serves several.
        socs: systems on a chip to compile for, of targets that compile for some; empty for the target's choice.
        checkpoint_sha256, weights_license, weights_attribution: for formats that carry such metadata; may be empty.
    """

    network: nn.Module
    scheme: str
    model: str
    scale: int
    tile: tuple[int, int]
    work_dir: Path
    target: str = ""
    socs: tuple[str, ...] = ()
    checkpoint_sha256: str = ""
    weights_license: str = ""
    weights_attribution: str = ""

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, 3, height, width) of the network's float input in [0, 1]."""
        return (1, 3, *self.tile)


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """What a lowering wrote into its ``work_dir``.

    Attributes:
        main_file: the file or package folder that the runner opens.
        files: names of everything written; a folder's name stands for all files below it.
        io: runnable file -> its input and output; holds ``main_file``.
        delegation: what the accelerated backend takes of ``main_file``.
        tool_versions: package -> version that made the files.
        compiled: runnable file -> the NPU that it was compiled for; None where none is.
        notes: lines a reader of the report should see.
        canonical_sha256: of what ``main_file`` computes; None where :mod:`converters.graphs` cannot look into it.
    """

    main_file: str
    files: tuple[str, ...]
    io: dict[str, IoVariant]
    delegation: Delegation
    tool_versions: dict[str, str]
    compiled: dict[str, Compiled] | None = None
    notes: tuple[str, ...] = field(default=())
    canonical_sha256: str | None = None
