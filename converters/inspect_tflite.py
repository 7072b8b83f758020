"""What a TFLite file really holds: its arithmetic, read from the flatbuffer, and what XNNPACK takes, asked of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.artifact import Delegation
from converters.tflite_graph import Model, operator_name, read_model, type_name
from edge_sr.errors import ConversionError, MissingToolError, refuse_damaged
from edge_sr.quiet import quiet_native

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_INTEGERS = ("int8", "uint8")


@dataclass(frozen=True, kw_only=True)
class TFLiteSummary:
    """Arithmetic of one TFLite file.

    Attributes:
        size_bytes: of the file.
        ops: operator -> count, all of them.
        int8_ops: those whose first output is int8 or uint8 (without QUANTIZE).
        float_ops: those whose first output is float (without DEQUANTIZE).
        float_islands: connected groups of float operators.
        conversions: QUANTIZE and DEQUANTIZE between operators, those at the file's input and output left out.
        tensors: element type -> count, constants included.
        input_dtype, output_dtype: element types of the interface.
    """

    size_bytes: int
    ops: dict[str, int]
    int8_ops: dict[str, int]
    float_ops: dict[str, int]
    float_islands: int
    conversions: int
    tensors: dict[str, int]
    input_dtype: str
    output_dtype: str

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON-ready dict."""
        return asdict(self)


def inspect_tflite(path: Path) -> TFLiteSummary:
    """Read the operators and tensors of a TFLite file; no interpreter is involved.

    Raises:
        MissingToolError: ai-edge-litert is not installed.
        ConversionError: not a TFLite file.
    """
    with refuse_damaged(f"a TFLite file at {path}", ConversionError):
        return _summary(path, read_model(path))


def _summary(path: Path, model: Model) -> TFLiteSummary:
    graph = model.subgraphs[0]
    ops: Counter[str] = Counter()
    by_kind: dict[str, Counter[str]] = {"int": Counter(), "float": Counter()}
    floats, inner = [], 0
    borders = {int(index) for index in (*graph.inputs, *graph.outputs)}
    for operator in graph.operators:
        name, dtype = operator_name(model, operator), type_name(graph.tensors[operator.outputs[0]])
        ops[name] += 1
        if name in _CONVERSIONS:
            inner += not borders & {int(operator.inputs[0]), int(operator.outputs[0])}
        elif dtype in _INTEGERS:
            by_kind["int"][name] += 1
        elif dtype.startswith("float"):
            by_kind["float"][name] += 1
            floats.append(operator)
    return TFLiteSummary(
        size_bytes=Path(path).stat().st_size,
        ops=dict(ops),
        int8_ops=dict(by_kind["int"]),
        float_ops=dict(by_kind["float"]),
        float_islands=_count_islands(floats),
        conversions=inner,
        tensors=dict(Counter(type_name(tensor) for tensor in graph.tensors)),
        input_dtype=type_name(graph.tensors[graph.inputs[0]]),
        output_dtype=type_name(graph.tensors[graph.outputs[0]]),
    )


def delegation_of(path: Path) -> Delegation:
    """Ask the interpreter which operators XNNPACK takes, and in how many partitions.

    Raises:
        MissingToolError: ai-edge-litert is not installed.
        ConversionError: the interpreter refuses the file.
    """
    fused = _operators(path, fuse=True)
    partitions = [entry for entry in fused if entry["op_name"] == "DELEGATE"]
    # Without fusion every delegated operator becomes a DELEGATE of its own with the same outputs.
    single = _operators(path, fuse=False)
    taken = {int(index) for entry in single if entry["op_name"] == "DELEGATE" for index in entry["outputs"]}
    outside = Counter(
        entry["op_name"]
        for entry in single
        if entry["op_name"] != "DELEGATE" and not taken & {int(index) for index in entry["outputs"]}
    )
    return Delegation(delegates=len(partitions), ops_outside=dict(outside))


def _operators(path: Path, *, fuse: bool) -> list[dict[str, Any]]:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingToolError("asking for delegation needs ai-edge-litert; pip install ai-edge-litert") from None
    try:
        with quiet_native():
            interpreter = Interpreter(
                model_path=str(path), num_threads=1, experimental_disable_delegate_node_fusion=not fuse
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise ConversionError(f"expected a file that the interpreter takes, got {Path(path).name}: {line}") from None
    entries: list[dict[str, Any]] = interpreter._get_ops_details()
    return entries


def _count_islands(operators: list[Any]) -> int:
    """Groups of operators that share a tensor as output and input."""
    group = list(range(len(operators)))

    def root(node: int) -> int:
        while group[node] != node:
            node = group[node]
        return node

    made_by = {int(index): number for number, operator in enumerate(operators) for index in operator.outputs}
    for number, operator in enumerate(operators):
        for index in operator.inputs:
            if int(index) in made_by:
                group[root(number)] = root(made_by[int(index)])
    return len({root(number) for number in range(len(operators))})
