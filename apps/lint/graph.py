"""One picture of a model file for all rules: operators in execution order, their tensors and their arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

FLOATS = ("float32", "float16", "bfloat16")
INT8 = ("int8", "uint8")
# What an operator does, where rules of several accelerators ask for it.
TRANSPOSE, QUANTIZE, DEQUANTIZE, CAST, OTHER = "transpose", "quantize", "dequantize", "cast", "other"
CONVERSIONS = (QUANTIZE, DEQUANTIZE, CAST)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A value.

    Attributes:
        name: as in the file; unique.
        dtype: ``float32``, ``int8``, ...
        shape: dimensions; -1 where the file leaves one open.
        constant: whether the file holds its value.
        scales: of quantization, one entry per channel or a single one; empty where there is none.
        value: elements of a small constant of integers (axes, paddings), flat; None otherwise.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bool = False
    scales: tuple[float, ...] = ()
    value: tuple[int, ...] | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements, open dimensions counted as one."""
        return prod(max(size, 1) for size in self.shape)


@dataclass(frozen=True, kw_only=True)
class Op:
    """An operator.

    Attributes:
        index: position in execution order.
        kind: its name in the file's own vocabulary: ``CONV_2D``, ``conv``, ``XNNConv2d``, ``aten::mean``.
        name: of the tensor it makes first, or its own where the format has one.
        role: one of this module's role names.
        inputs: with None where an optional one is absent.
        options: attributes by the format's names, and ``interface``: whether it reads an input or makes an output.
        version: of the operator (TFLite), 1 elsewhere.
        arithmetic: ``int8`` where it computes on 8-bit values, else the float type, else the integer type.
        macs: multiply-accumulates of one run.
        taps: kernel height times width of a convolution, 0 otherwise.
        settled: None where the runtime decides on the device; else whether the file already hands it to a delegate.
    """

    index: int
    kind: str
    name: str
    role: str = OTHER
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    arithmetic: str
    macs: int = 0
    taps: int = 0
    settled: bool | None = None

    @property
    def output(self) -> Tensor:
        return self.outputs[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs that are there, then outputs."""
        return (*(tensor for tensor in self.inputs if tensor is not None), *self.outputs)

    @property
    def computed_inputs(self) -> tuple[Tensor, ...]:
        """Inputs whose value is not in the file."""
        return tuple(tensor for tensor in self.inputs if tensor is not None and not tensor.constant)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A model: ``format`` is ``tflite``, ``coreml`` or ``executorch``; ``inputs`` and ``outputs`` its interface.

    ``delegates`` is the number of partitions that the file already fixes (ExecuTorch), None elsewhere. ``flexible``
    says of each input with several allowed shapes how it is spelled (``range``, ``enumerated``).
    """

    format: str
    ops: tuple[Op, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    delegates: int | None = None
    flexible: dict[str, str] = field(default_factory=dict)

    @cached_property
    def producers(self) -> dict[str, Op]:
        """Tensor name -> operator that makes it."""
        return {tensor.name: op for op in self.ops for tensor in op.outputs}

    @cached_property
    def readers(self) -> dict[str, tuple[Op, ...]]:
        """Tensor name -> operators that read it."""
        found: dict[str, tuple[Op, ...]] = {}
        for op in self.ops:
            for name in {tensor.name for tensor in op.inputs if tensor is not None}:
                found[name] = (*found.get(name, ()), op)
        return found

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.ops)

    def neighbours(self, op: Op) -> tuple[Op, ...]:
        """Operators that feed ``op`` or read what it makes."""
        before = [self.producers[tensor.name] for tensor in op.computed_inputs if tensor.name in self.producers]
        after = [reader for tensor in op.outputs for reader in self.readers.get(tensor.name, ())]
        return (*before, *after)
