"""How far a network looks: which input pixels a result can depend on, layer by layer.

Found by poisoning: one pixel of a layer's input becomes NaN, and every value that the layer computes from it is NaN
afterwards, whatever the weights are. That is structure, not luck: a difference of two runs would miss what happens to
be multiplied by a small weight. It needs no table of operators, so a new operator cannot be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edge_sr.errors import ConfigError

# LR pixels of the trial input. Unequal, and no channel count of ours, so that an axis is known by its length; multiples
# of 8, as windowed networks want them.
_TRIAL = (64, 72)
# A finite reach is measured once more through the whole network, where that takes an input of at most this side.
_LARGEST_TRIAL = 160
# A layer that spreads one pixel over this share of the trial input's sides is said to see the whole input.
_WHOLE = 0.75
_LAYOUTS = ((2, 3), (1, 2))
_MIXING = ("mean", "var", "norm", "pool", "bmm", "matmul", "einsum", "attention", "linear", "sum")


@dataclass(frozen=True, kw_only=True)
class LayerReach:
    """A layer that looks at neighbouring pixels.

    Attributes:
        name: the submodule's path, or the operator behind the path of the module that calls it.
        growth_px: LR pixels that it looks further than its input already did; None for the whole input.
        reach_px: LR pixels up to here, counted from the network's input, at most; None for the whole input.
        moves_with_phase: what it sees depends on where a pixel lies (a window, a grid), so a tile that begins elsewhere
            computes something else even far from its edges.
    """

    name: str
    growth_px: int | None
    reach_px: int | None
    moves_with_phase: bool


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What :func:`measure_reach` found.

    Attributes:
        reach_px: LR pixels in each direction that a result can depend on; None where that is the whole input.
        layers: those that widen the view, in the order of computation.
    """

    reach_px: int | None
    layers: tuple[LayerReach, ...]

    @property
    def whole_input(self) -> tuple[str, ...]:
        """The layers that see the whole input at once."""
        return tuple(layer.name for layer in self.layers if layer.growth_px is None)

    @property
    def phased(self) -> tuple[str, ...]:
        """The layers that compute something else in a tile that begins elsewhere."""
        return tuple(layer.name for layer in self.layers if layer.moves_with_phase)

    @property
    def exact_overlap(self) -> int | None:
        """LR pixels by which tiles must overlap to give what the whole image gives; None where none is enough.

        Tiles are cut in the middle of their overlap, so it is twice the reach.
        """
        return None if self.reach_px is None or self.phased else 2 * self.reach_px

    def beyond(self, overlap: int) -> tuple[str, ...]:
        """The layers at which the view has grown past what tiles with ``overlap`` have around every kept pixel."""
        return tuple(
            layer.name
            for layer in self.layers
            if layer.moves_with_phase or layer.reach_px is None or layer.reach_px > overlap // 2
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "reach_px": self.reach_px,
            "exact_overlap": self.exact_overlap,
            "layers": [asdict(layer) for layer in self.layers],
        }


