"""Decides which int8 grid every value of a traced network lies on.

Rules:
- the network's input lies on 1/255 with zero point -128, and so does its output: images are 8 bit wide;
- a sigmoid's output lies on 1/256 with zero point -128 (grids of 16 bits: 1/65535, 1/65536 and -32768);
- a convolution, sum or product gets a grid of its own, after its ReLU or clipping where that is the only reader;
- a moved value (slice, reshape, pixel shuffle, nearest upsampling...), a ReLU of a value that already lies on a grid
  and a convolution that only copies channels stay on the grid of their input;
- all inputs and the output of a concatenation share one grid;
- anything else is float, and so are sums and products with a float operand;
- where a value is read on another grid than its own, or a float value is read by an int8 op, it is requantized there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx, nn

from edge_sr.errors import ConfigError
from quantization.op_kinds import classify, is_copying
from quantization.schemes import ACTIVATIONS, OpKind, Scheme


@dataclass(eq=False)
class GridPlan:
    """One grid to be.

    Attributes:
        name: attribute-safe and stable between runs: state files refer to it.
        fixed_scale: None for a grid that is calibrated.
    """

    name: str
    fixed_scale: float | None = None


@dataclass(eq=False)
class Plan:
    """Which grid each value lies on.

    Attributes:
        kinds: what each node does; OTHER where the scheme leaves it float.
        grids: grid of each node's value after rounding; absent for float values.
        rounds: nodes whose value must be rounded onto their grid (the others lie on it already).
        requantize: (reader, value) -> grid on which the reader wants that value.
    """

    kinds: dict[fx.Node, OpKind] = field(default_factory=dict)
    grids: dict[fx.Node, GridPlan] = field(default_factory=dict)
    rounds: list[fx.Node] = field(default_factory=list)
    requantize: dict[tuple[fx.Node, fx.Node], GridPlan] = field(default_factory=dict)


def plan_grids(network: fx.GraphModule, scheme: Scheme) -> Plan:
    """Plans the grids of a traced network for a scheme.

    Raises:
        ConfigError: the network does not have exactly one input and one output tensor.
    """
    return _Planner(network, scheme).run()


class _Planner:
    def __init__(self, network: fx.GraphModule, scheme: Scheme) -> None:
        self.network = network
        self.nodes = list(network.graph.nodes)
        self.plan = Plan()
        self.entries: dict[fx.Node, GridPlan] = {}
        levels = 2**scheme.activation_bits
        self.image_scale, self.sigmoid_scale = 1.0 / (levels - 1), 1.0 / levels
        for node in self.nodes:
            kind = classify(node, network)
            self.plan.kinds[node] = kind if kind in scheme.int8_ops else OpKind.OTHER

    def run(self) -> Plan:
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise ConfigError(f"expected a network with one input, got {len(inputs)}; wrap it into one that takes one")
        for node in self.nodes:
            self._visit(node)
        return self.plan

    def _visit(self, node: fx.Node) -> None:
        kind = self.plan.kinds[node]
        if node.op == "placeholder":
            self._round(node, GridPlan(f"{node.name}_grid", self.image_scale))
        elif node.op == "output":
            self._visit_output(node)
        elif kind is OpKind.CONV:
            self._visit_conv(node)
        elif kind is OpKind.CAT:
            self._visit_cat(node)
        elif kind in ACTIVATIONS:
            self._visit_activation(node)
        elif kind in (OpKind.ADD, OpKind.MUL):
            self._visit_arithmetic(node)
        elif kind is OpKind.SIGMOID:
            self._visit_sigmoid(node)
        elif kind is OpKind.MOVE and node.args and node.args[0] in self.plan.grids:
            self.plan.grids[node] = self.plan.grids[_value(node.args[0])]
        else:
            self.plan.kinds[node] = OpKind.OTHER

    def _visit_conv(self, node: fx.Node) -> None:
        source = _value(node.args[0])
        if source not in self.plan.grids:
            # one rounding of a float value serves all its int8 readers
            entry = self.entries.setdefault(source, GridPlan(f"{source.name}_entry_grid"))
            self.plan.requantize[node, source] = entry
        conv = self.network.get_submodule(str(node.target))
        if isinstance(conv, nn.Conv2d) and is_copying(conv):
            self.plan.grids[node] = self.grid_read(node, source)
        elif not self._fuses_activation(node):
            self._round(node, GridPlan(f"{node.name}_grid"))

    def _visit_activation(self, node: fx.Node) -> None:
        source = _value(node.args[0])
        # A ReLU's limit, zero, lies on every grid; the limits of other clippings need not.
        if source in self.plan.grids and self.plan.kinds[node] is OpKind.RELU:
            self.plan.grids[node] = self.plan.grids[source]
        elif source not in self.plan.grids and self.plan.kinds[source] in (OpKind.CONV, OpKind.ADD, OpKind.MUL):
            self._round(node, GridPlan(f"{node.name}_grid"))
        else:
            self.plan.kinds[node] = OpKind.OTHER

    def _visit_arithmetic(self, node: fx.Node) -> None:
        operands = [arg for arg in node.args if isinstance(arg, fx.Node)]
        constants = [arg for arg in operands if arg.op == "get_attr"]
        known = all(arg in self.plan.grids or arg in constants for arg in operands)
        if len(operands) < 2 or len(constants) == len(operands) or not known:
            self.plan.kinds[node] = OpKind.OTHER
            return
        for constant in constants:
            if constant not in self.plan.grids:
                self._round(constant, GridPlan(f"{constant.name}_grid"))
        if not self._fuses_activation(node):
            self._round(node, GridPlan(f"{node.name}_grid"))

    def _visit_sigmoid(self, node: fx.Node) -> None:
        if node.args[0] in self.plan.grids:
            self._round(node, GridPlan(f"{node.name}_grid", self.sigmoid_scale))
        else:
            self.plan.kinds[node] = OpKind.OTHER

    def _visit_cat(self, node: fx.Node) -> None:
        sources = list(node.args[0]) if node.args and isinstance(node.args[0], list | tuple) else []
        values = [_value(source) for source in sources]
        if not values or any(value not in self.plan.grids for value in values):
            self.plan.kinds[node] = OpKind.OTHER
            return
        grids = {self.plan.grids[value] for value in values}
        free = [self.plan.grids[value] for value in values if self.plan.grids[value].fixed_scale is None]
        if len(grids) > 1 and not free:
            grids = {GridPlan(f"{node.name}_grid")}
        # the grid that appeared first gives the name
        shared = next(grid for grid in self.plan.grids.values() if grid in free) if free else grids.pop()
        for grid in free:
            self._replace(grid, shared)
        for value in values:
            if self.plan.grids[value] is not shared:
                self.plan.requantize[node, value] = shared
        self.plan.grids[node] = shared

    def _visit_output(self, node: fx.Node) -> None:
        if not isinstance(node.args[0], fx.Node):
            raise ConfigError("expected a network that returns one tensor, got several; return only the image")
        source = node.args[0]
        image = GridPlan("output_grid", self.image_scale)
        grid = self.plan.grids.get(source)
        if grid is not None and grid.fixed_scale == self.image_scale:
            return
        if grid is not None and grid.fixed_scale is None and self._leads_only_to(grid, node):
            self._replace(grid, image)
        else:
            self.plan.requantize[node, source] = image

    def grid_read(self, reader: fx.Node, value: fx.Node) -> GridPlan:
        return self.plan.requantize.get((reader, value)) or self.plan.grids[value]

    def _fuses_activation(self, node: fx.Node) -> bool:
        users = list(node.users)
        return len(users) == 1 and self.plan.kinds[users[0]] in ACTIVATIONS

    def _round(self, node: fx.Node, grid: GridPlan) -> None:
        self.plan.grids[node] = grid
        self.plan.rounds.append(node)

    def _replace(self, old: GridPlan, new: GridPlan) -> None:
        for node, grid in self.plan.grids.items():
            if grid is old:
                self.plan.grids[node] = new
        for edge, grid in self.plan.requantize.items():
            if grid is old:
                self.plan.requantize[edge] = new

    def _leads_only_to(self, grid: GridPlan, output: fx.Node) -> bool:
        members = {node for node, other in self.plan.grids.items() if other is grid}
        if any(other is grid for other in self.plan.requantize.values()):
            return False
        # clipping to the image's range commutes with moving and with a ReLU; whatever computes must see more of it
        commuting = {OpKind.MOVE, OpKind.CAT, OpKind.RELU}
        readers = {user for node in members for user in node.users} - {output}
        return all(reader in members and self.plan.kinds[reader] in commuting for reader in readers)


def _value(argument: object) -> fx.Node:
    if not isinstance(argument, fx.Node):
        raise ConfigError(f"expected a tensor as the first argument of an op, got {argument!r}; pass it by position")
    return argument
