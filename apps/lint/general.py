"""Findings about a model as a whole: float islands inside int8, transposes, conversions, open shapes."""

from __future__ import annotations

from collections import Counter

from apps.lint import graph as roles
from apps.lint.accelerator import GraphCheck, whole_model
from apps.lint.graph import Graph, Op
from apps.lint.rules import DOCUMENTED, OBSERVED, WARNING, Finding, Requirement, Rule, needs

ISLANDS = Rule(
    id="float-island",
    severity=WARNING,
    confidence=OBSERVED,
    why="float operators between int8 ones need a conversion at each border, which reads and writes the whole tensor.",
    fix="quantize the operators too, or make the islands fewer and larger (w8a8 where the target takes them in int8).",
    source="xnnpack-asked",
)
TRANSPOSES = Rule(
    id="transpose",
    severity=WARNING,
    confidence=OBSERVED,
    why="a transpose computes nothing and moves every element through memory.",
    fix="keep one layout (NHWC for TFLite and XNNPACK, NCHW for Core ML); permute weights at export, not activations.",
    source="xnnpack-timed",
)
CONVERSIONS = Rule(
    id="requantize",
    severity=WARNING,
    confidence=OBSERVED,
    why="a conversion between two int8 scales computes nothing and moves every element through memory.",
    fix="share one scale between the operators that meet (a concatenation's inputs, a slice and its source).",
    source="xnnpack-asked",
)
DYNAMIC = Rule(
    id="dynamic-shape",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="an open dimension is fixed when the input is resized, and the delegate is then built anew: considerable "
    "overhead for XNNPACK, and other delegates refuse dynamic tensors.",
    fix="export fixed tiles (several signatures share weights).",
    source="xnnpack-readme",
)


def tap_advice(rule: Rule, most: int) -> tuple[Requirement, ...]:
    """A convolution whose kernel has more than ``most`` elements."""
    return needs(rule, lambda op: f"{op.taps} taps" if op.taps > most else None)


def float_islands(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    """Connected groups of float operators in a model that has int8 ones, and what their borders cost."""
    computing = [op for op in graph.ops if op.role not in roles.CONVERSIONS]
    floats = [op for op in computing if op.arithmetic in roles.FLOATS]
    if not floats or not any(op.arithmetic == "int8" for op in computing):
        return ()
    findings = []
    for island in _groups(graph, floats):
        borders = _borders(graph, island)
        if not borders or _is_interface(graph, island):
            continue
        moved = sum(op.output.elements for op in borders)
        transposes = sum(op.role == roles.TRANSPOSE for op in island)
        detail = (
            f"{_listed(island)} in float between {_listed(_around(graph, borders, island))}: "
            f"{len(borders)} conversion{'s' if len(borders) > 1 else ''} of {moved} elements"
            + (f", {transposes} transposes inside" if transposes else "")
        )
        findings.append(whole_model(ISLANDS, accelerator, detail, tuple(island)))
    return tuple(findings)


def transposes(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    """All transposes, with the elements they move per run."""
    found = tuple(op for op in graph.ops if op.role == roles.TRANSPOSE)
    moved = sum(op.output.elements for op in found)
    return (whole_model(TRANSPOSES, accelerator, f"{moved} elements moved per run", found),) if found else ()


def requantizations(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    """Conversions from int8 to int8; those at the interface are what an application asked for."""
    borders = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    found = tuple(
        op
        for op in graph.ops
        if op.role == roles.QUANTIZE
        and op.inputs[0] is not None
        and op.inputs[0].dtype in roles.INT8
        and not borders & {op.inputs[0].name, op.output.name}
    )
    moved = sum(op.output.elements for op in found)
    return (whole_model(CONVERSIONS, accelerator, f"{moved} elements converted per run", found),) if found else ()


def dynamic_shapes(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    """Inputs with open dimensions."""
    open_inputs = [tensor for tensor in graph.inputs if min(tensor.shape, default=1) < 0]
    if not open_inputs or graph.format == "coreml":
        return ()
    names = ", ".join(f"{tensor.name.partition('#')[0]} {list(tensor.shape)}" for tensor in open_inputs)
    readers = tuple(op for tensor in open_inputs for op in graph.readers.get(tensor.name, ()))
    return (whole_model(DYNAMIC, accelerator, f"open dimensions: {names}", readers),)


COMMON_CHECKS: tuple[GraphCheck, ...] = (float_islands, transposes, requantizations, dynamic_shapes)


def _groups(graph: Graph, ops: list[Op]) -> list[list[Op]]:
    """Connected groups, conversions between them not counted as a connection."""
    waiting = {op.index: op for op in ops}
    groups = []
    while waiting:
        stack = [waiting.pop(min(waiting))]
        group = []
        while stack:
            op = stack.pop()
            group.append(op)
            near = [other.index for other in graph.neighbours(op) if other.index in waiting]
            stack += [waiting.pop(index) for index in dict.fromkeys(near)]
        groups.append(sorted(group, key=lambda op: op.index))
    return groups


def _is_interface(graph: Graph, island: list[Op]) -> bool:
    """Scaling and clipping of pictures where the model begins or ends: an application wants them in float."""
    ends = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    casts = [op for member in island for op in graph.neighbours(member) if op.role == roles.CAST]
    touched = {tensor.name for op in (*island, *casts) for tensor in op.tensors}
    return not any(op.macs for op in island) and bool(ends & touched)


def _borders(graph: Graph, island: list[Op]) -> list[Op]:
    """Quantize and dequantize operators with the island on one side and an int8 operator on the other."""
    found = {}
    for op in island:
        for near in graph.neighbours(op):
            beyond = [other for other in graph.neighbours(near) if other.arithmetic == "int8"]
            if near.role in (roles.QUANTIZE, roles.DEQUANTIZE) and beyond:
                found[near.index] = near
    return [found[index] for index in sorted(found)]


def _around(graph: Graph, borders: list[Op], island: list[Op]) -> list[Op]:
    inside = {op.index for op in island}
    near = {
        op.index: op
        for border in borders
        for op in graph.neighbours(border)
        if op.index not in inside and op.role not in roles.CONVERSIONS
    }
    return [near[index] for index in sorted(near)]


def _listed(ops: list[Op]) -> str:
    counts = Counter(op.kind for op in ops)
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in counts.items()) or "nothing"
