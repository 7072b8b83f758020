"""prepare(): a deployed float network -> the same network with fake quantization in it."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from edge_sr.errors import ConfigError, UnsupportedScheme
from quantization.fake_quant import Grid, Mode, QuantizedConv2d
from quantization.grids import GridPlan, Plan, plan_grids
from quantization.schemes import OpKind, Scheme, get_scheme

_COPIED_ATTRIBUTES = ("scale", "tile_multiple", "context", "model_name", "config")


class QuantizedNetwork(nn.Module):
    """A network with fake quantization; forward as the float network's, (B, 3, H, W) in [0, 1] -> (B, 3, sH, sW).

    Attributes:
        scheme: the :class:`Scheme` it was prepared for.
        scale, tile_multiple, context, model_name, config: copied from the deployed network.
        graph_module: the traced network; its ``grids`` submodule holds every :class:`Grid` by name.
        grid_of_node: name of the grid of every graph node whose value lies on one.
    """

    scale: int
    tile_multiple: int
    context: int
    model_name: str
    config: Any

    def __init__(self, graph_module: fx.GraphModule, scheme: Scheme, grid_of_node: dict[str, str]) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.scheme = scheme
        self.grid_of_node = grid_of_node
        self.mode = Mode.FLOAT

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.graph_module(x)
        return y

    def set_mode(self, mode: Mode) -> None:
        """Sets what the quantized modules do.

        Raises:
            ConfigError: QUANTIZE before every grid has a scale.
        """
        if mode is Mode.QUANTIZE:
            missing = [name for name, grid in self.grids() if not grid.calibrated]
            if missing:
                raise ConfigError(
                    f"expected every grid to have a range, got none for {', '.join(missing[:3])}"
                    f"{'...' if len(missing) > 3 else ''}; run calibrate() or load a quantized checkpoint first"
                )
        self.mode = mode
        for module in self.modules():
            if isinstance(module, Grid | QuantizedConv2d):
                module.mode = mode

    def grids(self) -> Iterator[tuple[str, Grid]]:
        """(name, grid) in the order in which values flow from input to output."""
        for name, module in self.graph_module.get_submodule("grids").named_children():
            assert isinstance(module, Grid)
            yield name, module


def prepare(deployed: nn.Module, scheme: str | Scheme) -> QuantizedNetwork:
    """Inserts fake quantization into a copy of a deployed network.

    Args:
        deployed: an eval-mode network that ``torch.fx.symbolic_trace`` can trace; it is not changed.
        scheme: a quantized scheme or its name.
    Returns:
        The network on the same device, in FLOAT mode and eval mode: calibrate it, or load a state, before quantizing.
    Raises:
        UnsupportedScheme: unknown, or not a quantized one.
        ConfigError: the network has several inputs or outputs, or pads with something else than zeros.
    """
    scheme = get_scheme(scheme) if isinstance(scheme, str) else scheme
    if not scheme.quantized:
        raise UnsupportedScheme(
            f"expected a quantized scheme, got {scheme.name!r}; a float scheme needs no preparation"
        )
    traced = fx.symbolic_trace(copy.deepcopy(deployed).eval())
    plan = plan_grids(traced, scheme)
    grids = _create_grids(traced, plan, scheme.activation_bits)
    _swap_convolutions(traced, plan, grids)
    grid_of_node = _insert_rounding(traced, plan)
    traced.graph.lint()
    traced.recompile()
    network = QuantizedNetwork(traced, scheme, grid_of_node)
    for name in _COPIED_ATTRIBUTES:
        if hasattr(deployed, name):
            setattr(network, name, getattr(deployed, name))
    return network.eval()


def _create_grids(traced: fx.GraphModule, plan: Plan, bits: int) -> dict[GridPlan, Grid]:
    used = list(plan.grids.values()) + list(plan.requantize.values())
    # by position of the first value on it, so that walking the grids backwards walks the network backwards
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    first: dict[GridPlan, float] = {}
    for node, grid in plan.grids.items():
        first[grid] = min(first.get(grid, math.inf), order[node])
    for (_, value), grid in plan.requantize.items():
        first[grid] = min(first.get(grid, math.inf), order[value] + 0.5)
    device = next((parameter.device for parameter in traced.parameters()), None)
    created = {
        grid: Grid(bits=bits, fixed_scale=grid.fixed_scale, device=device)
        for grid in sorted(dict.fromkeys(used), key=lambda grid: first[grid])
    }
    if hasattr(traced, "grids"):
        raise ConfigError("expected a network without an attribute 'grids', got one; rename it")
    traced.add_module("grids", nn.ModuleDict({grid.name: module for grid, module in created.items()}))
    return created


def _swap_convolutions(traced: fx.GraphModule, plan: Plan, grids: dict[GridPlan, Grid]) -> None:
    for node in list(traced.graph.nodes):
        if plan.kinds[node] is not OpKind.CONV:
            continue
        source = node.args[0]
        # a convolution without a grid has that of its only reader, a ReLU
        output = plan.grids[node] if node in plan.grids else plan.grids[next(iter(node.users))]
        conv = traced.get_submodule(str(node.target))
        input_grid = grids[plan.requantize.get((node, source)) or plan.grids[source]]
        if isinstance(conv, QuantizedConv2d):  # a second call of the same module: same weights, other grids
            node.target = re.sub(r"\W", "_", f"{node.target}_{node.name}")
            conv = _as_conv2d(conv)
        assert isinstance(conv, nn.Conv2d)
        traced.add_submodule(str(node.target), QuantizedConv2d(conv, input_grid, grids[output]))


def _as_conv2d(quantized: QuantizedConv2d) -> nn.Conv2d:
    outputs, inputs_per_group, height, width = quantized.weight.shape
    conv = nn.Conv2d(
        inputs_per_group * quantized.groups,
        outputs,
        (height, width),
        quantized.stride,
        quantized.padding,
        quantized.dilation,
        quantized.groups,
        bias=quantized.bias is not None,
        device="meta",
    )
    conv.weight, conv.bias = quantized.weight, quantized.bias
    return conv


def _insert_rounding(traced: fx.GraphModule, plan: Plan) -> dict[str, str]:
    """Inserts the grids' calls; returns the grid name of every node whose value lies on a grid."""
    graph = traced.graph
    grid_of_node = {node.name: grid.name for node, grid in plan.grids.items() if node not in plan.rounds}
    rounded: dict[fx.Node, fx.Node] = {}
    for node in plan.rounds:
        grid = plan.grids[node]
        readers = list(node.users)
        rounded[node] = _call_after(graph, node, node, grid)
        grid_of_node[rounded[node].name] = grid.name
        for reader in readers:
            reader.replace_input_with(node, rounded[node])
    requantized: dict[tuple[fx.Node, GridPlan], fx.Node] = {}
    for (reader, value), grid in plan.requantize.items():
        current = rounded.get(value, value)
        if (value, grid) not in requantized:
            requantized[value, grid] = _call_after(graph, current, current, grid)
            grid_of_node[requantized[value, grid].name] = grid.name
        reader.replace_input_with(current, requantized[value, grid])
    return grid_of_node


def _call_after(graph: fx.Graph, position: fx.Node, value: fx.Node, grid: GridPlan) -> fx.Node:
    with graph.inserting_after(position):
        return graph.call_module(f"grids.{grid.name}", (value,))


def float_outputs(network: QuantizedNetwork, batches: list[Tensor]) -> list[Tensor]:
    """The float network's outputs on some batches; mode and training flag are restored."""
    mode, training = network.mode, network.training
    network.eval().set_mode(Mode.FLOAT)
    with torch.no_grad():
        outputs = [network(batch) for batch in batches]
    network.train(training).set_mode(mode)
    return outputs
