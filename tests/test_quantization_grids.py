"""Which values lie on which grid: small networks whose plan can be told by reading them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_sr.errors import ConfigError, UnsupportedScheme
from quantization import Mode, QuantizedNetwork, prepare
from quantization.fake_quant import Grid, QuantizedConv2d
from quantization.op_kinds import is_averaging, is_copying
from quantization.schemes import SCHEMES, OpKind, Scheme, get_scheme


class Net(nn.Module):
    """A network whose forward is given; ``c1``..``c3`` are 3x3 convolutions of four channels."""

    def __init__(self, body: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.c1, self.c2, self.c3 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.wide = nn.Conv2d(8, 4, 1)
        self.clip = nn.Hardtanh()
        self.gain = nn.Parameter(torch.full((1, 4, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _prepared(body: Callable[[Net, Tensor], Tensor], scheme: str = "w8a8") -> QuantizedNetwork:
    return prepare(Net(body), scheme)


def _names(network: QuantizedNetwork) -> list[str]:
    return [name for name, _ in network.grids()]


def _conv(network: QuantizedNetwork, name: str) -> QuantizedConv2d:
    module = network.graph_module.get_submodule(name)
    assert isinstance(module, QuantizedConv2d)
    return module


def _calls(network: QuantizedNetwork, grid: str) -> int:
    return sum(node.target == f"grids.{grid}" for node in network.graph_module.graph.nodes)


def test_input_and_output_lie_on_the_8_bit_image_grid() -> None:
    network = _prepared(lambda net, x: net.c1(net.head(x)))
    assert _names(network) == ["x_grid", "head_grid", "output_grid"]
    for name in ("x_grid", "output_grid"):
        grid = network.graph_module.get_submodule(f"grids.{name}")
        assert isinstance(grid, Grid)
        assert grid.fixed
        assert grid.qparams() == (pytest.approx(1 / 255), -128)


def test_relu_is_fused_where_it_is_the_only_reader() -> None:
    network = _prepared(lambda net, x: net.c1(F.relu(net.head(x))))
    assert _names(network) == ["x_grid", "relu_grid", "output_grid"]
    assert _conv(network, "head").output_grid is network.graph_module.get_submodule("grids.relu_grid")


@pytest.mark.parametrize("clip", ["hardtanh", "relu6", "clip"])
def test_clipping_is_fused_where_it_is_the_only_reader(clip: str) -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.head(x)
        return net.c1(net.clip(y) if clip == "clip" else getattr(F, clip)(y))

    network = _prepared(body)
    assert _names(network) == ["x_grid", f"{clip}_grid", "output_grid"]
    assert _conv(network, "head").output_grid is network.graph_module.get_submodule(f"grids.{clip}_grid")


def test_clipping_of_a_value_read_elsewhere_stays_float_because_its_limits_need_not_lie_on_the_grid() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.head(x)
        return net.c1(F.hardtanh(y)) + y

    assert _names(_prepared(body)) == ["x_grid", "head_grid", "hardtanh_entry_grid", "c1_grid", "output_grid"]


def test_relu_of_a_value_read_elsewhere_shares_its_grid() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.head(x)
        return net.c1(torch.relu(y)) + y

    network = _prepared(body)
    assert "head_grid" in _names(network)
    assert "relu_grid" not in _names(network)
    assert _conv(network, "c1").input_grid is _conv(network, "head").output_grid


def test_moved_values_share_the_grid_of_what_they_move() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.head(x)
        y = F.interpolate(y[:, :, 1:].transpose(2, 3), scale_factor=2.0)
        return net.c1(F.pixel_shuffle(torch.cat([y, y, y, y], 1), 2))

    network = _prepared(body)
    assert _names(network) == ["x_grid", "head_grid", "output_grid"]
    assert _conv(network, "c1").input_grid is _conv(network, "head").output_grid


def test_concatenation_shares_one_grid_among_inputs_and_output() -> None:
    network = _prepared(lambda net, x: net.wide(torch.cat([net.head(x), F.relu(net.c1(net.head(x)))], 1)))
    head_second = next(name for name, _ in network.graph_module.named_children() if name.startswith("head_head"))
    assert _conv(network, "wide").input_grid is _conv(network, "c1").output_grid
    assert _conv(network, "wide").input_grid is _conv(network, "head").output_grid
    assert _conv(network, head_second).weight is _conv(network, "head").weight


def test_concatenation_requantizes_what_lies_on_a_given_grid() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.head(x)
        return net.wide(torch.cat([torch.sigmoid(y), y], 1))

    network = _prepared(body)
    assert _conv(network, "wide").input_grid is _conv(network, "head").output_grid
    assert _calls(network, "head_grid") == 2  # after head, and on the sigmoid before the concatenation


def test_sigmoid_lies_on_one_256th() -> None:
    network = _prepared(lambda net, x: net.c1(net.head(x) * torch.sigmoid(net.c2(net.head(x)))))
    grid = network.graph_module.get_submodule("grids.sigmoid_grid")
    assert isinstance(grid, Grid)
    assert grid.qparams() == (1 / 256, -128)


def test_output_behind_a_shuffle_puts_the_sum_itself_on_the_image_grid() -> None:
    network = _prepared(lambda net, x: F.pixel_shuffle(net.c1(net.head(x)) + net.c2(net.head(x)), 2))
    assert _names(network)[-1] == "output_grid"
    assert "add_grid" not in _names(network)


def test_output_that_is_read_inside_too_is_requantized() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.head(x)
        return torch.cat([y, net.c1(y)], 1)

    network = _prepared(body)
    assert _names(network) == ["x_grid", "head_grid", "output_grid"]
    assert _calls(network, "output_grid") == 1


def test_float_ops_stay_float_and_their_int8_readers_round_once() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = F.gelu(net.head(x))
        return net.c1(y) + net.c2(y)

    network = _prepared(body)
    assert "gelu_entry_grid" in _names(network)
    assert _calls(network, "gelu_entry_grid") == 1
    assert _conv(network, "c1").input_grid is _conv(network, "c2").input_grid


def test_sum_with_a_float_operand_or_a_number_stays_float() -> None:
    network = _prepared(lambda net, x: net.c2(net.c1((F.gelu(net.head(x)) + x[:, :1]) * 2.0)))
    assert _names(network) == ["x_grid", "head_grid", "mul_entry_grid", "c1_grid", "output_grid"]


def test_constant_operand_gets_a_grid_of_its_own() -> None:
    network = _prepared(lambda net, x: net.c1(net.head(x) * net.gain))
    assert "gain_grid" in _names(network)
    assert "mul_grid" in _names(network)


def test_mixed_scheme_quantizes_convolutions_sigmoids_and_what_moves_between_them() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.head(x)
        return net.wide(torch.cat([net.c1(y), y], 1)) * torch.sigmoid(net.c2(y))

    network = _prepared(body, "w8a8_mixed")
    assert _names(network) == ["x_grid", "head_grid", "wide_grid", "c2_grid", "sigmoid_grid", "output_grid"]
    assert network.scheme.name == "w8a8_mixed"


def test_copying_convolution_stays_on_its_inputs_grid_and_is_exact() -> None:
    net = Net(lambda net, x: net.copy(x))
    net.copy = nn.Conv2d(3, 12, 1, bias=False)
    net.copy.weight = nn.Parameter(torch.eye(3).repeat_interleave(4, dim=0)[:, :, None, None], requires_grad=False)
    assert is_copying(net.copy)
    network = prepare(net, "w8a8")
    assert _names(network) == ["x_grid"]
    network.set_mode(Mode.QUANTIZE)
    levels = torch.arange(255.0).view(1, 3, 5, 17)
    with torch.no_grad():
        y = network(levels / 255)
    assert torch.equal((y * 255).round(), levels.repeat_interleave(4, dim=1))


def test_averaging_convolution_is_a_statistic_and_stays_float() -> None:
    average = nn.Conv2d(4, 4, 1, bias=False)
    nn.init.constant_(average.weight, 0.25)
    assert is_averaging(average)
    assert not is_averaging(nn.Conv2d(4, 4, 1))
    net = Net(lambda net, x: net.c1(net.average(net.head(x))))
    net.average = average
    assert isinstance(prepare(net, "w8a8").graph_module.average, nn.Conv2d)


def test_preparing_keeps_the_network_and_its_output_in_float_mode() -> None:
    net = Net(lambda net, x: net.c1(F.relu(net.head(x))))
    net.scale, net.model_name = 1, "net"
    before = {name: value.clone() for name, value in net.state_dict().items()}
    network = prepare(net, "w8a8")
    x = torch.rand(1, 3, 6, 6)
    assert torch.equal(network(x), net.eval()(x))
    assert (network.scale, network.model_name) == (1, "net")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert network.graph_module.head.weight is not net.head.weight


def test_quantizing_before_calibration_names_the_grids_without_range() -> None:
    with pytest.raises(ConfigError, match="head_grid"):
        _prepared(lambda net, x: net.c1(net.head(x))).set_mode(Mode.QUANTIZE)


def test_float_schemes_and_unknown_ones_are_refused() -> None:
    net = Net(lambda net, x: net.head(x))
    for name in ("fp32", "fp16", "int4"):
        with pytest.raises(UnsupportedScheme, match=name):
            prepare(net, name)


def test_network_with_two_inputs_or_outputs_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    for module in (Two(), Pair()):
        with pytest.raises(ConfigError, match="expected a network"):
            prepare(module, "w8a8")


def test_schemes_are_the_five_and_hold_together() -> None:
    assert list(SCHEMES) == ["fp32", "fp16", "w8a8", "w8a8_mixed", "w8a16"]
    assert [name for name in SCHEMES if SCHEMES[name].quantized] == ["w8a8", "w8a8_mixed", "w8a16"]
    assert [name for name in SCHEMES if SCHEMES[name].activation_bits == 16] == ["w8a16"]
    assert SCHEMES["w8a16"].int8_ops == SCHEMES["w8a8"].int8_ops
    assert SCHEMES["w8a8_mixed"].int8_ops < SCHEMES["w8a8"].int8_ops
    with pytest.raises(
        UnsupportedScheme, match="scheme must be one of fp32, fp16, w8a8, w8a8_mixed, w8a16, got 'int4'"
    ):
        get_scheme("int4")
    with pytest.raises(ConfigError, match="int8_ops"):
        Scheme(name="none", summary="", quantized=True)
    with pytest.raises(ConfigError, match="OTHER"):
        Scheme(name="all", summary="", quantized=True, int8_ops=frozenset({OpKind.OTHER}))
