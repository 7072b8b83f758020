"""TFLite flatbuffers, read and edited with the schema classes that ai-edge-litert ships.

Three edits, none of which changes a number: readable names, DEPTH_TO_SPACE in place of a chain of transposes, and other
types at the input and output of an int8 model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_sr.errors import ConversionError, MissingToolError

# The schema's object API has no types: a model, a graph, an operator and a tensor are Any here.
Model = Any
Graph = Any
Operator = Any

# Of the operators that edits add: the first version that takes int8. The reference kernels (ai-edge-litert 2.3.0) know
# DEPTH_TO_SPACE in version 1 only.
_VERSIONS = {"QUANTIZE": 2, "DEQUANTIZE": 2, "DEPTH_TO_SPACE": 1}
_ELEMENTWISE = ("ADD", "SUB", "MUL", "RELU", "RELU6", "MINIMUM", "MAXIMUM", "LOGISTIC", "QUANTIZE", "DEQUANTIZE")


def schema() -> Any:
    """The generated schema module.

    Raises:
        MissingToolError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingToolError("reading TFLite files needs ai-edge-litert; pip install ai-edge-litert") from None
    return schema_py_generated


def read_model(path: Path) -> Model:
    """Unpack a flatbuffer; ConversionError where the file is not one."""
    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise ConversionError(f"expected a TFLite file at {path}, got something else; export it again")
    return schema().ModelT.InitFromPackedBuf(data, 0)


def write_model(model: Model, path: Path) -> None:
    """Pack ``model`` into the file ``path``."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def only_graph(model: Model) -> Graph:
    """The one graph of a model with one input and one output; ConversionError where it has more."""
    graph = model.subgraphs[0]
    if len(model.subgraphs) != 1 or len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ConversionError(
            f"expected one graph with one input and one output, got {len(model.subgraphs)} with "
            f"{len(graph.inputs)} and {len(graph.outputs)}"
        )
    return graph


def operator_name(model: Model, operator: Operator) -> str:
    """Schema name of an operator, ``CONV_2D`` for example."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _name_of(schema().BuiltinOperator, number)


def type_name(tensor: Any) -> str:
    """Lower-case element type of a tensor, ``int8`` for example."""
    return _name_of(schema().TensorType, tensor.type).lower()


def _name_of(enumeration: type, number: int) -> str:
    return next(name for name, value in vars(enumeration).items() if value == number)


def constant(model: Model, graph: Graph, index: int) -> npt.NDArray[Any] | None:
    """Value of a constant tensor, or None for one that is computed."""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    return np.frombuffer(bytes(data), np.dtype(type_name(tensor))).reshape(tuple(tensor.shape))


def producers(graph: Graph) -> dict[int, Operator]:
    """Tensor index -> operator that computes it."""
    return {int(index): operator for operator in graph.operators for index in operator.outputs}


def consumers(graph: Graph, index: int) -> list[Operator]:
    """Operators that read a tensor."""
    return [operator for operator in graph.operators if index in list(operator.inputs)]


def name_interface(model: Model, *, description: str) -> None:
    """Call the input ``input`` and the output ``output`` everywhere, and describe the model."""
    graph = only_graph(model)
    model.description = description
    for index, name in ((graph.inputs[0], "input"), (graph.outputs[0], "output")):
        graph.tensors[index].name = name
        for entry in _signature_entries(model, int(index)):
            entry.name = name


def change_interface(model: Model, dtype: str) -> None:
    """Give an int8 model a ``uint8`` or ``float32`` input and output.

    One QUANTIZE in front and one QUANTIZE or DEQUANTIZE at the end convert; between them nothing changes. uint8 keeps
    scale 1/255 with zero point 0, so its levels are those of a bitmap.
    """
    graph = only_graph(model)
    number = getattr(schema().TensorType, dtype.upper())
    inner_input, inner_output = int(graph.inputs[0]), int(graph.outputs[0])
    outer_input = _add_interface_tensor(graph, inner_input, number)
    outer_output = _add_interface_tensor(graph, inner_output, number)
    first = _new_operator(model, "QUANTIZE", [outer_input], [inner_input])
    last = _new_operator(model, "DEQUANTIZE" if dtype == "float32" else "QUANTIZE", [inner_output], [outer_output])
    graph.operators = [first, *graph.operators, last]
    for old, new in ((inner_input, outer_input), (inner_output, outer_output)):
        for entry in _signature_entries(model, old):
            entry.tensorIndex = new
        graph.tensors[old].name = "input_int8" if old == inner_input else "output_int8"
    graph.inputs, graph.outputs = [outer_input], [outer_output]


