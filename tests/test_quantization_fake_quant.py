"""Fake quantization against integer arithmetic written out in numpy, and against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edge_sr.errors import ConfigError, ShapeError
from quantization.fake_quant import Grid, Mode, QuantizedConv2d


def _grid(scale: float, zero_point: int) -> Grid:
    grid = Grid(fixed_scale=scale)
    grid.zero_point.fill_(zero_point)
    grid.mode = Mode.QUANTIZE
    return grid


def _convolution(input_grid: Grid, output_grid: Grid, *, bias: bool = True) -> QuantizedConv2d:
    torch.manual_seed(3)
    conv = QuantizedConv2d(nn.Conv2d(4, 6, 3, padding=1, bias=bias), input_grid, output_grid)
    conv.mode = Mode.QUANTIZE
    return conv.eval()


def test_grid_rounds_half_to_even_and_clamps_to_int8() -> None:
    grid = _grid(0.5, 2)
    x = torch.tensor([0.25, 0.75, -0.25, 1000.0, -1000.0, 0.0])
    # steps 0.5 -> 0, 1.5 -> 2, -0.5 -> 0; 127 - 2 and -128 - 2 steps at the ends
    assert grid(x).tolist() == [0.0, 1.0, 0.0, 62.5, -65.0, 0.0]


def test_grid_does_nothing_in_float_and_observe_mode() -> None:
    grid = Grid()
    x = torch.tensor([-0.3, 0.7])
    assert torch.equal(grid(x), x)
    grid.mode = Mode.OBSERVE
    assert torch.equal(grid(x), x)
    assert (float(grid.low), float(grid.high)) == pytest.approx((-0.3, 0.7))


def test_observed_range_is_merged_over_batches_not_averaged() -> None:
    grid = Grid()
    grid.mode = Mode.OBSERVE
    for value in (1.0, 3.0, 2.0, -0.5):
        grid(torch.tensor([0.0, value]))
    assert (float(grid.low), float(grid.high)) == (-0.5, 3.0)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (0.0, 2.55, 0.01, -128),
        (-1.28, 1.27, 0.01, 0),
        (-2.55, 0.0, 0.01, 127),
        (0.5, 2.55, 0.01, -128),  # zero is always inside
        (-2.55, -0.5, 0.01, 127),
    ],
)
def test_range_gives_scale_and_zero_point(low: float, high: float, scale: float, zero_point: int) -> None:
    grid = Grid()
    grid.set_range(low, high)
    assert grid.qparams() == (pytest.approx(scale), zero_point)


def test_range_of_a_fixed_grid_stays() -> None:
    grid = Grid(fixed_scale=1 / 255)
    grid.set_range(-3.0, 3.0)
    assert grid.qparams() == (pytest.approx(1 / 255), -128)


def test_empty_and_infinite_ranges_are_refused() -> None:
    for low, high in ((1.0, -1.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match="expected a finite range"):
            Grid().set_range(low, high)
    with pytest.raises(ConfigError, match="calibrate"):
        Grid().qparams()


def test_nan_activations_are_refused_while_observing() -> None:
    grid = Grid()
    grid.mode = Mode.OBSERVE
    with pytest.raises(ConfigError, match="finite activations"):
        grid(torch.tensor([float("nan")]))


def test_gradient_passes_inside_the_range_and_stops_outside() -> None:
    x = torch.tensor([0.3, 100.0, -100.0], requires_grad=True)
    _grid(0.5, 0)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 0.0]


def test_learned_scale_receives_a_gradient() -> None:
    grid = _grid(0.5, 0)
    grid.scale.requires_grad_(True)
    grid(torch.tensor([1000.0])).sum().backward()
    assert grid.scale.grad is not None
    # a clipped value is 127 steps, so d/dscale = 127, times 1/sqrt(1 * 127)
    assert float(grid.scale.grad) == pytest.approx(127**0.5, rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_convolution_in_eval_mode_is_integer_arithmetic(bias: bool) -> None:
    input_grid, output_grid = _grid(0.013, -7), _grid(0.021, 11)
    conv = _convolution(input_grid, output_grid, bias=bias)
    q = np.random.default_rng(0).integers(-128, 128, (1, 4, 5, 6))
    x = torch.from_numpy((q + 7) * np.float32(0.013)).float()
    weight = conv.weight.detach().numpy()
    scales = np.abs(weight).reshape(6, -1).max(axis=1).astype(np.float32) / np.float32(127)
    integers = np.rint(weight / scales[:, None, None, None]).astype(np.int64)
    padded = np.pad(q + 7, ((0, 0), (0, 0), (1, 1), (1, 1)))
    accumulated = np.zeros((1, 6, 5, 6), np.int64)
    for row in range(3):
        for column in range(3):
            window = padded[:, :, row : row + 5, column : column + 6]
            accumulated += np.einsum("bchw,oc->bohw", window, integers[:, :, row, column])
    if conv.bias is not None:
        accumulated += np.rint(conv.bias.detach().numpy() / (scales * np.float32(0.013))).astype(np.int64)[
            :, None, None
        ]
    multiplier = scales * np.float32(0.013) / np.float32(0.021)
    expected = np.clip(np.rint(accumulated.astype(np.float32) * multiplier[:, None, None]) + 11, -128, 127) - 11
    with torch.no_grad():
        y = conv(x).numpy()
    np.testing.assert_array_equal(np.rint(y / np.float32(0.021)), expected)


def test_training_and_eval_agree_to_one_step_of_the_output() -> None:
    input_grid, output_grid = _grid(1 / 255, -128), _grid(0.01, 0)
    conv = _convolution(input_grid, output_grid)
    x = input_grid(torch.rand(2, 4, 8, 8))
    with torch.no_grad():
        integer, trained = conv(x), output_grid(conv.train()(x))
        conv.training_dtype = torch.bfloat16
        reduced = output_grid(conv(x))
    # float32 sums differ in their last bits, which can turn a rounding: one step; bfloat16 sums in their eighth bit
    assert float((integer - trained).abs().max()) <= 0.01 * 1.001
    assert float((integer - reduced).abs().max()) <= 0.01 * 2.001


def test_weight_and_bias_gradients_pass_straight_through() -> None:
    conv = _convolution(_grid(1 / 255, -128), _grid(0.01, 0)).train()
    plain = nn.Conv2d(4, 6, 3, padding=1)
    x = torch.rand(1, 4, 5, 5)
    conv(x).sum().backward()
    plain(x).sum().backward()
    assert conv.weight.grad is not None
    assert plain.weight.grad is not None
    # the gradient of a sum does not depend on the weights, so rounding them must not change it
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad)
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert conv.bias.grad.tolist() == pytest.approx([25.0] * 6)


def test_weights_of_zero_with_a_bias_keep_the_bias_in_int32() -> None:
    conv = _convolution(_grid(1e-4, 0), _grid(0.01, 0))
    with torch.no_grad():
        conv.weight.zero_()
    _, scales, bias = conv.integer_parameters()
    assert conv.bias is not None
    assert bias is not None
    torch.testing.assert_close(bias, conv.bias.detach(), rtol=1e-6, atol=1e-9)
    assert float((bias / (scales * 1e-4)).abs().max()) < 2**31


def test_other_padding_than_zeros_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero padding"):
        QuantizedConv2d(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), Grid(), Grid())


def test_image_without_a_batch_axis_is_refused() -> None:
    with pytest.raises(ShapeError, match="batch axis"):
        _convolution(_grid(1.0, 0), _grid(1.0, 0))(torch.zeros(4, 5, 5))
