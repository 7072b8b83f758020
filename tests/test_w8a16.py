"""Scheme w8a16: the arithmetic of w8a8 with activations in steps 257 times finer."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from converters.targets import TARGETS, get_target
from edge_sr.errors import ConfigError, UnsupportedScheme
from edge_sr.networks import create_network
from quantization import Mode, QuantizedNetwork, calibrate, load_quantized, prepare, save_quantized, to_qdq
from quantization.fake_quant import Grid, QuantizedConv2d
from quantization.qat_trainer import _choose_parameters, _set_conv_dtype
from quantization.schemes import OpKind, Scheme

OPS = torch.ops.quantized_decomposed
SIZE = (16, 24)
# Values of a grid may land on the other side of a rounding edge, and later ones see that step.
FEW_STEPS = 8


def ramp() -> Tensor:
    """(1, 3, h, w) in [0, 1], levels of 8 bits: smooth, as skies are, each channel along another way."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    channels = (40 + 5 * columns + 3 * rows, 220 - 4 * columns, 60 + 7 * rows)
    return torch.stack(channels)[None].float() / 255


@cache
def deployed() -> nn.Module:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=2, distilled=4)
    nn.init.normal_(network.up.weight, std=0.02)
    return network.deployed()


@cache
def quantized(scheme: str) -> QuantizedNetwork:
    network = prepare(deployed(), scheme)
    generator = torch.Generator().manual_seed(1)
    calibrate(network, [ramp(), torch.randint(0, 256, (2, 3, *SIZE), generator=generator) / 255])
    network.set_mode(Mode.QUANTIZE)
    return network


