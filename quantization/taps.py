"""Look inside a network: which values its layers give, a copy whose outputs they are, and a layer-by-layer replay.

A tap is one value of the traced graph that a converter keeps as it is: after the rounding of a quantized layer, after
the ReLU of a float convolution. Values that toolchains fuse away (a convolution's sums before its ReLU, what a grid is
about to round) are none, so a network with taps computes what the network without them computes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edge_sr.errors import ConfigError
from quantization.fake_quant import Grid, Mode, QuantizedConv2d
from quantization.op_kinds import classify
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import ACTIVATIONS, OpKind

_MOVING = (OpKind.MOVE, OpKind.CAT)


@dataclass(frozen=True, kw_only=True)
class Tap:
    """One value inside a network.

    Attributes:
        node: its name in the traced graph.
        layer: qualified name of the module that makes it: "blocks.0.refine", or "blocks.0" for an addition in its
            ``forward``; empty for the network's own ``forward``.
        op: what makes it, such as "conv", "conv + relu", "add", "requantize", "softmax".
        moves: its op only copies values.
        qscale: size of one step of the int8 grid it lies on; None for a float value.
    """

    node: str
    layer: str
    op: str
    moves: bool
    qscale: float | None

    @property
    def label(self) -> str:
        """The layer and its op on one line."""
        return f"{self.layer or 'network'} ({self.op})"


class LayerTaps:
    """The values inside one network.

    Args:
        network: a ``QuantizedNetwork`` with ranges, or a deployed float network; it is not changed.
        example: (1, 3, h, w) float in [0, 1]; run once, because only a run tells tensors from sizes.

    Attributes:
        taps: every tap by node name, in the order in which the graph computes them.
        output: name of the tap that is the network's result.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        if isinstance(network, QuantizedNetwork):
            self._network: QuantizedNetwork | fx.GraphModule = copy.deepcopy(network).eval()
            assert isinstance(self._network, QuantizedNetwork)
            self._network.set_mode(Mode.QUANTIZE)
            self._grids = dict(self._network.grids())
            self._grid_of_node = self._network.grid_of_node
        else:
            self._network = fx.symbolic_trace(copy.deepcopy(network).eval())
            self._grids, self._grid_of_node = {}, {}
        self._module = _graph_of(self._network)
        self._nodes = {node.name: node for node in self._module.graph.nodes}
        self._about_to_round = self._find_about_to_round()
        tensors = _Recorder(self._module).tensor_nodes(example)
        self.taps = {name: self._describe(self._nodes[name]) for name in tensors if self._is_tap(self._nodes[name])}
        (result,) = _output_node(self._module.graph).all_input_nodes
        self.output = result.name
        if self.output not in self.taps:
            raise ConfigError(f"expected the network to compute its output, got {result.op} {result.name}")

    def build(self, names: Sequence[str]) -> nn.Module:
        """A copy of the network whose ``forward`` returns the values of these taps as a tuple; nothing else is in it.

        Of a ``QuantizedNetwork`` it is another one, which ``to_qdq`` takes.
        """
        built = copy.deepcopy(self._network)
        module = _graph_of(built)
        nodes = {node.name: node for node in module.graph.nodes}
        _output_node(module.graph).args = (tuple(nodes[name] for name in names),)
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
        return built.eval()

    def reference(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """What the network computes at these taps for an input (1, 3, h, w) in [0, 1]."""
        return _Recorder(self._module).record(x, names)

    def replay(self, x: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the network computes at each tap of ``given`` from the given values before it.

        Each layer starts from what someone else computed, so that its own error shows without those before it.
        """
        return _Recorder(self._module).replay(x, given)

    def segment(self, name: str, known: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What lies directly before a tap.

        Args:
            name: a tap.
            known: taps at which the walk back from it stops.
        Returns:
            (the known taps that it is computed from, the other taps on the way), each in the graph's order.
        """
        stops, waiting = set(known), list(self._nodes[name].all_input_nodes)
        seen: set[str] = set()
        while waiting:
            node = waiting.pop()
            if node.name in seen:
                continue
            seen.add(node.name)
            if node.name not in stops:
                waiting.extend(node.all_input_nodes)
        ordered = [other for other in self.taps if other in seen]
        return (
            tuple(other for other in ordered if other in stops),
            tuple(other for other in ordered if other not in stops),
        )

    def _find_about_to_round(self) -> set[str]:
        """Float values that nothing but a grid reads, at once or once they were moved.

        The toolchains round such a value where it is computed (litert-torch 0.10.0 in front of moves, too).
        """
        found: set[str] = set()
        for node in reversed(self._module.graph.nodes):
            moved = {reader for reader in node.users if _kind(reader, self._module) in _MOVING}
            read = all(
                reader.name in found if reader in moved else isinstance(self._module_of(reader), Grid)
                for reader in node.users
            )
            if node.users and read and node.name not in self._grid_of_node:
                found.add(node.name)
        return found

    def _is_tap(self, node: fx.Node) -> bool:
        if node.op in ("placeholder", "output", "get_attr"):
            return False
        if node.name in self._about_to_round:
            return False
        (only,) = node.users if len(node.users) == 1 else (None,)
        return not (self._is_conv(node) and only is not None and _kind(only, self._module) in ACTIVATIONS)

    def _describe(self, node: fx.Node) -> Tap:
        grid = self._grids.get(self._grid_of_node.get(node.name, ""))
        rounds = isinstance(self._module_of(node), Grid)
        source = node.all_input_nodes[0] if rounds else node
        layer, op = self._name_of(source)
        if source.op == "placeholder":
            op = "input"
        elif rounds and self._is_tap(source):
            op = "requantize"
        return Tap(
            node=node.name,
            layer=layer,
            op=op,
            moves=not rounds and _kind(source, self._module) in _MOVING,
            qscale=None if grid is None else grid.qparams()[0],
        )

    def _name_of(self, node: fx.Node) -> tuple[str, str]:
        kind = _kind(node, self._module)
        first = node.all_input_nodes[0] if kind in ACTIVATIONS else None
        if first is not None and self._is_conv(first) and len(first.users) == 1:
            return str(first.target), f"conv + {kind.value}"
        if self._is_conv(node):
            return str(node.target), "conv"
        word = kind.value if kind is not OpKind.OTHER and kind is not OpKind.MOVE else _word(node, self._module)
        if node.op == "call_module":
            return str(node.target), word
        stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
        path = list(stack.values())[-1][0] if stack else ""
        return str(path), word

    def _is_conv(self, node: fx.Node) -> bool:
        return isinstance(self._module_of(node), QuantizedConv2d | nn.Conv2d)

    def _module_of(self, node: fx.Node) -> nn.Module | None:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps, or replaces, what some of its nodes give."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._wanted: set[str] = set()
        self._given: Mapping[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._tensors: list[str] = []

    def tensor_nodes(self, x: Tensor) -> list[str]:
        self._run(x)
        return self._tensors

    def record(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        self._wanted = set(names)
        self._run(x)
        return self._kept

    def replay(self, x: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._wanted, self._given = set(given), given
        self._run(x)
        return self._kept

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self._tensors.append(n.name)
            if n.name in self._wanted:
                self._kept[n.name] = result
            result = self._given.get(n.name, result)
        return result

    def _run(self, x: Tensor) -> None:
        with torch.no_grad():
            self.run(x)


def _graph_of(network: nn.Module) -> fx.GraphModule:
    module = network.graph_module if isinstance(network, QuantizedNetwork) else network
    assert isinstance(module, fx.GraphModule)
    return module


def _output_node(graph: fx.Graph) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if node.op == "output")
    return found


def _kind(node: fx.Node, module: fx.GraphModule) -> OpKind:
    if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), QuantizedConv2d):
        return OpKind.CONV
    return classify(node, module)


def _word(node: fx.Node, module: fx.GraphModule) -> str:
    """What a node is called in PyTorch: "softmax", "getitem", "PixelShuffle"."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return str(node.target) if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))
