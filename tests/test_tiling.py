"""Tiles cover every pixel once, keep their context, and put every pixel back where it came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_sr.errors import ConfigError, RunnerError, ShapeError
from edge_sr.runner import Runner, TorchRunner, to_float, to_uint8
from edge_sr.tiling import plan_tiles, upscale_image

Image = NDArray[np.uint8]


class RepeatingRunner:
    """Repeats pixels; remembers what it was given."""

    name = "repeating"

    def __init__(self, scale: int, tile: tuple[int, int] | None) -> None:
        self.scale = scale
        self.tile = tile
        self.seen: list[Image] = []

    def run(self, lr: Image) -> Image:
        assert self.tile is None or lr.shape[:2] == self.tile
        self.seen.append(lr.copy())
        return lr.repeat(self.scale, axis=0).repeat(self.scale, axis=1)


class TinyNetwork(nn.Module):
    """Two 3x3 convolutions and a pixel shuffle: reaches two pixels."""

    scale = 2

    def __init__(self, tile_multiple: int = 1) -> None:
        super().__init__()
        self.tile_multiple = tile_multiple
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % self.tile_multiple == 0
        assert x.shape[3] % self.tile_multiple == 0
        return functional.pixel_shuffle(self.up(torch.relu(self.body(x))), 2) + 0.5


def _noise(height: int, width: int) -> Image:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


sides = st.integers(1, 70)
tile_sides = st.integers(1, 24)


@st.composite
def plans(draw: Any) -> tuple[int, int, tuple[int, int], int]:
    tile = (draw(tile_sides), draw(tile_sides))
    return draw(sides), draw(sides), tile, draw(st.integers(0, min(tile) - 1))


@settings(deadline=None, max_examples=80)
@given(plans())
def test_every_pixel_is_kept_by_exactly_one_tile(plan: tuple[int, int, tuple[int, int], int]) -> None:
    height, width, size, overlap = plan
    count = np.zeros((height, width), int)
    for tile in plan_tiles(height, width, size, overlap):
        count[tile.keep_top : tile.keep_bottom, tile.keep_left : tile.keep_right] += 1
    assert (count == 1).all()


@settings(deadline=None, max_examples=80)
@given(plans())
def test_tiles_stay_inside_the_image_and_keep_their_context(plan: tuple[int, int, tuple[int, int], int]) -> None:
    height, width, size, overlap = plan
    for tile in plan_tiles(height, width, size, overlap):
        assert (tile.height, tile.width) == size
        for start, side, first, end, limit in (
            (tile.top, tile.height, tile.keep_top, tile.keep_bottom, height),
            (tile.left, tile.width, tile.keep_left, tile.keep_right, width),
        ):
            assert start >= 0
            assert start + side <= max(limit, side)
            assert start <= first < end <= min(start + side, limit)
            assert first == 0 or first - start >= overlap // 2
            assert end == limit or start + side - end >= overlap // 2


@settings(deadline=None, max_examples=30)
@given(plans(), st.integers(2, 4))
def test_tiles_put_every_pixel_back_in_its_place(plan: tuple[int, int, tuple[int, int], int], scale: int) -> None:
    height, width, size, overlap = plan
    lr = _noise(height, width)
    sr = upscale_image(RepeatingRunner(scale, size), lr, overlap=overlap)
    assert (sr == lr.repeat(scale, axis=0).repeat(scale, axis=1)).all()


def test_a_plan_worked_out_by_hand() -> None:
    # 20 pixels, tiles of 8 that share 2: starts 0, 6, 12 = 20 - 8; cuts halfway through 6..8 and 12..14.
    columns = [(tile.left, tile.keep_left, tile.keep_right) for tile in plan_tiles(8, 20, (8, 8), 2)]
    assert columns == [(0, 0, 7), (6, 7, 13), (12, 13, 20)]
    # 17 pixels: the third tile is shifted back to 9 and shares 9..14 with the second, cut at 11.
    columns = [(tile.left, tile.keep_left, tile.keep_right) for tile in plan_tiles(8, 17, (8, 8), 2)]
    assert columns == [(0, 0, 7), (6, 7, 11), (9, 11, 17)]


def test_the_last_tiles_end_where_the_image_ends() -> None:
    tiles = plan_tiles(50, 61, (16, 24), 5)
    assert max(tile.top + tile.height for tile in tiles) == 50
    assert max(tile.left + tile.width for tile in tiles) == 61


def test_an_image_of_the_tiles_size_takes_one_tile() -> None:
    assert len(plan_tiles(16, 16, (16, 16), 8)) == 1
    assert len(plan_tiles(16, 17, (16, 16), 8)) == 2


def test_a_small_image_is_mirrored_at_the_bottom_and_right() -> None:
    lr = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    runner = RepeatingRunner(2, (5, 4))
    assert upscale_image(runner, lr, overlap=0).shape == (4, 6, 3)
    (seen,) = runner.seen
    rows = [0, 1, 1, 0, 0]  # mirrored again where one reflection is not enough
    columns = [0, 1, 2, 2]
    assert (seen == lr[rows][:, columns]).all()


def test_a_single_pixel_can_be_upscaled() -> None:
    sr = upscale_image(RepeatingRunner(4, (8, 8)), np.array([[[1, 2, 3]]], np.uint8), overlap=2)
    assert (sr == np.full((4, 4, 3), (1, 2, 3))).all()


def test_without_a_tile_the_whole_image_goes_in_at_once() -> None:
    runner = RepeatingRunner(3, None)
    lr = _noise(33, 21)
    assert upscale_image(runner, lr, overlap=1000).shape == (99, 63, 3)
    assert len(runner.seen) == 1


def test_progress_counts_up_to_the_number_of_tiles() -> None:
    calls: list[tuple[int, int]] = []
    upscale_image(RepeatingRunner(2, (8, 8)), _noise(8, 20), overlap=2, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_enough_overlap_makes_tiles_equal_the_whole_image() -> None:
    network, lr = TinyNetwork(), _noise(37, 45)
    whole = upscale_image(TorchRunner(network), lr)
    tiled = TorchRunner(network, tile=(16, 20))
    # The network reaches two pixels, so neighbours need twice that. One level: tiles may sum in another order.
    exact = upscale_image(tiled, lr, overlap=4).astype(int)
    assert abs(exact - whole).max() <= 1
    assert abs(upscale_image(tiled, lr, overlap=0).astype(int) - whole).max() > 1


@pytest.mark.parametrize("overlap", [-1, 8, 100])
def test_an_overlap_that_does_not_fit_the_tile_is_refused(overlap: int) -> None:
    with pytest.raises(ConfigError, match=f"overlap of 0 to 7 for a tile of 16 wide, 8 high, got {overlap}"):
        plan_tiles(50, 50, (8, 16), overlap)


def test_nothing_to_tile_is_refused() -> None:
    with pytest.raises(ShapeError, match="image 5x0"):
        plan_tiles(0, 5, (8, 8), 2)
    with pytest.raises(ShapeError, match="uint8 image, got"):
        upscale_image(RepeatingRunner(2, None), np.zeros((4, 4), np.uint8))


def test_a_runner_that_returns_another_size_is_named() -> None:
    runner = RepeatingRunner(2, (8, 8))
    runner.run = lambda lr: lr  # type: ignore[method-assign]
    with pytest.raises(RunnerError, match=r"expected \(16, 16, 3\) uint8 from repeating, got \(8, 8, 3\)"):
        upscale_image(runner, _noise(8, 8), overlap=2)


def test_torch_runner_is_a_runner() -> None:
    assert isinstance(TorchRunner(TinyNetwork()), Runner)


def test_torch_runner_puts_the_network_in_eval_mode() -> None:
    network = TinyNetwork().train()
    TorchRunner(network)
    assert not network.training


@pytest.mark.parametrize(("height", "width"), [(8, 16), (9, 13), (1, 1)])
def test_torch_runner_pads_to_the_networks_multiple_and_crops(height: int, width: int) -> None:
    runner = TorchRunner(TinyNetwork(tile_multiple=8))
    assert runner.run(_noise(height, width)).shape == (2 * height, 2 * width, 3)


def test_torch_runner_insists_on_its_tile() -> None:
    with pytest.raises(ShapeError, match="expected a tile of 8x8, got 8 wide, 9 high"):
        TorchRunner(TinyNetwork(), tile=(8, 8)).run(_noise(9, 8))
    with pytest.raises(RunnerError, match="multiples of 8, got 12 wide, 8 high"):
        TorchRunner(TinyNetwork(tile_multiple=8), tile=(8, 12))
    with pytest.raises(RunnerError, match="scale and tile_multiple, got Conv2d"):
        TorchRunner(nn.Conv2d(3, 3, 1))


def test_torch_runner_refuses_a_result_of_another_scale() -> None:
    network = TinyNetwork()
    network.scale = 3
    with pytest.raises(RunnerError, match=r"expected a result of shape \(1, 3, 12, 12\), got \(1, 3, 8, 8\)"):
        TorchRunner(network).run(_noise(4, 4))


def test_to_float_divides_by_255_and_moves_channels_first() -> None:
    planes = to_float(np.array([[[0, 51, 255]], [[255, 0, 102]]], np.uint8))
    assert planes.shape == (1, 3, 2, 1)
    assert planes.flatten().tolist() == pytest.approx([0, 1, 0.2, 0, 1, 0.4], abs=1e-7)


def test_to_uint8_clamps_and_rounds_half_up() -> None:
    values = np.array([-0.3, 0.0, 0.4 / 255, 0.5 / 255, 1.5 / 255, 127.4 / 255, 254.5 / 255, 1.0, 7.0], np.float64)
    # Halves of float32 level values: 0.5 / 255 * 255 is exactly 0.5 here, as are 1.5 and 254.5.
    levels = to_uint8(np.broadcast_to(values, (3, 1, 9)).copy())
    assert levels.shape == (1, 9, 3)
    assert levels[0, :, 1].tolist() == [0, 0, 0, 1, 2, 127, 255, 255, 255]


def test_to_uint8_inverts_to_float_for_every_level() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert (to_uint8(to_float(image)) == image).all()
    assert (to_uint8(to_float(image)[0].numpy()) == image).all()


def test_to_uint8_refuses_what_is_no_image() -> None:
    with pytest.raises(ShapeError, match=r"float result, got \(2, 3, 4, 4\)"):
        to_uint8(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"torch\.int32"):
        to_uint8(torch.zeros(3, 4, 4, dtype=torch.int32))
    with pytest.raises(RunnerError, match="got NaN"):
        to_uint8(torch.full((3, 4, 4), float("nan")))
