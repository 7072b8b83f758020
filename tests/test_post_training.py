"""Bias correction and learned rounding on planted layers, against arithmetic in numpy."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_sr.errors import ConfigError
from edge_sr.networks import create_network
from quantization import QuantizedNetwork, calibrate, prepare
from quantization.bias_correction import correct_biases
from quantization.fake_quant import QuantizedConv2d
from quantization.layerwise import Layer, walk_convolutions
from quantization.rounding import learn_rounding


class _OneLayer(nn.Module):
    """A pointwise or 3x3 convolution of the picture."""

    def __init__(self, outputs: int = 3, kernel: int = 1, **settings: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, kernel, padding=kernel // 2, **settings)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _batches(count: int = 3, side: int = 12, seed: int = 0) -> list[Tensor]:
    """Pictures of whole levels, so that the input's grid holds them exactly; neighbours and colours go together."""
    generator = np.random.default_rng(seed)
    grey = generator.integers(0, 200, (count, 2, 1, side // 4, side // 4)).repeat(4, axis=3).repeat(4, axis=4)
    levels = grey + generator.integers(0, 56, (count, 2, 3, side, side))
    return list(torch.from_numpy(levels / np.float32(255)).float())


def _quantized(network: nn.Module, batches: list[Tensor]) -> QuantizedNetwork:
    quantized = prepare(network, "w8a8")
    calibrate(quantized, batches)
    return quantized


def _conv(network: QuantizedNetwork, name: str = "conv") -> QuantizedConv2d:
    found = network.graph_module.get_submodule(name)
    assert isinstance(found, QuantizedConv2d)
    return found


def _integers(weight: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(weights rounded to nearest, scales), each channel's largest weight at 127."""
    rows = weight.detach().numpy().astype(np.float64).reshape(len(weight), -1)
    scales = np.abs(rows).max(axis=1, keepdims=True) / 127
    return np.round(rows / scales), scales


def _pixels(batches: list[Tensor]) -> NDArray[np.float64]:
    """(3, pixels): what a pointwise convolution reads."""
    whole = torch.cat(batches).numpy().astype(np.float64)
    return whole.transpose(1, 0, 2, 3).reshape(3, -1)


@pytest.fixture(scope="module")
def mobile() -> nn.Module:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=2, distilled=2)
    nn.init.normal_(network.up.weight, std=0.05)
    for layer in (network.purify.squeeze, network.purify.near, network.purify.far, network.hybrid.squeeze):
        nn.init.constant_(layer.bias, 0.3)  # no ReLU gives zeros only: int32 biases would decide the weights' scales
    return network.deployed()


# ---------------------------------------------------------------------------------------------------- bias correction
def test_bias_correction_takes_a_planted_shift_out() -> None:
    torch.manual_seed(1)
    network, batches = _OneLayer(), _batches()
    quantized = _quantized(network, batches)
    integers, scales = _integers(network.conv.weight)
    x = _pixels(batches)
    float_means = (network.conv.weight.numpy().reshape(3, 3) @ x).mean(1) + network.conv.bias.numpy()
    wanted = float_means - (integers * scales @ x).mean(1)
    planted = torch.tensor([0.25, -0.125, 0.0625])
    with torch.no_grad():
        _conv(quantized).bias += planted
    (shift,) = correct_biases(quantized, network, batches)
    assert _conv(quantized).bias.numpy() == pytest.approx(wanted, abs=1e-6)
    assert shift.layer == "conv"
    assert shift.largest == pytest.approx(np.abs(wanted - network.conv.bias.numpy() - planted.numpy()).max(), abs=1e-6)
    assert shift.largest_steps == pytest.approx(shift.largest * 255)  # the output lies on the image's grid


def test_bias_correction_makes_up_for_the_layers_before(mobile: nn.Module) -> None:
    batches = _batches(4, 16)
    quantized = _quantized(mobile, batches)
    with torch.no_grad():
        _conv(quantized, "head").weight.mul_(0.9)  # a mean that is off in everything that follows
    correct_biases(quantized, mobile, batches)
    seen: list[float] = []

    def visit(layer: Layer) -> None:
        assert layer.reference.bias is not None
        ours = torch.cat([layer.convolution._conv(x, _rounded(layer.convolution), None) for x in layer.inputs])
        theirs = torch.cat([layer.reference(x) for x in layer.float_inputs])
        means = ours.mean((0, 2, 3)) + layer.convolution.bias
        seen.append(float((means - theirs.mean((0, 2, 3))).abs().max() / theirs.std()))

    walk_convolutions(quantized, mobile, batches, visit)
    assert len(seen) == 14
    assert max(seen) < 1e-4


def _rounded(convolution: QuantizedConv2d) -> Tensor:
    integers, scales = _integers(convolution.weight)
    return torch.from_numpy(integers * scales).float().view_as(convolution.weight)


def test_bias_correction_leaves_weights_and_grids_alone(mobile: nn.Module) -> None:
    batches = _batches(2, 16)
    quantized = _quantized(mobile, batches)
    before = {name: value.clone() for name, value in quantized.state_dict().items()}
    correct_biases(quantized, mobile, batches)
    changed = {name for name, value in quantized.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.endswith(".bias") for name in changed)


# ------------------------------------------------------------------------------------------------------------ rounding
def test_learned_rounding_is_the_best_of_all_roundings_of_a_small_layer() -> None:
    torch.manual_seed(3)
    network, batches = _OneLayer(outputs=6), _batches()
    with torch.no_grad():
        network.conv.weight[:, 0] = 1.0
        # Fractions of .4 in both colours: nearest rounding takes both down, and the errors of colours that go
        # together add up; one up and one down nearly cancel.
        network.conv.weight[:, 1:] = (
            torch.tensor([[20.4, 30.4], [40.45, 7.3], [3.4, 90.4]]).repeat(2, 1)[..., None, None] / 127
        )
    quantized = _quantized(network, batches)
    (row,) = learn_rounding(quantized, network, batches)
    weight = network.conv.weight.numpy().astype(np.float64).reshape(6, 3)
    nearest, scales = _integers(network.conv.weight)
    x = _pixels(batches)
    x -= x.mean(1, keepdims=True)

    def errors(integers: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.square((integers * scales - weight) @ x).mean(1)
        return result

    low = np.floor(weight / scales + 1e-6)
    best = np.min([errors(low + np.array([0, *up])) for up in itertools.product((0, 1), repeat=2)], axis=0)
    learned, _ = _integers(_conv(quantized).weight)
    assert errors(learned) == pytest.approx(best, rel=1e-6)
    assert row.nearest_mse == pytest.approx(errors(nearest).mean(), rel=1e-3)
    assert row.learned_mse == pytest.approx(best.mean(), rel=1e-3)
    assert row.learned_mse < row.nearest_mse / 2
    assert row.flipped == pytest.approx((learned != nearest).mean())
    assert row.flipped > 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"groups": 3}, {"dilation": 2}, {"stride": 2}, {"padding": "same", "dilation": 3}, {"padding": "valid"}],
    ids=str,
)
def test_learned_rounding_lowers_the_error_of_any_convolution(settings: dict[str, Any]) -> None:
    torch.manual_seed(4)
    network, batches = nn.Sequential(nn.Conv2d(3, 6, 3, **settings)), _batches()
    network.eval().requires_grad_(False)
    quantized = _quantized(network, batches)
    nearest = _rounded(_conv(quantized, "0"))
    (row,) = learn_rounding(quantized, network, batches)
    learned = _conv(quantized, "0").weight

    def error(weight: Tensor) -> float:
        conv = network[0]
        differences = torch.cat([conv._conv_forward(x, weight - conv.weight, None) for x in batches])
        about_means = differences - differences.mean((0, 2, 3), keepdim=True)
        return float(about_means.square().mean())

    assert row.nearest_mse == pytest.approx(error(nearest), rel=0.02)  # of one pixel in one or three
    assert row.learned_mse == pytest.approx(error(learned), rel=0.02)
    assert error(learned) < 0.95 * error(nearest)


