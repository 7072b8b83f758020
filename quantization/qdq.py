"""to_qdq(): a calibrated network -> a module whose exported graph holds quantize/dequantize ops.

The ops are ``quantized_decomposed.quantize_per_tensor`` / ``dequantize_per_tensor`` on activations, with Python
numbers as scale and zero point, and ``quantize_per_channel`` / ``dequantize_per_channel`` on weights. Every op that
runs in int8 has a dequantize before each of its inputs and a quantize after its output; moved values are wrapped like
the rest, with their input's scale and zero point, because converters only see an int8 slice or concatenation where
both sides say so.
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
from quantization.quantizer import QuantizedNetwork

_OPS = torch.ops.quantized_decomposed


class QDQConv2d(nn.Module):
    """A convolution whose weight is dequantized in the graph.

    Attributes:
        weight: float32 on its int8 grid (``stored_as_int8`` False) or int8.
        bias: float32 on its int32 grid, or None.
    """

    def __init__(self, conv: QuantizedConv2d, *, stored_as_int8: bool) -> None:
        super().__init__()
        integers, scales, bias = conv.integer_parameters()
        self.stored_as_int8 = stored_as_int8
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        weight = integers if stored_as_int8 else integers.float() * scales.view(-1, 1, 1, 1)
        self.weight: Tensor
        self.bias: Tensor | None
        self.weight_scales: Tensor
        self.weight_zero_points: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("weight_scales", scales)
        self.register_buffer("weight_zero_points", torch.zeros_like(scales, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        channel = (self.weight_scales, self.weight_zero_points, 0, -WEIGHT_MAX, WEIGHT_MAX, torch.int8)
        if not self.stored_as_int8:
            weight = _OPS.quantize_per_channel.default(weight, *channel)
        weight = _OPS.dequantize_per_channel.default(weight, *channel)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def to_qdq(
    network: QuantizedNetwork, *, weights: Literal["float", "int8"], duplicate_dequantize: bool
) -> fx.GraphModule:
    """Writes the network's grids out as quantize/dequantize ops.

    Args:
        network: calibrated or loaded network; it is not changed.
        weights: "float" stores float weights with quantize -> dequantize behind them (LiteRT), "int8" stores int8
            weights with dequantize behind them (ExecuTorch, Core ML).
        duplicate_dequantize: give every reader a dequantize of its own. XNNPACK's partitioner groups all readers of
            one dequantize, and a skip connection then makes a dependency cycle (executorch 1.4.1).
    Returns:
        An eval-mode module that ``torch.export.export`` takes; its output is the fake-quantized network's.
    Raises:
        ConfigError: the network has no ranges yet, or ``weights`` is neither of the two.
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
            module.set_submodule(str(node.target), QDQConv2d(target, stored_as_int8=weights == "int8"))
        if grid is None:
            continue
        if isinstance(target, Grid):
            _quantize_dequantize(module.graph, node, _value(node), grid)
            module.graph.erase_node(node)
        else:
            _quantize_dequantize(module.graph, node, node, grid)
    _store_constants_as_int8(module)
    if duplicate_dequantize:
        _give_each_reader_its_dequantize(module.graph)
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