def measure_reach(network: nn.Module) -> Reach:
    """Find out which input pixels a result depends on.

    Args:
        network: deployed network that ``torch.fx`` can trace, (B, 3, H, W) -> (B, 3, scale * H, scale * W), with
            ``scale`` and ``tile_multiple``, in float arithmetic: rounding to integers would hide the poison. It is not
            changed. Quantization looks at no neighbours, so a quantized network reaches as far as its float one.
    Returns:
        the reach, and each layer that looks at neighbours, those behind one that sees everything included.
    Raises:
        ConfigError: the network swallows the poison, as quantized arithmetic does.
    """
    graph_module = getattr(network, "graph_module", None)
    traced = graph_module if isinstance(graph_module, fx.GraphModule) else fx.symbolic_trace(network)
    multiple, scale = int(network.tile_multiple), int(network.scale)  # type: ignore[arg-type]
    height, width = (-(-side // multiple) * multiple for side in _TRIAL)
    walk = _Walk(traced, scale=scale, multiple=multiple, size=(height, width))
    with torch.inference_mode(), _plain_convolutions():
        layers, bound = walk.layers()
        if bound is None:
            return Reach(reach_px=None, layers=layers)
        side = -(-(2 * bound + 3) // multiple) * multiple
        reach = bound if side > _LARGEST_TRIAL else _through_all(traced, side, multiple)
    return Reach(reach_px=reach, layers=layers)


@contextmanager
def _plain_convolutions() -> Iterator[None]:
    # oneDNN may convolve by Winograd's method, which spreads a NaN over a block; im2col leaves it where it belongs.
    # The attribute, not flags(): that one also sets TF32, about which torch 2.13 warns without an Intel GPU.
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _through_all(traced: fx.GraphModule, side: int, multiple: int) -> int:
    """The largest distance, in LR pixels, over which one poisoned input pixel is felt at the output."""
    largest = 0
    for at in _positions((side, side), multiple):
        x = torch.full((1, 3, side, side), 0.5)
        x[:, :, at[0], at[1]] = torch.nan
        largest = max(largest, *_extent(traced(x), at, (2, 3), (side, side)))
    return largest


class _Walk:
    """One clean run of a traced network, and poisoned runs of each of its parts."""

    def __init__(self, traced: fx.GraphModule, *, scale: int, multiple: int, size: tuple[int, int]) -> None:
        self.traced = traced
        self.size = size
        self.factors = (1, scale)
        self.positions = _positions(self.size, multiple)
        self.interpreter = fx.Interpreter(traced, garbage_collect_values=False)
        self.axes: dict[fx.Node, tuple[int, int]] = {}

    def layers(self) -> tuple[tuple[LayerReach, ...], int | None]:
        """The layers that look at neighbours, and the sum of their growth along the longest path."""
        self.interpreter.run(torch.full((1, 3, *self.size), 0.5))
        values = self.interpreter.env
        found: list[LayerReach] = []
        reach: dict[fx.Node, int | None] = {}
        for node in self.traced.graph.nodes:
            axes = self._spatial_axes(values.get(node))
            if axes is None or node.op == "output":
                continue
            self.axes[node] = axes
            sources, between = self._sources(node)
            if not sources:
                reach[node] = 0
                continue
            extents = [self._poisoned(node, sources, between, at) for at in self.positions]
            growth = max(max(extent) for extent in extents)
            whole = any(_is_whole(extent, self.size) for extent in extents)
            before = [reach[source] for source in sources]
            known = [value for value in before if value is not None]
            reach[node] = None if whole or len(known) < len(before) else max(known) + growth
            if growth:
                layer = LayerReach(
                    name=_name(node, between),
                    growth_px=None if whole else growth,
                    reach_px=reach[node],
                    moves_with_phase=whole or len(set(extents)) > 1,
                )
                found.append(layer)
        return tuple(found), self._bound(reach)

    def _bound(self, reach: dict[fx.Node, int | None]) -> int | None:
        output = next(node for node in self.traced.graph.nodes if node.op == "output").args[0]
        if output not in reach:
            raise ConfigError("expected a network whose result is a picture (B, 3, H, W), got another shape")
        return reach[output]

    def _spatial_axes(self, value: Any) -> tuple[int, int] | None:
        """The (height, width) axes of a tensor that still is a map of the input, NCHW or NHWC."""
        if not isinstance(value, Tensor) or value.dim() != 4:
            return None
        for axes in _LAYOUTS:
            for factor in self.factors:
                if (value.shape[axes[0]], value.shape[axes[1]]) == (factor * self.size[0], factor * self.size[1]):
                    return axes
        return None

    def _sources(self, node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """The maps that a node is computed from, and what lies between (tokens, statistics), in order."""
        sources: dict[fx.Node, None] = {}
        between: set[fx.Node] = set()
        stack = list(node.all_input_nodes)
        while stack:
            current = stack.pop()
            if current in self.axes:
                sources[current] = None
            elif current not in between:
                between.add(current)
                stack.extend(current.all_input_nodes)
        return list(sources), [entry for entry in self.traced.graph.nodes if entry in between]

    def _poisoned(
        self, node: fx.Node, sources: list[fx.Node], between: list[fx.Node], at: tuple[int, int]
    ) -> tuple[int, ...]:
        """(up, down, left, right): how far a poisoned pixel of the sources is felt in the node's value."""
        clean = {entry: self.interpreter.env[entry] for entry in (*sources, *between, node)}
        try:
            for source in sources:
                poisoned = clean[source].clone()
                rows, columns = self.axes[source]
                factor = poisoned.shape[rows] // self.size[0]
                block = poisoned.narrow(rows, factor * at[0], factor).narrow(columns, factor * at[1], factor)
                block.fill_(torch.nan)
                self.interpreter.env[source] = poisoned
            for entry in (*between, node):
                self.interpreter.env[entry] = self._evaluate(entry)
            return _extent(self.interpreter.env[node], at, self.axes[node], self.size)
        finally:
            self.interpreter.env.update(clean)

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op in ("placeholder", "get_attr"):
            return self.interpreter.env[node]
        return self.interpreter.run_node(node)


def _positions(size: tuple[int, int], multiple: int) -> list[tuple[int, int]]:
    # First and last pixel of a period next to the middle: a window reaches furthest from its corners.
    middle = [side // 2 // multiple * multiple for side in size]
    return [(middle[0], middle[1]), (middle[0] + max(multiple - 1, 1), middle[1] + max(multiple - 1, 1))]


def _extent(value: Tensor, at: tuple[int, int], axes: tuple[int, int], size: tuple[int, int]) -> tuple[int, ...]:
    felt = torch.isnan(value).movedim(axes, (0, 1)).flatten(2).any(2)
    if not felt.any():
        raise ConfigError("expected a network in float arithmetic, got one that turns NaN into numbers")
    factor = felt.shape[0] // size[0]
    rows, columns = felt.any(1).nonzero().flatten() // factor, felt.any(0).nonzero().flatten() // factor
    return (at[0] - int(rows[0]), int(rows[-1]) - at[0], at[1] - int(columns[0]), int(columns[-1]) - at[1])


def _is_whole(extent: tuple[int, ...], size: tuple[int, int]) -> bool:
    # A grid takes every eighth pixel or so and misses the outermost ones.
    return extent[0] + extent[1] + 1 >= _WHOLE * size[0] and extent[2] + extent[3] + 1 >= _WHOLE * size[1]


def _name(node: fx.Node, between: list[fx.Node]) -> str:
    if node.op == "call_module":
        return str(node.target)
    mixing = [entry for entry in between if any(word in entry.name for word in _MIXING)]
    speaking = (mixing or [node])[-1]
    stack = speaking.meta.get("nn_module_stack") or {}
    path = str(list(stack)[-1]) if stack else ""
    if speaking.op == "call_module":
        return str(speaking.target)
    return f"{path}: {speaking.name}" if path else speaking.name
