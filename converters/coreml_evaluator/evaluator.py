"""The evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edge_sr.errors import RunnerError

VERSION = "0.1"
NOTE = "x"
Precision = Literal["fp32", "fp16"]


class Evaluator:
    def __init__(self, package: Path, *, precision: Precision = "fp16", threads: int = 1) -> None:
        self.inputs: tuple[Any, ...] = ()
        self.outputs: tuple[Any, ...] = ()
        raise RunnerError("expected the evaluator, got none: it is being written")

    def run(self, inputs: Any) -> dict[str, Any]:
        raise NotImplementedError
