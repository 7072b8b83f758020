"""to_qdq(): a calibrated network -> a module whose exported graph holds quantize/dequantize ops.

The ops are ``quantized_decomposed.quantize_per_tensor`` / ``dequantize_per_tensor`` on activations, with Python
numbers as scale and zero point, and ``quantize_per_channel`` / ``dequantize_per_channel`` on weights. Every op that
runs in int8 has a dequantize before each of its inputs and a quantize after its output; moved values are wrapped like
the rest, with their input's scale and zero point, because converters only see an int8 slice or concatenation where
both sides say so. Engines that compute in integers alone get their biases as integers too, and pictures as stored.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch

# registers the quantized_decomposed operators
import torch.ao.quantization.fx._decomposed
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edge_sr.errors import ConfigError
from quantization.fake_quant import WEIGHT_MAX, Grid, Mode, QuantizedConv2d
from quantization.op_kinds import classify
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import OpKind

_OPS = torch.ops.quantized_decomposed


class QDQConv2d(nn.Module):
    """A convolution whose weight is dequantized in the graph.

    Attributes:
        weight: float32 on its int8 grid (``stored_as_int8`` False) or int8.
        bias: float32 on its int32 grid (``bias_as_int32`` False) or int32, or None.
        bias_scales: input's scale times weight's, of a bias that is stored as int32.
    """

    def __init__(self, conv: QuantizedConv2d, *, stored_as_int8: bool, bias_as_int32: bool = False) -> None:
        super().__init__()
        integers, scales, bias = conv.integer_parameters()
        self.stored_as_int8 = stored_as_int8
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        weight = integers if stored_as_int8 else integers.float() * scales.view(-1, 1, 1, 1)
        self.weight: Tensor
        self.bias: Tensor | None
        self.bias_scales: Tensor | None
        self.weight_scales: Tensor
        self.weight_zero_points: Tensor
        bias_scales = scales * conv.input_grid.scale if bias_as_int32 and bias is not None else None
        if bias is not None and bias_scales is not None:
            bias = torch.round(bias / bias_scales).to(torch.int32)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("bias_scales", bias_scales)
        self.register_buffer("weight_scales", scales)
        self.register_buffer("weight_zero_points", torch.zeros_like(scales, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        channel = (self.weight_scales, self.weight_zero_points, 0, -WEIGHT_MAX, WEIGHT_MAX, torch.int8)
        if not self.stored_as_int8:
            weight = _OPS.quantize_per_channel.default(weight, *channel)
        weight = _OPS.dequantize_per_channel.default(weight, *channel)
        bias = self.bias
        if self.bias_scales is not None:
            integers = (self.bias_scales, self.weight_zero_points, 0, -(2**31), 2**31 - 1, torch.int32)
            bias = _OPS.dequantize_per_channel.default(bias, *integers)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def to_qdq(
    network: QuantizedNetwork,
    *,
    weights: Literal["float", "int8"],
    duplicate_dequantize: bool,
    int32_biases: bool = False,
    integer_ends: bool = False,
    round_before_clips: bool = False,
) -> fx.GraphModule:
    """Writes the network's grids out as quantize/dequantize ops.

    Args:
        network: calibrated or loaded network; it is not changed.
        weights: "float" stores float weights with quantize -> dequantize behind them (LiteRT), "int8" stores int8
            weights with dequantize behind them (ExecuTorch, Core ML).
        duplicate_dequantize: give every reader a dequantize of its own. XNNPACK's partitioner groups all readers of
            one dequantize, and a skip connection then makes a dependency cycle (executorch 1.4.1).
        int32_biases: store biases as int32 with dequantize behind them, as engines add them to their sums; else float.
        integer_ends: take and give stored values (int8; int16 in schemes of 16 bits), without the quantize at the
            input and the dequantize at the output.
        round_before_clips: also quantize before a clipping that follows its operator at once, on the grid behind it,
            for engines that fuse no clipping but a ReLU; rounding keeps order, so that nothing changes.
    Returns:
        An eval-mode module that ``torch.export.export`` takes; its output is the fake-quantized network's.
    Raises:
        ConfigError: the network has no ranges yet, ``weights`` is neither of the two, or an end that is to be stored is
            not quantized.
    """
    if weights not in ("float", "int8"):
        raise ConfigError(f"expected weights 'float' or 'int8', got {weights!r}; LiteRT needs 'float', others 'int8'")
    source = copy.deepcopy(network).eval()
    source.set_mode(Mode.QUANTIZE)  # raises where a range is missing
    module = source.graph_module
    grids = dict(source.grids())
    for node in list(module.graph.nodes):
        grid = grids.get(source.grid_of_node.get(node.name, ""))
        target = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(target, QuantizedConv2d):
            stored = QDQConv2d(target, stored_as_int8=weights == "int8", bias_as_int32=int32_biases)
            module.set_submodule(str(node.target), stored)
        if grid is None:
            continue
        if isinstance(target, Grid):
            if round_before_clips and classify(_value(node), module) is OpKind.CLIP:
                _quantize_dequantize(module.graph, _value(_value(node)), _value(_value(node)), grid)
            _quantize_dequantize(module.graph, node, _value(node), grid)
            module.graph.erase_node(node)
        else:
            _quantize_dequantize(module.graph, node, node, grid)
    _store_constants_as_int8(module)
    if duplicate_dequantize:
        _give_each_reader_its_dequantize(module.graph)
    if integer_ends:
        _cut_float_ends(module.graph)
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    return module.eval()


def _value(node: fx.Node) -> fx.Node:
    value = node.args[0]
    assert isinstance(value, fx.Node)
    return value


def _quantize_dequantize(graph: fx.Graph, node: fx.Node, value: fx.Node, grid: Grid) -> None:
    """Puts ``value`` -> quantize -> dequantize behind ``node``, and all readers of ``node`` behind that."""
    qscale, zero_point = grid.qparams()
    limits = (grid.minimum, grid.maximum, torch.int8 if grid.maximum < 128 else torch.int16)
    with graph.inserting_after(node):
        quantize = graph.call_function(_OPS.quantize_per_tensor.default, (value, qscale, zero_point, *limits))
    with graph.inserting_after(quantize):
        dequantize = graph.call_function(_OPS.dequantize_per_tensor.default, (quantize, qscale, zero_point, *limits))
    node.replace_all_uses_with(dequantize, delete_user_cb=lambda user: user is not quantize)


def _store_constants_as_int8(module: fx.GraphModule) -> None:
    """Replaces a constant and the quantize behind it by an int8 buffer."""
    for node in list(module.graph.nodes):
        if node.target is not _OPS.quantize_per_tensor.default or _value(node).op != "get_attr":
            continue
        constant = _value(node)
        owner, _, name = str(constant.target).rpartition(".")
        parent = module.get_submodule(owner)
        integers = _OPS.quantize_per_tensor.default(getattr(parent, name).detach(), *node.args[1:])
        parent.register_buffer(f"{name}_int8", integers)
        with module.graph.inserting_before(node):
            stored = module.graph.get_attr(f"{constant.target}_int8")
        node.replace_all_uses_with(stored)
        module.graph.erase_node(node)
        if not constant.users:
            module.graph.erase_node(constant)


def _give_each_reader_its_dequantize(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        if node.target is not _OPS.dequantize_per_tensor.default:
            continue
        for reader in list(node.users)[1:]:
            with graph.inserting_after(node):
                copied = graph.node_copy(node)
            reader.replace_input_with(node, copied)


def _cut_float_ends(graph: fx.Graph) -> None:
    """Removes the quantize that reads the input and the dequantize that gives the output."""
    source = next(node for node in graph.nodes if node.op == "placeholder")
    result = graph.output_node()
    readers, last = list(source.users), _value(result)
    ends = [(reader, _OPS.quantize_per_tensor.default) for reader in readers]
    ends.append((last, _OPS.dequantize_per_tensor.default))
    others = [node.name for node, wanted in ends if node.target is not wanted]
    if others:
        raise ConfigError(f"expected quantized values at both ends of the network, got {', '.join(others)}")
    for reader in readers:
        reader.replace_all_uses_with(source)
        graph.erase_node(reader)
    result.args = (_value(last),)
    graph.erase_node(last)
