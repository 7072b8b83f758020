"""One walk through a network, float and quantized side by side, that stops at every convolution.

Post-training methods that mend one layer at a time need what the layer reads and what it should give. Both lanes
compute each node once for all batches, and a layer is mended before its readers are computed: a whole network costs
two passes, however many layers it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edge_sr.errors import ConfigError
from quantization.fake_quant import Mode, QuantizedConv2d
from quantization.op_kinds import is_copying_weight
from quantization.quantizer import QuantizedNetwork, prepare

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution on the way, with what arrives there from every batch.

    Attributes:
        name: its module's name in the traced network.
        convolution: the quantized one, to be changed in place.
        reference: the same convolution of the float network.
        inputs: (B, C, H, W) of each batch as the quantized network computes them, with all layers before it mended.
        float_inputs: the same in the float network.
    """

    name: str
    convolution: QuantizedConv2d
    reference: QuantizedConv2d
    inputs: Sequence[Tensor]
    float_inputs: Sequence[Tensor]


@torch.no_grad()
def walk_convolutions(
    network: QuantizedNetwork,
    float_network: nn.Module,
    batches: Sequence[Tensor],
    visit: Callable[[Layer], None],
    *,
    progress: Progress | None = None,
) -> None:
    """Calls ``visit`` for each convolution from input to output; what it changes is what later layers are given.

    A convolution that only copies channels is left out, and so is the second use of shared weights.

    Args:
        network: calibrated; in QUANTIZE and eval mode afterwards.
        float_network: the deployed network that it was prepared from.
        batches: (B, 3, H, W) float in [0, 1]. Values that are still to be read are kept for all of them at once.
        visit: given one :class:`Layer` at a time.
        progress: called with (convolutions done, convolutions in all).
    Raises:
        ConfigError: no batch, a network without ranges, or two different networks.
    """
    if not batches:
        raise ConfigError("expected at least one batch, got none; pass image tiles")
    network.eval().set_mode(Mode.QUANTIZE)
    reference = prepare(float_network, network.scheme)
    ours, theirs = network.graph_module, reference.graph_module
    nodes = list(zip(ours.graph.nodes, theirs.graph.nodes, strict=False))
    if len(ours.graph.nodes) != len(theirs.graph.nodes) or any(a.name != b.name for a, b in nodes):
        raise ConfigError(
            f"expected the float network of this quantized one, got another ({type(float_network).__name__}); "
            "pass the one that prepare() was given"
        )
    lane, float_lane = _Lane(ours, batches), _Lane(theirs, batches)
    total = sum(_is_weighted(ours, node) for node, _ in nodes)
    seen: set[int] = set()
    done = 0
    for node, float_node in nodes:
        if _is_weighted(ours, node):
            convolution = ours.get_submodule(str(node.target))
            float_convolution = theirs.get_submodule(str(float_node.target))
            assert isinstance(convolution, QuantizedConv2d)
            assert isinstance(float_convolution, QuantizedConv2d)
            if id(convolution.weight) not in seen:
                seen.add(id(convolution.weight))
                layer = Layer(
                    name=str(node.target),
                    convolution=convolution,
                    reference=float_convolution,
                    inputs=lane.first_argument(node),
                    float_inputs=float_lane.first_argument(float_node),
                )
                visit(layer)
            done += 1
            if progress is not None:
                progress(done, total)
        lane.compute(node)
        float_lane.compute(float_node)


def rounded_weight(convolution: QuantizedConv2d) -> Tensor:
    """The weight that integer arithmetic multiplies with, in float units."""
    integers, scales, _ = convolution.integer_parameters()
    return integers.float() * scales.view(-1, 1, 1, 1)


def bias_of_float_means(layer: Layer) -> Tensor:
    """(out,) the bias that gives each channel the mean of the float network's, with the weights as rounded now."""
    wanted = _channel_means(layer.reference, layer.float_inputs, layer.reference.weight, layer.reference.bias)
    return wanted - _channel_means(layer.convolution, layer.inputs, rounded_weight(layer.convolution), None)


def _channel_means(
    convolution: QuantizedConv2d, inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None
) -> Tensor:
    total = torch.zeros(len(weight), dtype=torch.float64)
    pixels = 0
    for x in inputs:
        y = F.conv2d(x, weight, bias, convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
        total += y.sum(dim=(0, 2, 3), dtype=torch.float64)
        pixels += y[:, 0].numel()
    return (total / pixels).float()


def _is_weighted(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    target = module.get_submodule(str(node.target))
    return isinstance(target, QuantizedConv2d) and not is_copying_weight(target.weight)


@dataclass(frozen=True)
class _Values:
    """A node's value for every batch; a class of its own, so that fx takes it for one value."""

    of_batch: list[Any]


class _Lane(fx.Interpreter):
    """Computes a graph node by node, each for all batches, and forgets values after their last reader."""

    def __init__(self, module: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        super().__init__(module)
        self._batches = list(batches)
        self.env: dict[fx.Node, _Values] = {}

    def first_argument(self, node: fx.Node) -> Sequence[Tensor]:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return self.env[source].of_batch

    def compute(self, node: fx.Node) -> None:
        if node.op == "output":
            return
        if node.op == "placeholder":
            self.env[node] = _Values(self._batches)
            return
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        results = []
        for index in range(len(self._batches)):
            own_args, own_kwargs = (fx.node.map_aggregate(part, _pick(index)) for part in (args, kwargs))
            results.append(getattr(self, node.op)(node.target, own_args, own_kwargs))
        self.env[node] = _Values(results)
        for read in self.user_to_last_uses.get(node, []):
            del self.env[read]


def _pick(index: int) -> Callable[[Any], Any]:
    return lambda value: value.of_batch[index] if isinstance(value, _Values) else value
