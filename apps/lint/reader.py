"""A model file as the rules see it, made of the compute graph that :mod:`converters.graphs` reads of any format."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from apps.lint import graph as roles
from apps.lint.graph import Graph, Op, Tensor
from converters.graphs import read_graph
from converters.graphs.executorch_reader import ExecuTorchProgram
from converters.graphs.graph import ComputeGraph, Node, Value
from converters.graphs.summary import COMMON_NAMES, WEIGHT_AXES
from edge_sr.errors import ArtifactError, refuse_damaged

# Types by XNNPACK's names and by ExecuTorch's; any other name is the one used here, in lower case.
_DTYPES = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "qint8": "int8",
    "quint8": "uint8",
    "qcint8": "int8",
    "qint32": "int32",
    "qcint32": "int32",
    "FLOAT": "float32",
    "HALF": "float16",
    "CHAR": "int8",
    "BYTE": "uint8",
}
_ROLES = (roles.TRANSPOSE, roles.QUANTIZE, roles.DEQUANTIZE, roles.CAST)
_MATRIX_PRODUCTS = ("BATCH_MATMUL", "BatchMatrixMultiply", "matmul")
# Transposed convolutions: axis of the weight's output channels (of one group), axis of its input channels.
_TRANSPOSED_AXES = {"TRANSPOSE_CONV": (0, 3), "ConvTranspose2d": (0, 3), "conv_transpose": (1, 0)}
# Core ML fuses these with what comes before them, so int8 ends behind them and not in front.
_FUSED_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "clip", "prelu")
# Axes, paddings and shapes have at most this many elements.
_SMALL = 32


def read_operators(path: Path, target: str) -> Graph:
    """Read the operators and tensors of a model file (or ``.mlpackage``) of ``target``; nothing is run.

    Raises:
        ConfigError: there is no such target.
        ArtifactError: damaged, not of this format, or with a delegate of which no rules are known.
        MissingToolError: the package that brings the format's schema is not installed.
    """
    with refuse_damaged(f"a model file of {target} at {path}", ArtifactError):
        if target == "executorch":
            return _read_program(ExecuTorchProgram(path))
        graph = read_graph(path, target)
        # Names may repeat in a TFLite file; positions do not.
        tensors = _tensors(graph, "{name}#{index}" if target == "tflite" else "{name}")
        return Graph(
            format=target,
            ops=tuple(_ops(graph, tensors, target)),
            inputs=tuple(tensors[index] for index in graph.inputs),
            outputs=tuple(tensors[index] for index in graph.outputs),
            flexible=dict(graph.flexible),
        )


def _read_program(program: ExecuTorchProgram) -> Graph:
    """All pieces of an ExecuTorch program: what its delegates hold, and the kernels called between them."""
    plan, ops, delegates = program.plan, list[Op](), 0
    for instruction in (step for chain in plan["chains"] for step in chain["instructions"]):
        kind, arguments = instruction["instr_args"]
        if kind == "DelegateCall":
            delegates += 1
            graph = program.delegate_graph(plan["delegates"][arguments["delegate_index"]])
            ops += _ops(graph, _tensors(graph, f"delegate{delegates}_{{index}}"), "executorch", first=len(ops))
        elif kind == "KernelCall":
            ops.append(_kernel_op(plan, arguments, len(ops)))
    return Graph(
        format="executorch",
        ops=tuple(ops),
        inputs=tuple(_plan_tensor(plan, index) for index in plan["inputs"]),
        outputs=tuple(_plan_tensor(plan, index) for index in plan["outputs"]),
        delegates=delegates,
    )


def _kernel_op(plan: dict[str, Any], arguments: dict[str, Any], index: int) -> Op:
    entry = plan["operators"][arguments["op_index"]]
    places = [place for place in arguments["args"] if plan["values"][place]["val"][0] == "Tensor"]
    tensors = [_plan_tensor(plan, place) for place in places]
    output = tensors[-1] if tensors else Tensor(name=f"kernel_{index}", dtype="unknown", shape=())
    return Op(
        index=index,
        kind=".".join(part for part in (entry["name"], entry["overload"]) if part),
        name=output.name,
        inputs=tuple(dict.fromkeys(tensors[:-1])),
        outputs=(output,),
        arithmetic=_stored_in(output),
        settled=False,
    )


def _plan_tensor(plan: dict[str, Any], index: int) -> Tensor:
    _, value = plan["values"][index]["val"]
    sizes = () if value["sizes"] is None else tuple(int(size) for size in value["sizes"])
    return Tensor(
        name=f"value_{index}",
        dtype=_DTYPES.get(value["scalar_type"], value["scalar_type"].lower()),
        shape=sizes if value["shape_dynamism"] == "STATIC" else tuple(-1 for _ in sizes),
        constant=bool(value["data_buffer_idx"]),
    )


def _tensors(graph: ComputeGraph, label: str) -> tuple[Tensor, ...]:
    return tuple(_tensor(value, label.format(name=value.name, index=index)) for index, value in enumerate(graph.values))


def _tensor(value: Value, name: str) -> Tensor:
    grid, data = value.quantization, value.data
    small = value.dtype in ("int32", "int64") and data is not None and data.size <= _SMALL
    return Tensor(
        name=name,
        dtype=_DTYPES.get(value.dtype, value.dtype),
        shape=value.shape if value.open_shape is None else value.open_shape,
        constant=data is not None,
        scales=() if grid is None else tuple(map(float, grid.qscale)),
        value=tuple(map(int, data.ravel())) if small and data is not None else None,
    )


def _ops(graph: ComputeGraph, tensors: tuple[Tensor, ...], target: str, *, first: int = 0) -> list[Op]:
    """The operators of a graph whose values are ``tensors``; ``first`` is the index of the first one."""
    ends = {*graph.inputs, *graph.outputs}
    in_delegate = target == "executorch"
    made_by: dict[str, Op] = {}
    ops: list[Op] = []
    for index, node in enumerate(graph.nodes, first):
        inputs = tuple(None if place is None else tensors[place] for place in node.inputs)
        outputs = tuple(tensors[place] for place in node.outputs)
        sources = [made_by.get(tensor.name) for tensor in inputs if tensor is not None and not tensor.constant]
        macs, taps = _work(node, tensors)
        op = Op(
            index=index,
            kind=f"XNN{node.kind}" if in_delegate else node.kind,
            name=outputs[0].name if in_delegate else node.name,
            role=_role(node, inputs, outputs[0]),
            inputs=inputs,
            outputs=outputs,
            options={**_options(node, inputs), "interface": bool(ends & {*node.inputs, *node.outputs})},
            version=int(node.attributes.get("version", 1)),
            arithmetic=_arithmetic(node, sources, outputs[0], target),
            macs=macs,
            taps=taps,
            settled=True if in_delegate else None,
        )
        ops.append(op)
        made_by |= {tensor.name: op for tensor in outputs}
    return ops


def _options(node: Node, inputs: tuple[Tensor | None, ...]) -> dict[str, Any]:
    """Attributes; where parameters are inputs (Core ML), the constants among them that are small and whole, too."""
    parameters = zip(node.attributes.get("parameters", ()), inputs, strict=False)
    small = {name: tensor.value for name, tensor in parameters if tensor is not None and tensor.value is not None}
    return {**node.attributes, **small}


def _role(node: Node, inputs: tuple[Tensor | None, ...], output: Tensor) -> str:
    if node.kind == "Convert":  # XNNPACK's one operator for all conversions
        if output.dtype in roles.INT8:
            return roles.QUANTIZE
        return roles.DEQUANTIZE if inputs[0] is not None and inputs[0].dtype in roles.INT8 else roles.CAST
    common = COMMON_NAMES.get(node.kind, node.kind)
    return common if common in _ROLES else roles.OTHER


def _arithmetic(node: Node, sources: list[Op | None], output: Tensor, target: str) -> str:
    """What an operator computes in; Core ML spells int8 as dequantize, operator and quantize."""
    if target == "coreml":
        if sources and all(source is not None and source.role == roles.DEQUANTIZE for source in sources):
            return "int8"
        if node.kind in _FUSED_ACTIVATIONS and len(sources) == 1 and sources[0] is not None:
            return sources[0].arithmetic
        if node.kind == "dequantize":
            return "int8"
    return _stored_in(output)


def _stored_in(output: Tensor) -> str:
    return "int8" if output.dtype in roles.INT8 else output.dtype


def _work(node: Node, tensors: tuple[Tensor, ...]) -> tuple[int, int]:
    """Multiply-accumulates of one run, and elements of a convolution's kernel; 0 where there are none."""
    output = tensors[node.outputs[0]]
    first, second = node.input_at(0, "x"), node.input_at(1, "weight")
    if node.kind in _MATRIX_PRODUCTS and first is not None:
        return tensors[first].elements * output.shape[-1], 0
    axes = _TRANSPOSED_AXES.get(node.kind) or WEIGHT_AXES.get(node.kind, ())[:2]
    if not axes or second is None or tensors[second].rank <= max(axes):
        return 0, 0
    weight = tensors[second]
    out, inner = (weight.shape[axis] for axis in axes)
    kernel = prod(size for axis, size in enumerate(weight.shape) if axis not in axes)
    taps = kernel if weight.rank == 4 else 0
    if node.kind not in _TRANSPOSED_AXES:
        return output.elements * inner * kernel, taps
    # TFLite puts the picture last; XNNPACK's weights hold the output channels of all groups.
    source = node.inputs[2] if node.kind == "TRANSPOSE_CONV" else first
    spread = int(node.attributes.get("group_output_channels", out)) * kernel
    return 0 if source is None else tensors[source].elements * spread, taps
