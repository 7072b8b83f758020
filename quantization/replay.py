"""Run a quantized network again from the first layer that a change of one grid can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from quantization.fake_quant import Grid, QuantizedConv2d
from quantization.quantizer import QuantizedNetwork


class Replay:
    """A network and some batches whose intermediate values are kept, so that what lies before a change is not computed
    again.

    Values are those of the moment of construction: :meth:`output` is right as long as nothing before ``start`` has
    changed since.

    Args:
        network: calibrated, in eval mode and QUANTIZE.
        batches: (B, 3, H, W) float in [0, 1].
        most_bytes: of kept values; batches beyond are computed from their input each time.
    """

    def __init__(self, network: QuantizedNetwork, batches: Sequence[Tensor], *, most_bytes: int) -> None:
        self._network, self._batches = network, batches
        self._interpreter = fx.Interpreter(network.graph_module)
        self._order = {node: index for index, node in enumerate(network.graph_module.graph.nodes)}
        self._kept: list[dict[fx.Node, Tensor]] = []
        for batch in batches:
            values = self._values(batch)
            most_bytes -= sum(value.nbytes for value in values.values())
            if most_bytes < 0:
                break
            self._kept.append(values)

    def first_node(self, grid: Grid) -> int:
        """Position of the first node whose value depends on a grid: its rounding, or a convolution beside it."""
        modules = dict(self._network.graph_module.named_modules())
        positions = [
            position
            for node, position in self._order.items()
            if node.op == "call_module" and _depends(modules[str(node.target)], grid)
        ]
        return min(positions, default=len(self._order))

    def output(self, index: int, start: int) -> Tensor:
        """The network's output for one batch, as (B, 3, sH, sW).

        Args:
            index: of the batch.
            start: position of the first node to compute; values before it are taken as they were.
        """
        result: Tensor
        if index < len(self._kept):
            before = {node: value for node, value in self._kept[index].items() if self._order[node] < start}
            result = self._interpreter.run(self._batches[index], initial_env=before)
        else:
            result = self._network(self._batches[index])
        return result

    def _values(self, batch: Tensor) -> dict[fx.Node, Tensor]:
        recorder = _Recorder(self._network.graph_module)
        recorder.run(batch)
        return recorder.values


class _Recorder(fx.Interpreter):
    """Keeps the tensors of a run. Others, such as sizes, are computed again: they cost nothing."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op not in ("placeholder", "output"):
            self.values[n] = value
        return value


def _depends(module: torch.nn.Module, grid: Grid) -> bool:
    if isinstance(module, QuantizedConv2d):
        return module.input_grid is grid or module.output_grid is grid
    return module is grid