def root_mean_square(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


# --------------------------------------------------------------------------------------------------------------- grids
def test_the_given_grids_are_those_of_8_bits_on_16() -> None:
    grids = dict(quantized("w8a16").grids())
    fixed = sorted({grid.qparams() for grid in grids.values() if grid.fixed})
    assert fixed == [(pytest.approx(1 / 65536, rel=1e-7), -32768), (pytest.approx(1 / 65535, rel=1e-7), -32768)]
    assert {(grid.minimum, grid.maximum) for grid in grids.values()} == {(-32768, 32767)}


def test_grids_of_w8a8_are_what_they_were() -> None:
    grids = dict(quantized("w8a8").grids())
    fixed = sorted({grid.qparams() for grid in grids.values() if grid.fixed})
    assert fixed == [(pytest.approx(1 / 256), -128), (pytest.approx(1 / 255), -128)]
    assert {(grid.minimum, grid.maximum) for grid in grids.values()} == {(-128, 127)}


def test_both_schemes_round_at_the_same_places_and_calibrated_steps_are_257_times_finer() -> None:
    coarse, fine = (dict(quantized(scheme).grids()) for scheme in ("w8a8", "w8a16"))
    assert list(coarse) == list(fine)
    calibrated = [name for name, grid in coarse.items() if not grid.fixed]
    assert len(calibrated) > 5
    for name in calibrated:  # 65535 steps in place of 255 over the same range
        assert float(coarse[name].scale / fine[name].scale) == pytest.approx(257, rel=1e-5)


def test_every_level_of_8_bits_is_one_whole_number_of_the_pictures_grid() -> None:
    grid = Grid(bits=16, fixed_scale=1 / 65535)
    grid.mode = Mode.QUANTIZE
    levels = torch.arange(256).float()
    steps = grid(levels / 255).double() / float(grid.scale)
    assert torch.equal(steps.round(), 257 * levels.double())
    assert float((steps - steps.round()).abs().max()) < 0.01


def test_a_grid_of_16_bits_clamps_at_its_own_ends() -> None:
    grid = Grid(bits=16)
    grid.set_range(-1.0, 3.0)
    scale, zero_point = grid.qparams()
    assert (scale, zero_point) == (pytest.approx(4 / 65535), -32768 + 16384)
    grid.mode = Mode.QUANTIZE
    assert grid(torch.tensor([-9.0, 9.0])).tolist() == pytest.approx([-1.0, 3.0], abs=scale)


def test_activations_of_other_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected activations of 8 or 16 bits, got 12"):
        Scheme(name="w8a12", summary="", quantized=True, int8_ops=frozenset({OpKind.CONV}), activation_bits=12)


# ------------------------------------------------------------------------------------------------------------- numbers
def test_a_smooth_ramp_comes_closer_to_the_float_network() -> None:
    with torch.no_grad():
        truth = deployed()(ramp()).clamp(0, 1)
        lost = {scheme: root_mean_square(quantized(scheme)(ramp()) - truth) for scheme in ("w8a8", "w8a16")}
    assert lost["w8a16"] < 0.8 * lost["w8a8"]


def test_rounding_activations_costs_a_257th_of_what_it_costs_in_8_bits() -> None:
    # Weights are rounded alike in both schemes, so the truth here has them rounded too.
    rounded = copy.deepcopy(quantized("w8a16"))
    with torch.no_grad():
        for module in rounded.modules():
            if isinstance(module, QuantizedConv2d):
                weight, scale, _ = module.integer_parameters()
                module.weight.copy_(weight * scale.view(-1, 1, 1, 1))
        rounded.set_mode(Mode.FLOAT)
        truth = rounded(ramp()).clamp(0, 1)
        coarse, fine = (root_mean_square(quantized(scheme)(ramp()) - truth) for scheme in ("w8a8", "w8a16"))
    assert 257 / 2 < coarse / fine < 257 * 2


@pytest.mark.parametrize("weights", ["float", "int8"])
@pytest.mark.parametrize("duplicate", [False, True])
def test_qdq_graph_gives_the_fake_quantized_output_to_a_few_of_its_steps(weights: str, duplicate: bool) -> None:
    network = quantized("w8a16")
    module = to_qdq(network, weights=weights, duplicate_dequantize=duplicate)  # type: ignore[arg-type]
    with torch.no_grad():
        apart = (module(ramp()) - network(ramp())).abs() * 65535
    assert float(apart.max()) <= FEW_STEPS


def test_the_exported_graph_holds_int16_activations_and_int8_weights() -> None:
    module = to_qdq(quantized("w8a16"), weights="int8", duplicate_dequantize=False)
    nodes = torch.export.export(module, (ramp(),)).graph.nodes
    per_tensor = [node.args[3:] for node in nodes if node.target is OPS.quantize_per_tensor.default]
    assert per_tensor
    assert {tuple(limits) for limits in per_tensor} == {(-32768, 32767, torch.int16)}
    per_channel = [node.args[4:] for node in nodes if node.target is OPS.dequantize_per_channel.default]
    assert per_channel
    assert {tuple(limits) for limits in per_channel} == {(-127, 127, torch.int8)}


# ------------------------------------------------------------------------------------------------ training and keeping
def training_network() -> QuantizedNetwork:
    network = copy.deepcopy(quantized("w8a16"))
    _choose_parameters(network, learn_scales=True)
    return network.train()


def test_training_gives_finite_gradients_to_weights_and_scales() -> None:
    network = training_network()
    (network(ramp()) - deployed()(ramp()).clamp(0, 1) + 0.01).square().mean().backward()
    scales = [grid.scale for _, grid in network.grids() if not grid.fixed]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {id(scale) for scale in scales} < {id(parameter) for parameter in trained}
    for parameter in trained:
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    assert sum(bool(scale.grad != 0) for scale in scales) > len(scales) / 2


def test_convolutions_are_not_trained_in_a_type_that_cannot_hold_their_inputs() -> None:
    # bfloat16 has 8 bits: it would round activations of 16 to what w8a8 has.
    whole, reduced = training_network(), training_network()
    _set_conv_dtype(reduced, torch.bfloat16)
    with torch.no_grad():
        apart = (reduced(ramp()) - whole(ramp())).abs() * 65535
    assert float(apart.max()) <= FEW_STEPS


def test_a_saved_network_comes_back_with_the_same_output(tmp_path: Path) -> None:
    network, path = quantized("w8a16"), tmp_path / "network.safetensors"
    save_quantized(path, network, {})
    loaded = load_quantized(path, expect_model="idsa_net_mobile")
    assert loaded.qnet.scheme.name == "w8a16"
    assert loaded.qnet.scheme.activation_bits == 16
    with torch.no_grad():
        assert torch.equal(loaded.qnet(ramp()), network(ramp()))


# ------------------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize("target", ["tflite", "executorch", "coreml"])
def test_targets_without_16_bit_activations_refuse_it_in_one_line(target: str) -> None:
    with pytest.raises(
        UnsupportedScheme, match=rf"scheme for target {target} must be one of .*, got 'w8a16'"
    ) as caught:
        get_target(target).check_scheme("w8a16")
    assert "\n" not in str(caught.value)


def test_one_target_takes_it() -> None:
    assert [target.name for target in TARGETS.values() if "w8a16" in target.schemes] == ["qnn"]
