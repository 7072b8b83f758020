"""What a builder sees of an operation, and what it makes of it.

A builder takes a :class:`Node`, checks every attribute, and returns a :class:`Kernel`. All builders of a program are
called before anything is computed, so that a program is refused as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Never

from torch import Tensor

from converters.coreml_evaluator.value_types import FLOATS, INTEGER_RANGES
from converters.mil_reader import Operation, TensorType
from edge_sr.errors import ArtifactError, RunnerError

Compute = Callable[..., Tensor | Sequence[Tensor]]
_REQUIRED: Any = object()


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """An operation ready to run.

    Attributes:
        parameters: those whose values ``compute`` takes, in order; one that names several values gives as many.
        compute: values -> the operation's result, or a sequence of its results. Never changes a value it is given.
        dtypes: MIL types of the results that this operation makes of its operands; () for that of the first operand.
        exact: each result is a float16 where the operands are, so nothing has to be rounded.
    """

    parameters: tuple[str, ...]
    compute: Compute
    dtypes: tuple[str, ...] = ()
    exact: bool = False


Builder = Callable[["Node"], Kernel]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation in its program.

    Attributes:
        operation: as it was read.
        where: the operation's kind, name and location, for messages.
        opset: such as "CoreML7" (iOS 17).
        operands: parameter -> names of the values it takes, constants included.
        types: value -> its type, for every value known so far.
        constants: value -> what it is, for every value that is known before the program runs.
    """

    operation: Operation
    where: str
    opset: str
    operands: Mapping[str, tuple[str, ...]]
    types: Mapping[str, TensorType]
    constants: Mapping[str, Tensor | str]

    def has(self, parameter: str) -> bool:
        """Whether the parameter is given."""
        return parameter in self.operands

    def given(self, *parameters: str) -> tuple[str, ...]:
        """Those of the parameters that are given, in this order."""
        return tuple(parameter for parameter in parameters if parameter in self.operands)

    def type_of(self, parameter: str) -> TensorType:
        """Type of a parameter's first value."""
        if not self.operands.get(parameter):
            self.damaged(f"a parameter {parameter!r}", "none")
        return self.types[self.operands[parameter][0]]

    def rank(self, parameter: str) -> int:
        return len(self.type_of(parameter).shape)

    @property
    def newer_than_ios16(self) -> bool:
        """Whether the operation is of the iOS 17 set or a later one."""
        digits = self.opset.removeprefix("CoreML")
        return digits.isdigit() and int(digits) >= 7

    def text(self, parameter: str, default: str = _REQUIRED, *, allowed: Sequence[str]) -> str:
        """A constant string, one of ``allowed``."""
        value = self._constant(parameter, default)
        if value not in allowed:
            self.unsupported(f"{parameter} to be one of {', '.join(allowed)}", repr(value))
        return str(value)

    def integer(self, parameter: str, default: int = _REQUIRED) -> int:
        return int(self._constant(parameter, default))

    def number(self, parameter: str, default: float = _REQUIRED) -> float:
        return float(self._constant(parameter, default))

    def flag(self, parameter: str, default: bool = _REQUIRED) -> bool:
        return bool(self._constant(parameter, default))

    def integers(self, parameter: str, default: Sequence[int] = _REQUIRED) -> tuple[int, ...]:
        """A constant vector, or a scalar as a vector of one."""
        value = self._constant(parameter, default)
        values = value.reshape(-1).tolist() if isinstance(value, Tensor) else value
        return tuple(int(each) for each in values)

    def tensor(self, parameter: str) -> Tensor:
        """A constant tensor."""
        value = self._constant(parameter, _REQUIRED)
        if not isinstance(value, Tensor):
            self.damaged(f"{parameter} to be a tensor", repr(value))
        return value

    def axis(self, parameter: str, default: int = _REQUIRED, *, of: str = "x", extra: int = 0) -> int:
        """A constant axis of the parameter ``of``, counted from 0; ``extra`` axes may follow the last."""
        return self.checked_axis(self.integer(parameter, default), self.rank(of) + extra)

    def checked_axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            self.damaged(f"an axis of {rank}", str(axis))
        return axis % rank

    def require_floats(self, *parameters: str) -> None:
        """Make sure that what is given of these parameters is float and all of one type."""
        found = sorted({self.types[name].dtype for each in self.given(*parameters) for name in self.operands[each]})
        if len(found) != 1 or found[0] not in FLOATS:
            self.unsupported(f"float values of one type for {', '.join(parameters)}", " and ".join(found) or "none")

    def require_one_type(self, *parameters: str) -> None:
        found = sorted({self.types[name].dtype for each in self.given(*parameters) for name in self.operands[each]})
        if len(found) != 1:
            self.unsupported(f"values of one type for {', '.join(parameters)}", " and ".join(found) or "none")

    def require_integers(self, parameter: str) -> None:
        if self.type_of(parameter).dtype not in INTEGER_RANGES:
            self.unsupported(f"whole numbers for {parameter}", self.type_of(parameter).dtype)

    def unsupported(self, expected: str, got: str) -> Never:
        """Raise RunnerError: the program may be right, but this evaluator cannot do it."""
        raise RunnerError(f"expected {expected} in {self.where}, got {got}: the evaluator knows no other")

    def damaged(self, expected: str, got: str) -> Never:
        """Raise ArtifactError: no converter writes such a program."""
        raise ArtifactError(f"expected {expected} in {self.where}, got {got}: export it again")

    def _constant(self, parameter: str, default: Any) -> Any:
        names = self.operands.get(parameter, ())
        if not names:
            if default is _REQUIRED:
                self.damaged(f"a parameter {parameter!r}", "none")
            return default
        if names[0] not in self.constants:
            self.unsupported(f"a constant {parameter}", f"the computed value {names[0]!r}")
        return self.constants[names[0]]