def fuse_depth_to_space(model: Model) -> bool:
    """Replace the transposes and reshapes that spell a final pixel shuffle by one DEPTH_TO_SPACE.

    The converter (litert-torch 0.10.0) writes a pixel shuffle as four TRANSPOSE and three RESHAPE. DEPTH_TO_SPACE wants
    the channels in another order, which is given to the convolutions before it: the numbers stay the same.

    Returns:
        whether the pattern was there; the model is unchanged where it was not.
    """
    graph = only_graph(model)
    made_by = producers(graph)
    chain, source = _moving_tail(model, graph, made_by)
    order = _channel_order(model, graph, chain, source) if chain else None
    if order is None:
        return False
    convolutions = _feeding_convolutions(model, graph, made_by, source, reader=chain[0])
    if convolutions is None:
        return False
    for operator in convolutions:
        _reorder_filters(model, graph, operator, order)
    tail = _new_operator(model, "DEPTH_TO_SPACE", [source], [int(graph.outputs[0])])
    tail.builtinOptionsType = schema().BuiltinOptions.DepthToSpaceOptions
    tail.builtinOptions = schema().DepthToSpaceOptionsT()
    tail.builtinOptions.blockSize = int(graph.tensors[graph.outputs[0]].shape[1] // graph.tensors[source].shape[1])
    graph.operators = [operator for operator in graph.operators if not _among(operator, chain)] + [tail]
    return True


def _moving_tail(model: Model, graph: Graph, made_by: dict[int, Operator]) -> tuple[list[Operator], int]:
    """The TRANSPOSE and RESHAPE operators that end the graph, in order, and the tensor they start from."""
    chain: list[Operator] = []
    index = int(graph.outputs[0])
    while index in made_by and operator_name(model, made_by[index]) in ("TRANSPOSE", "RESHAPE"):
        if chain and len(consumers(graph, index)) != 1:
            break
        chain.insert(0, made_by[index])
        index = int(made_by[index].inputs[0])
    return chain, index


def _channel_order(model: Model, graph: Graph, chain: list[Operator], source: int) -> npt.NDArray[np.int64] | None:
    """Order of channels under which ``chain`` is a DEPTH_TO_SPACE, found by sending element numbers through it."""
    before, after = graph.tensors[source].shape, graph.tensors[graph.outputs[0]].shape
    if len(before) != 4 or len(after) != 4 or before[0] != 1 or after[1] % before[1] or after[2] % before[2]:
        return None
    _, height, width, depth = (int(size) for size in before)
    block, colors = int(after[1]) // height, int(after[3])
    if block < 2 or block != int(after[2]) // width or block * block * colors != depth:
        return None
    numbers = np.arange(height * width * depth).reshape(1, height, width, depth)
    for operator in chain:
        if operator_name(model, operator) == "TRANSPOSE":
            axes = constant(model, graph, operator.inputs[1])
            if axes is None:
                return None
            numbers = numbers.transpose(axes)
        else:
            numbers = numbers.reshape(tuple(graph.tensors[operator.outputs[0]].shape))
    blocks = numbers.reshape(height, block, width, block, colors).transpose(0, 2, 1, 3, 4).reshape(-1, depth)
    order: npt.NDArray[np.int64] = blocks[0].copy()
    starts = np.arange(height * width)[:, None] * depth
    return order if order.max() < depth and np.array_equal(blocks, starts + order) else None


def _feeding_convolutions(
    model: Model, graph: Graph, made_by: dict[int, Operator], index: int, *, reader: Operator
) -> list[Operator] | None:
    """Convolutions whose output channels reach ``index`` in place, or None where anything else reads or makes them."""
    operator = made_by.get(index)
    if operator is None or any(other is not reader for other in consumers(graph, index)):
        return None
    name = operator_name(model, operator)
    if name == "CONV_2D":
        return [operator] if all(_is_unshared(graph, int(part)) for part in operator.inputs[1:]) else None
    if name not in _ELEMENTWISE:
        return None
    found: list[Operator] = []
    for part in operator.inputs:
        value = constant(model, graph, part)
        if value is not None and value.size == 1:
            continue
        if list(graph.tensors[part].shape) != list(graph.tensors[index].shape):
            return None
        below = None if value is not None else _feeding_convolutions(model, graph, made_by, int(part), reader=operator)
        if below is None:
            return None
        found += [other for other in below if not _among(other, found)]
    return found


def _is_unshared(graph: Graph, index: int) -> bool:
    """Whether exactly one operator reads this constant, and no other tensor its buffer."""
    buffer = graph.tensors[index].buffer
    return len(consumers(graph, index)) == 1 and sum(tensor.buffer == buffer for tensor in graph.tensors) == 1


def _reorder_filters(model: Model, graph: Graph, operator: Operator, order: npt.NDArray[np.int64]) -> None:
    for part in [int(index) for index in operator.inputs[1:] if index >= 0]:
        tensor, value = graph.tensors[part], constant(model, graph, part)
        if value is None:
            raise ConversionError(f"expected constant weights in {tensor.name!r}, got computed ones")
        model.buffers[tensor.buffer].data = np.ascontiguousarray(value[order]).view(np.uint8).ravel()
        parameters = tensor.quantization
        if parameters is not None and parameters.scale is not None and len(parameters.scale) == len(order):
            parameters.scale = np.asarray(parameters.scale)[order]


def _add_interface_tensor(graph: Graph, inner: int, number: int) -> int:
    tensor = copy.copy(graph.tensors[inner])
    tensor.type = number
    tensor.buffer = 0
    tensor.quantization = None
    if number == schema().TensorType.UINT8:
        tensor.quantization = copy.copy(graph.tensors[inner].quantization)
        tensor.quantization.zeroPoint = [int(tensor.quantization.zeroPoint[0]) + 128]
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _new_operator(model: Model, name: str, inputs: list[int], outputs: list[int]) -> Operator:
    number = getattr(schema().BuiltinOperator, name)
    index = next((i for i, code in enumerate(model.operatorCodes) if code.builtinCode == number), None)
    if index is None:
        code = schema().OperatorCodeT()
        code.builtinCode = number
        code.deprecatedBuiltinCode = min(number, 127)
        code.version = _VERSIONS[name]
        model.operatorCodes.append(code)
        index = len(model.operatorCodes) - 1
    operator = schema().OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = index, inputs, outputs
    return operator


def _signature_entries(model: Model, index: int) -> Iterator[Any]:
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            if entry.tensorIndex == index:
                yield entry


def _among(operator: Operator, operators: list[Operator]) -> bool:
    return any(operator is other for other in operators)
