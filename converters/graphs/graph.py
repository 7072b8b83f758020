"""What a model file computes, apart from how it is written down: one graph for all three formats, and its hash.

A TFLite file, an ExecuTorch program and a Core ML package are each read into a :class:`ComputeGraph` of values and
nodes, in which quantization belongs to the values. :func:`canonical_sha256` hashes only what decides the numbers that
come out: names, identifiers, the order of independent nodes, metadata and unused constants do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sr.errors import ArtifactError

Array = NDArray[Any]

# Digests recorded by this very release are compared at loading (:mod:`converters.graphs`), those of others are not.
CANONICAL_FORMAT = "edge-sr-graph-1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """``real = (stored - zero_point) * qscale``.

    Attributes:
        qscale: (n,) floats as stored: one, or one for each index of ``axis``.
        zero_point: (n,) whole numbers.
        axis: the axis that the scales belong to; 0 where there is one scale.
    """

    qscale: Array
    zero_point: Array
    axis: int = 0

    def __post_init__(self) -> None:
        if self.qscale.ndim != 1 or self.qscale.shape != self.zero_point.shape or self.qscale.size == 0:
            raise ArtifactError(
                f"expected as many zero points as scales, got {self.zero_point.shape} and {self.qscale.shape}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        name: for people; it does not change what is computed.
        dtype, shape: as the format has them.
        data: a constant's content, as stored.
        quantization: of what is stored.
        open_shape: the shape with -1 for each size that an application may choose; None where all are fixed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Array | None = field(default=None, repr=False)
    quantization: Quantization | None = None
    open_shape: tuple[int, ...] | None = None

    @property
    def real(self) -> Array:
        """A constant's numbers as the network means them, float64."""
        if self.data is None:
            raise ArtifactError(f"expected {self.name!r} to be a constant, got a computed value")
        stored = self.data.astype(np.float64)
        if self.quantization is None:
            return stored
        sizes = [1] * stored.ndim
        if self.quantization.qscale.size > 1:
            sizes[self.quantization.axis] = self.quantization.qscale.size
        zero_point = self.quantization.zero_point.astype(np.float64).reshape(sizes)
        return (stored - zero_point) * self.quantization.qscale.astype(np.float64).reshape(sizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One operation.

    Attributes:
        kind: as the format spells it.
        inputs: indices of values, in the order that means something to ``kind``; None where one is left out.
        outputs: indices of values.
        attributes: everything else that decides what it computes, JSON-ready.
        name: for people.
    """

    kind: str
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    attributes: Mapping[str, Any]
    name: str = ""

    def input_at(self, place: int, parameter: str) -> int | None:
        """Index of the value at ``place``, or of ``parameter`` where the format names its inputs (Core ML)."""
        names = self.attributes.get("parameters")
        if names is not None:
            place = names.index(parameter) if parameter in names else -1
        return self.inputs[place] if 0 <= place < len(self.inputs) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class ComputeGraph:
    """A network of one function.

    Attributes:
        values, nodes: in execution order.
        inputs, outputs: indices of values.
        interface: what a format says of inputs and outputs beside type and shape (order of colour channels).
        flexible: name of an input of several sizes -> how Core ML spells them, ``range`` or ``enumerated``.
    """

    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    interface: tuple[str, ...] = ()
    flexible: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = [*self.inputs, *self.outputs]
        for node in self.nodes:
            places += [*(place for place in node.inputs if place is not None), *node.outputs]
        outside = [place for place in places if not 0 <= place < len(self.values)]
        if outside or not all(node.outputs for node in self.nodes):
            wrong = f"one numbered {outside[0]}" if outside else "an operation without any"
            raise ArtifactError(f"expected {len(self.values)} values in the graph, got {wrong}: export it again")

    def operations(self) -> dict[str, int]:
        """Kind -> number of nodes, sorted by kind."""
        return dict(sorted(Counter(node.kind for node in self.nodes).items()))

    def constants(self) -> tuple[Value, ...]:
        """Constants that some node reads, each once, in the order of reading."""
        used = {index: None for node in self.nodes for index in node.inputs if index is not None}
        return tuple(self.values[index] for index in used if self.values[index].data is not None)


def canonical_sha256(graph: ComputeGraph, *, target: str) -> str:
    """A hash of what the graph computes.

    Every value's hash is made of the operation and the hashes of what it reads, down to the inputs and the bytes of the
    constants, so two graphs have one hash where their outputs are the same expression. Sizes that an application may
    choose beside those in the file are not part of it.

    Args:
        graph: of any size; nodes must come after what they read.
        target: part of the hash, because one expression may be computed by other kernels elsewhere.
    Raises:
        ArtifactError: a node reads a value that nothing before it makes.
    """
    digests: dict[int, str] = {}
    for position, index in enumerate(graph.inputs):
        digests[index] = _digest("input", position, _description(graph.values[index]))
    for node in graph.nodes:
        read = [None if index is None else _read(graph, digests, index, node) for index in node.inputs]
        body = _digest(node.kind, dict(node.attributes), read)
        for position, index in enumerate(node.outputs):
            digests[index] = _digest("output", position, body, _description(graph.values[index]))
    outputs = [_read(graph, digests, index, None) for index in graph.outputs]
    inputs = [_description(graph.values[index]) for index in graph.inputs]
    return _digest(CANONICAL_FORMAT, target, list(graph.interface), inputs, outputs)


def _read(graph: ComputeGraph, digests: dict[int, str], index: int, node: Node | None) -> str:
    if index not in digests:
        value = graph.values[index]
        if value.data is None:
            reader = "the result" if node is None else f"{node.kind} {node.name!r}"
            raise ArtifactError(f"expected {reader} to read a value made before, got {value.name!r}: export it again")
        content = hashlib.sha256(np.ascontiguousarray(value.data).tobytes()).hexdigest()
        digests[index] = _digest("constant", content, _description(value))
    return digests[index]


def _description(value: Value) -> list[Any]:
    """Type, shape and grid of a value; the scales as the bits they are stored in."""
    grid = value.quantization
    quantization = None
    if grid is not None:
        axis = grid.axis if grid.qscale.size > 1 else 0
        scales = np.ascontiguousarray(grid.qscale)
        quantization = [str(scales.dtype), scales.tobytes().hex(), [int(point) for point in grid.zero_point], axis]
    return [value.dtype, list(value.shape), quantization]


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
