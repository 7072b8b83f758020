"""The QDQ graph that converters read: its ops, its numbers, and that it computes what the network does."""

from __future__ import annotations

import operator
from collections import Counter
from functools import cache
from typing import Literal

import pytest
import torch
from torch import Tensor, fx, nn

from edge_sr.errors import ConfigError
from edge_sr.networks import create_network
from quantization import QuantizedNetwork, calibrate, prepare, to_qdq

OPS = torch.ops.quantized_decomposed
QUANTIZE, DEQUANTIZE = OPS.quantize_per_tensor.default, OPS.dequantize_per_tensor.default


@cache
def _network(scheme: str = "w8a8") -> QuantizedNetwork:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=2, distilled=2)
    nn.init.normal_(network.up.weight, std=0.02)
    quantized = prepare(network.deployed(), scheme)
    calibrate(quantized, _images())
    return quantized


def _images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (1, 3, 12, 16), generator=generator) / 255 for _ in range(3)]


@cache
def _exported(weights: Literal["float", "int8"], *, duplicate: bool = False) -> fx.Graph:
    module = to_qdq(_network(), weights=weights, duplicate_dequantize=duplicate)
    return torch.export.export(module, (_images()[0],)).graph


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("scheme", ["w8a8", "w8a8_mixed"])
@pytest.mark.parametrize("duplicate", [False, True])
def test_qdq_module_gives_the_fake_quantized_output_to_one_level(
    weights: Literal["float", "int8"], scheme: str, duplicate: bool
) -> None:
    network = _network(scheme)
    module = to_qdq(network, weights=weights, duplicate_dequantize=duplicate)
    with torch.no_grad():
        for x in _images():
            levels = (module(x) - network(x)).abs() * 255
            assert float(levels.max()) < 1.01


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_exported_scales_are_python_numbers(weights: Literal["float", "int8"]) -> None:
    nodes = [node for node in _exported(weights).nodes if node.target in (QUANTIZE, DEQUANTIZE)]
    assert nodes
    for node in nodes:
        _, qscale, zero_point, *limits = node.args
        assert type(qscale) is float
        assert type(zero_point) is int
        assert limits == [-128, 127, torch.int8]


def test_every_computing_op_of_w8a8_sits_between_dequantize_and_quantize() -> None:
    graph = _exported("float")
    aten = torch.ops.aten
    quantizing = {QUANTIZE, DEQUANTIZE, OPS.quantize_per_channel.default, OPS.dequantize_per_channel.default}
    relu = aten.relu.default
    for node in graph.nodes:
        if node.op != "call_function" or node.target in quantizing or node.target is operator.getitem:
            continue
        if node.target is aten.conv2d.default:
            inputs = list(node.args[:2])
        elif node.target is aten.cat.default:
            inputs = list(node.args[0])
        else:
            inputs = [arg for arg in node.args if isinstance(arg, fx.Node)]
        allowed = {DEQUANTIZE, OPS.dequantize_per_channel.default}
        chained = {aten.conv2d.default} if node.target is relu else {aten.slice.Tensor}
        assert {value.target for value in inputs} <= allowed | chained, node
        readers = {user.target for user in node.users}
        assert readers in ({QUANTIZE}, {relu}, {aten.slice.Tensor}), node


def test_float_weights_are_quantized_in_the_graph_and_int8_weights_are_not() -> None:
    cases: tuple[tuple[Literal["float", "int8"], int], ...] = (("float", 15), ("int8", 0))
    for weights, count in cases:
        module = to_qdq(_network(), weights=weights, duplicate_dequantize=False)
        kinds = Counter(node.target for node in _exported(weights).nodes)
        convolutions = kinds[torch.ops.aten.conv2d.default]
        assert convolutions == 15  # head, attention, up and base; two per block; four to purify; three of the gate
        assert kinds[OPS.quantize_per_channel.default] == count
        assert kinds[OPS.dequantize_per_channel.default] == convolutions
        stored = {value.dtype for name, value in module.state_dict().items() if name.endswith("weight")}
        assert stored == {torch.float32 if weights == "float" else torch.int8}


def test_duplicated_dequantize_has_one_reader_each() -> None:
    shared = [len(node.users) for node in _exported("int8").nodes if node.target is DEQUANTIZE]
    single = [len(node.users) for node in _exported("int8", duplicate=True).nodes if node.target is DEQUANTIZE]
    assert max(shared) > 1
    assert set(single) == {1}


