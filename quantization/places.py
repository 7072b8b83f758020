"""The places of a quantized network where int8 loses something, gathered into parts.

There are two kinds of places: where a convolution's weights (and bias) are rounded, and where a computed value is
rounded onto its grid. Parts are seen in three views:

- ``op``: by what they round: ``conv weights``, ``conv outputs``, ``add``, ``mul``, ``sigmoid``, ``requantize`` (a float
  value that an int8 operator reads, or a value that moves to another grid) and ``constants``;
- ``block``: by where they are: ``head``, ``blocks.3``, ``up``, or ``top level`` for the network's own ``forward``;
- ``role``: the same layer of all repeated blocks: ``blocks.*.refine``.

The 8-bit grid of the picture that goes in and of the one that comes out is no part: float networks read and write the
same 8 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import fx

from quantization.fake_quant import Grid, QuantizedConv2d
from quantization.op_kinds import classify, is_copying_weight
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import ACTIVATIONS, OpKind

OP, BLOCK, ROLE = "op", "block", "role"
VIEWS = (OP, BLOCK, ROLE)
WEIGHTS = "conv weights"
TOP_LEVEL = "top level"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place where int8 loses something.

    Attributes:
        node: of the traced graph: a convolution (its weights and bias) or the call of a grid (a value).
        op: what is rounded: a name of the ``op`` view.
        layer: qualified name of the module that computes it; empty for the network's own ``forward``.
    """

    node: str
    op: str
    layer: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """Places that are switched together; ``view`` is one of :data:`VIEWS`."""

    view: str
    name: str
    places: tuple[Place, ...]


def find_parts(network: QuantizedNetwork) -> tuple[Part, ...]:
    """The parts of all views, in the order in which the graph computes their first place."""
    found: dict[tuple[str, str], list[Place]] = {}
    for place in find_places(network):
        found.setdefault((OP, place.op), []).append(place)
        found.setdefault((BLOCK, block_of(place.layer)), []).append(place)
        role = role_of(place.layer)
        if role is not None:
            found.setdefault((ROLE, role), []).append(place)
    return tuple(Part(view=view, name=name, places=tuple(places)) for (view, name), places in found.items())


def find_places(network: QuantizedNetwork) -> tuple[Place, ...]:
    """Every place of a prepared network where int8 loses something, in the graph's order.

    Convolutions that only copy channels lose nothing and are left out.
    """
    module = network.graph_module
    places = []
    for node in module.graph.nodes:
        target = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(target, QuantizedConv2d) and not is_copying_weight(target.weight):
            places.append(Place(node=node.name, op=WEIGHTS, layer=_layer(node)))
        elif isinstance(target, Grid) and not _is_picture(node, target):
            places.append(_value_place(node, module))
    return tuple(places)


def _value_place(call: fx.Node, module: fx.GraphModule) -> Place:
    """The place where a grid is called: named after what computes the value, before its activation."""
    source = call.args[0]
    assert isinstance(source, fx.Node)
    if source.op == "get_attr":
        return Place(node=call.name, op="constants", layer=str(source.target).rpartition(".")[0])
    if _kind(source, module) in ACTIVATIONS:
        source = source.all_input_nodes[0]
    # A grid of this name rounds what a float operator computed, see quantization.grids.
    entry = str(call.target).endswith("_entry_grid")
    kind = OpKind.OTHER if entry else _kind(source, module)
    computed = {OpKind.CONV: "conv outputs", OpKind.ADD: "add", OpKind.MUL: "mul", OpKind.SIGMOID: "sigmoid"}
    return Place(node=call.name, op=computed.get(kind, "requantize"), layer=_layer(source))


def _is_picture(call: fx.Node, grid: Grid) -> bool:
    source = call.args[0]
    given = isinstance(source, fx.Node) and source.op == "placeholder"
    image_scale = 1.0 / (grid.maximum - grid.minimum)
    return given or (grid.fixed and math.isclose(float(grid.scale), image_scale, rel_tol=1e-6))


def _kind(node: fx.Node, module: fx.GraphModule) -> OpKind:
    if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), QuantizedConv2d):
        return OpKind.CONV
    return classify(node, module)


def _layer(node: fx.Node) -> str:
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def block_of(layer: str) -> str:
    """A layer's part in the ``block`` view: ``blocks.3.inam.reduce`` -> ``blocks.3``; ``purify.near`` -> ``purify``."""
    names = layer.split(".")
    return ".".join(names[: 2 if names[1:] and names[1].isdecimal() else 1]) or TOP_LEVEL


def role_of(layer: str) -> str | None:
    """A layer's part in the ``role`` view: ``blocks.3.inam.reduce`` -> ``blocks.*.inam``; else None."""
    names = layer.split(".")
    if len(names) < 2 or not names[1].isdecimal():
        return None
    return ".".join([names[0], "*", *names[2:3]])