def test_learned_weights_are_grid_points_less_than_a_step_away(mobile: nn.Module) -> None:
    batches = _batches(3, 16)
    quantized = _quantized(mobile, batches)
    grids = {name: grid.qparams() for name, grid in quantized.grids()}
    rows = learn_rounding(quantized, mobile, batches)
    assert any(row.flipped > 0 for row in rows)
    assert all(row.learned_mse <= row.nearest_mse for row in rows)
    for row in rows:
        original = mobile.get_submodule(row.layer)
        _, scales = _integers(original.weight)
        steps = _conv(quantized, row.layer).weight.numpy().astype(np.float64).reshape(len(scales), -1) / scales
        assert np.abs(steps - np.round(steps)).max() < 1e-4
        assert np.abs(steps).max() == pytest.approx(127)
        away = np.abs(steps - original.weight.numpy().reshape(len(scales), -1) / scales)
        assert away.max() < 1
    assert {name: grid.qparams() for name, grid in quantized.grids()} == grids


def test_learned_rounding_comes_closer_to_the_float_network(mobile: nn.Module) -> None:
    batches, others = _batches(4, 24), _batches(4, 24, seed=9)
    quantized = _quantized(mobile, batches)

    def error() -> float:
        return sum(float((quantized(x) - mobile(x)).square().mean()) for x in others)

    with torch.no_grad():
        before = error()
        learn_rounding(quantized, mobile, batches)
        assert error() < before


# ------------------------------------------------------------------------------------------------------------ the walk
def test_the_walk_gives_each_layer_what_the_networks_compute_there(mobile: nn.Module) -> None:
    batches = _batches(2, 16)
    quantized = _quantized(mobile, batches)
    seen: dict[str, Tensor] = {}
    recorded: dict[str, Tensor] = {}
    hooks = []
    for name, module in quantized.graph_module.named_modules():
        if isinstance(module, QuantizedConv2d):
            hooks.append(module.register_forward_hook(functools.partial(_keep_input, recorded, name)))
    with torch.no_grad():
        quantized(batches[1])
    for hook in hooks:
        hook.remove()
    walk_convolutions(quantized, mobile, batches, lambda layer: seen.update({layer.name: layer.inputs[1]}))
    assert set(seen) == set(recorded) - {"base"}  # it only copies
    assert all(torch.equal(value, recorded[name]) for name, value in seen.items())


def _keep_input(kept: dict[str, Tensor], name: str, _: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
    kept[name] = inputs[0]


def test_the_walk_reports_progress_and_refuses_what_does_not_belong_together(mobile: nn.Module) -> None:
    batches = _batches(1, 16)
    quantized = _quantized(mobile, batches)
    counts: list[tuple[int, int]] = []
    correct_biases(quantized, mobile, batches, progress=lambda done, total: counts.append((done, total)))
    assert counts == [(done, 14) for done in range(1, 15)]
    with pytest.raises(ConfigError, match="at least one batch"):
        correct_biases(quantized, mobile, [])
    with pytest.raises(ConfigError, match="float network of this"):
        learn_rounding(quantized, _OneLayer(), batches)
    with pytest.raises(ConfigError, match="max_sweeps"):
        learn_rounding(quantized, mobile, batches, max_sweeps=0)
    with pytest.raises(ConfigError, match="range"):
        correct_biases(prepare(mobile, "w8a8"), mobile, batches)
