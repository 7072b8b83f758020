"""The tile planner: arithmetic by hand, what does not fit, and a prediction that a real run keeps."""

from __future__ import annotations

import pytest

from apps.planning.planner import TileCost, parse_memory, plan_picture
from edge_sr.errors import ConfigError


def _cost(side: int, ms: float, model_bytes: int, *, overlap: int = 0, scale: int = 4) -> TileCost:
    return TileCost(
        name=f"net_{side}",
        scale=scale,
        tile=(side, side),
        overlap=overlap,
        threads=1,
        device="host",
        tile_ms=ms,
        tile_ms_quartiles=(ms * 0.9, ms * 1.2),
        model_bytes=model_bytes,
    )


def test_time_and_memory_match_hand_computed_values() -> None:
    # 400x300 in tiles of 100: 4 * 3 tiles of 20 ms. 3 bytes a pixel: 0.36 MB in, and three times the rows that a row of
    # tiles gives: 400 of 1,600 pixels, 1.92 MB. The model on top.
    plan = plan_picture(300, 400, [_cost(100, 20.0, 1_000_000)])
    assert plan.best.tiles == 12
    assert plan.best.seconds == pytest.approx(0.24)
    assert plan.best.seconds_quartiles == pytest.approx((0.216, 0.288))
    assert plan.best.memory_bytes == 1_000_000 + 360_000 + 3 * 1_920_000
    assert plan.best.computed_share == 1.0


def test_overlap_costs_what_its_tiles_cost() -> None:
    # One axis of 300 with tiles of 100 that share 20: starts at 0, 80, 160, 200, so 4; the axis of 400 takes 5.
    plan = plan_picture(300, 400, [_cost(100, 20.0, 0, overlap=20)])
    assert plan.best.tiles == 20
    assert plan.best.computed_share == pytest.approx(20 * 100 * 100 / (300 * 400))
    assert plan_picture(300, 400, [_cost(100, 20.0, 0, overlap=20)], overlap=0).best.tiles == 12


def test_fastest_that_fits_is_chosen_and_the_rest_stay_in_sight() -> None:
    small, large = _cost(50, 6.0, 1_000_000), _cost(200, 60.0, 50_000_000)
    # 48 * 6 ms = 288 ms against 4 * 60 ms = 240 ms: the large tile wins until its memory does not fit.
    assert plan_picture(300, 400, [small, large]).best.cost is large
    limited = plan_picture(300, 400, [small, large], ram_bytes=20_000_000)
    assert limited.best.cost is small
    assert [option.fits for option in limited.options] == [True, False]


def test_picture_that_fits_nowhere_is_refused_with_the_least_memory_that_would_do() -> None:
    # 4000x3000 at x4: 36 MB in, three times 512 rows of 16,000 pixels (24.576 MB each) under way, 10 MB for the model.
    with pytest.raises(ConfigError, match=r"fits into 100 MB, got 4000x3000, which takes at least 120 MB \(110 MB"):
        plan_picture(3000, 4000, [_cost(128, 20.0, 10_000_000)], ram_bytes=100_000_000)


def test_artifacts_of_two_scales_are_refused() -> None:
    with pytest.raises(ConfigError, match="one scale, got x2, x4"):
        plan_picture(300, 400, [_cost(50, 1.0, 0, scale=2), _cost(50, 1.0, 0)])


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one measured artifact"):
        plan_picture(300, 400, [])


@pytest.mark.parametrize(
    ("text", "amount"), [("512MB", 512_000_000), ("512 MiB", 536_870_912), ("1.5gb", 1_500_000_000), ("100kB", 100_000)]
)
def test_memory_is_read_in_either_unit(text: str, amount: int) -> None:
    assert parse_memory(text) == amount


@pytest.mark.parametrize("text", ["", "512", "MB", "-1MB", "0MB", "1TB", "1e3MB", "9" * 5000 + "MB"])
def test_amount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write 512MB"):
        parse_memory(text)
