"""Run a saved ``.mlpackage``: pictures or tensors in, pictures or tensors out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from converters.coreml_evaluator.features import Feature, Picture, from_value, read_feature, to_value
from converters.coreml_evaluator.program import Step, compile_program
from converters.coreml_evaluator.value_types import rounded
from converters.mil_reader import MilPackage, Operation
from edge_sr.errors import ArtifactError, ConfigError, ShapeError, refuse_damaged

VERSION = "0.1"
# For reports, beside every number that comes of an evaluation.
NOTE = (
    "The Core ML evaluator executes the package's operations and weights one by one, sums in float32 and rounds every "
    "float16 value of the program to float16. Core ML may fuse operations, sum in another order or in float16, and use "
    "other approximations, the Neural Engine above all: its results may differ in the last bits."
)
Precision = Literal["fp32", "fp16"]
# Sees an operation and its results.
Observer = Callable[[Operation, tuple[Tensor, ...]], None]
# Sees an operation, the name of a value that it is about to read and that value; gives another in its place, or None.
Replacer = Callable[[Operation, str, Tensor], Tensor | None]


class Evaluator:
    """A function of an ML program, executed operation by operation in torch, on any operating system.

    Everything is checked before anything runs: that each operation, attribute and type is one that the evaluator knows,
    and that each declared type is the one that the operation makes. Declared shapes are checked as values are made.

    What it computes is what the program says, not what a device does: see :data:`NOTE`. The Neural Engine's order of
    summation and its arithmetic may differ.

    Attributes:
        inputs, outputs: what :meth:`run` takes and gives.
        operations: those that are left to run, in order; what depends on constants alone was done at construction.
    """

    def __init__(
        self, package: Path, *, precision: Precision = "fp16", threads: int = 1, function: str | None = None
    ) -> None:
        """Read and check the package, and decode its weights.

        Args:
            package: an ``.mlpackage`` that holds an ML program.
            precision: "fp16" rounds every value of type float16 to float16 after the operation that made it, as the
                program's types say; "fp32" leaves them as float32, which shows what float16 costs. Operations compute
                and accumulate in float32 inside, either way.
            threads: CPU threads of torch while :meth:`run` runs.
            function: of a package with several; None for its default.
        Raises:
            ArtifactError: the package is damaged or contradicts itself.
            RunnerError: it has operations, attributes or types that the evaluator does not know; names the first with
                its location.
            MissingToolError: coremltools, which brings the protobuf classes, is not installed.
        """
        if precision not in get_args(Precision):
            raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.path, self.precision, self.threads = package, precision, threads
        self._halve = precision == "fp16"
        with refuse_damaged(f"a Core ML package at {package}", ArtifactError):
            mil = MilPackage(package, function)
            with _threads(threads), torch.no_grad():
                self._program = compile_program(mil, halve=self._halve)
            inputs, outputs = mil.features
            self.inputs = tuple(self._feature(each) for each in inputs)
            self.outputs = tuple(self._feature(each) for each in outputs)
        missing = set(mil.input_types) - {feature.name for feature in self.inputs}
        if missing:
            raise ArtifactError(f"expected a description of input {min(missing)!r} in {package}: export it again")
        self.operations: tuple[Operation, ...] = tuple(step.operation for step in self._program.steps)

    def run(
        self,
        inputs: Mapping[str, Tensor | np.ndarray[Any, Any]],
        *,
        observe: Observer | None = None,
        replace: Replacer | None = None,
    ) -> dict[str, Tensor | Picture]:
        """Evaluate the function.

        Args:
            inputs: one per input: (h, w, 3) uint8 RGB for a picture ((h, w) for a grey one), else a tensor.
            observe: called with every operation and its results, which it must not change. Floats of either width are
                float32 tensors; in "fp16" precision those of type float16 hold float16 values.
            replace: called before an operation reads a value; gives the value to read in its place, of the same shape
                and held in the same torch type, or None. A float16 one is rounded.
        Returns:
            output -> (h, w, 3) uint8 RGB for a picture, else a tensor of the described type.
        Raises:
            ShapeError: an input is missing, unknown, or of another shape or type.
            ArtifactError: an operation made another shape or type than the program declares; names it.
            RunnerError: an operation failed, or an output is NaN or infinite; names it.
        """
        with _threads(self.threads), torch.no_grad():
            given = self._values(inputs)
            values = self._execute(given, observe, replace)
            return {
                feature.name: from_value(feature, values[feature.name], lambda: self._blame(given, replace))
                for feature in self.outputs
            }

    def _feature(self, proto: Any) -> Feature:
        value_type = self._program.types.get(proto.name)
        if value_type is None:
            raise ArtifactError(f"expected a value {proto.name!r} in {self.path}, got none: export it again")
        return read_feature(proto, value_type, str(self.path))

    def _values(self, inputs: Mapping[str, Tensor | np.ndarray[Any, Any]]) -> dict[str, Tensor]:
        expected = {feature.name for feature in self.inputs}
        if set(inputs) != expected:
            raise ShapeError(
                f"expected inputs {', '.join(sorted(expected))}, got {', '.join(sorted(inputs)) or 'none'}"
            )
        return {feature.name: to_value(feature, inputs[feature.name], halve=self._halve) for feature in self.inputs}

    def _execute(
        self, given: Mapping[str, Tensor], observe: Observer | None, replace: Replacer | None
    ) -> dict[str, Tensor]:
        values = {**self._program.constants, **given}
        for step in self._program.steps:
            operands = [values[name] for name in step.sources]
            if replace is not None:
                operands = [
                    self._replaced(step, name, value, replace)
                    for name, value in zip(step.sources, operands, strict=True)
                ]
            results = step.run(operands)
            for (name, _), result in zip(step.operation.outputs, results, strict=True):
                values[name] = result
            if observe is not None:
                observe(step.operation, results)
            for name in step.dies:
                del values[name]
        return values

    def _replaced(self, step: Step, name: str, value: Tensor, replace: Replacer) -> Tensor:
        other = replace(step.operation, name, value)
        if other is None:
            return value
        if other.shape != value.shape or other.dtype != value.dtype:
            raise ShapeError(
                f"expected {tuple(value.shape)} {value.dtype} for {name!r} of {step.where}, got {tuple(other.shape)} "
                f"{other.dtype}"
            )
        return rounded(other) if self._halve and self._program.types[name].dtype == "float16" else other

    def _blame(self, given: Mapping[str, Tensor], replace: Replacer | None) -> str:
        """Where NaN or infinity appeared first; found by running once more, which only a failure has to pay."""
        found: list[str] = []

        def look(operation: Operation, results: tuple[Tensor, ...]) -> None:
            if not found and not all(bool(torch.isfinite(each).all()) for each in results):
                found.append(f": it appears first in {operation.kind} {operation.name!r}")

        self._execute(given, look, replace)
        return (found or [" in an input"])[0] + f" of {self.path}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Inside, torch computes with this many threads; it has one number for the whole process."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)