def test_constant_operand_is_stored_in_int8_behind_a_dequantize() -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.gain = nn.Parameter(torch.tensor([0.2, 0.4, 1.0]).view(1, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x * self.gain)

    network = prepare(Gain(), "w8a8")
    calibrate(network, _images())
    module = to_qdq(network, weights="int8", duplicate_dequantize=False)
    assert module.gain_int8.dtype is torch.int8
    assert module.gain_int8.flatten().tolist() == [51 - 128, 102 - 128, 255 - 128]  # 0.2, 0.4 and 1.0 on 1/255
    graph = torch.export.export(module, (_images()[0],)).graph
    mul = next(node for node in graph.nodes if node.target is torch.ops.aten.mul.Tensor)
    assert [arg.target for arg in mul.args] == [DEQUANTIZE, DEQUANTIZE]


def test_biases_in_int32_are_the_float_ones_to_the_bit_on_the_scale_of_input_times_weight() -> None:
    network = _network()
    floats = to_qdq(network, weights="int8", duplicate_dequantize=False)
    whole = to_qdq(network, weights="int8", duplicate_dequantize=False, int32_biases=True)
    x = _images()[0]
    with torch.no_grad():
        assert torch.equal(whole(x), floats(x))
    stored = {name: value for name, value in whole.state_dict().items() if name.endswith(".bias")}
    assert stored
    for name, bias in stored.items():
        conv = network.graph_module.get_submodule(name.removesuffix(".bias"))
        assert bias.dtype is torch.int32
        scales = whole.get_buffer(f"{name}_scales")
        assert torch.equal(scales, conv.weight_scale() * conv.input_grid.scale)
        assert torch.equal(bias * scales, floats.get_buffer(name))


def test_integer_ends_take_a_pixel_minus_128_and_give_one() -> None:
    network = _network()
    floats = to_qdq(network, weights="int8", duplicate_dequantize=True)
    whole = to_qdq(network, weights="int8", duplicate_dequantize=True, integer_ends=True)
    pixels = torch.arange(3 * 12 * 16).remainder(256).reshape(1, 3, 12, 16)
    with torch.no_grad():
        result = whole((pixels - 128).to(torch.int8))
        expected = floats(pixels / 255)
    assert result.dtype is torch.int8
    assert torch.equal(result.int() + 128, (expected * 255).round().int())


def test_ends_of_a_network_with_16_bits_take_257_times_a_pixel_minus_32768() -> None:
    network = _network("w8a16")
    floats = to_qdq(network, weights="int8", duplicate_dequantize=True)
    whole = to_qdq(network, weights="int8", duplicate_dequantize=True, integer_ends=True)
    pixels = torch.arange(3 * 12 * 16).remainder(256).reshape(1, 3, 12, 16)
    with torch.no_grad():
        result = whole((257 * pixels - 32768).to(torch.int16))
        expected = floats(pixels / 255)
    assert result.dtype is torch.int16
    assert torch.equal(result.int() + 32768, (expected * 65535).round().int())


def test_rounding_before_a_clipping_changes_nothing_but_that_it_stands_alone() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.functional.hardtanh(self.conv(x), -0.21, 0.17))

    torch.manual_seed(0)
    network = prepare(Clipped(), "w8a8")
    calibrate(network, _images())
    modules = [
        to_qdq(network, weights="int8", duplicate_dequantize=True, round_before_clips=apart) for apart in (False, True)
    ]
    with torch.no_grad():
        for x in _images():
            assert torch.equal(modules[0](x), modules[1](x))
    clips = [next(node for node in module.graph.nodes if "hardtanh" in node.name) for module in modules]
    assert [clip.args[0].target is DEQUANTIZE for clip in clips] == [False, True]


def test_converting_leaves_the_network_alone() -> None:
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = _images()[0]
    output = network(x)
    to_qdq(network, weights="int8", duplicate_dequantize=True)
    assert torch.equal(network(x), output)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_converting_takes_other_sizes_than_it_was_calibrated_on() -> None:
    module = to_qdq(_network(), weights="float", duplicate_dequantize=False)
    assert module(torch.zeros(2, 3, 5, 7)).shape == (2, 3, 10, 14)


def test_uncalibrated_network_and_unknown_storage_are_refused() -> None:
    network = prepare(create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=2).deployed(), "w8a8")
    with pytest.raises(ConfigError, match="run calibrate"):
        to_qdq(network, weights="int8", duplicate_dequantize=False)
    with pytest.raises(ConfigError, match="int4"):
        to_qdq(_network(), weights="int4", duplicate_dequantize=False)  # type: ignore[arg-type]
