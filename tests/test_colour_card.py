"""The colour card: charts are what they say, measures come out as counted by hand, and planted damage is named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

import apps.verification.colour_card
from apps.verification.chart_measures import longest_run, measure_chart
from apps.verification.colour_card import ColourCard, ColourLimits, broken_limits, run_colour_card
from apps.verification.colour_card_view import colour_sheet, print_colour_card
from apps.verification.references import References
from apps.weights import resolve_weights
from converters.artifact import Artifact, load_artifact
from edge_sr.charts import KINDS, Chart, chart_border, make_charts
from edge_sr.checkpoints import bundled_checkpoint, save_checkpoint, sha256_file
from edge_sr.errors import CheckpointError, ConfigError, ShapeError
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner
from fakes import fake_artifact

Image = NDArray[np.uint8]

TILE = (48, 64)
# A ramp of one level per LR pixel between borders of twelve pixels.
LONG = (48, 12 + 256 + 12)


# -------------------------------------------------------------------------------------------------------------- charts
def chart(name: str, tile: tuple[int, int] = (32, 32), scale: int = 4) -> Chart:
    return next(entry for entry in make_charts(tile, scale) if entry.name == name)


@pytest.mark.parametrize("tile", [(16, 16), (32, 48)])
def test_every_chart_is_one_tile_and_the_same_every_time(tile: tuple[int, int]) -> None:
    once, again = make_charts(tile, 3), make_charts(tile, 3)
    assert len({entry.name for entry in once}) == len(once)
    assert {entry.kind for entry in once} == set(KINDS)
    for entry, twin in zip(once, again, strict=True):
        assert entry.lr.shape == (*tile, 3)
        assert entry.lr.dtype == np.uint8
        assert (entry.lr == twin.lr).all()
        assert entry.ideal is None or entry.ideal.shape == (3 * tile[0], 3 * tile[1], 3)
        if entry.neutral:
            assert (entry.lr == entry.lr[:, :, :1]).all()


def test_a_ramp_spans_all_levels_between_its_borders_and_its_ideal_is_the_same_line() -> None:
    ramp = chart("grey ramp", tile=LONG, scale=2)
    assert chart_border(LONG) == 12
    assert ramp.lr[5, :, 0].tolist() == [0] * 12 + list(range(256)) + [255] * 12
    assert ramp.ideal is not None
    # Two output pixels per LR pixel, a quarter of one to each side of its middle.
    assert ramp.ideal[0, 24 + 20 : 24 + 24, 1].tolist() == [9.75, 10.25, 10.75, 11.25]
    assert (ramp.ideal[0, 0, 0], ramp.ideal[0, -1, 0]) == (0, 255)
    down = chart("grey ramp down", tile=LONG[::-1])
    assert down.lr[12:-12, 3, 2].tolist() == list(range(256))


def test_a_channels_ramp_leaves_the_others_black() -> None:
    green = chart("green ramp").lr
    assert green[:, :, 1].max() == 255
    assert green[:, :, [0, 2]].max() == 0


def test_lines_and_checks_are_one_pixel_wide() -> None:
    lines, checks = chart("white lines").lr[:, :, 0], chart("checks").lr[:, :, 0]
    assert np.flatnonzero(lines[:16, 0]).tolist() == [4, 12]
    assert np.flatnonzero(lines[0, 16:]).tolist() == [4, 12]
    assert checks[0, :6].tolist() == [0, 255] * 3
    assert checks[1, :6].tolist() == [255, 0] * 3


def test_a_tile_too_small_for_charts_is_refused() -> None:
    with pytest.raises(ShapeError, match="16 or more pixels, got 64 wide, 8 high"):
        make_charts((8, 64), 4)


# ------------------------------------------------------------------------------------------------------------ measures
def test_longest_run_counts_equal_neighbours() -> None:
    assert longest_run(np.array([1, 1, 2, 2, 2, 3])) == 3
    assert longest_run(np.array([5])) == 1
    assert longest_run(np.array([4, 4, 4])) == 3


def test_a_flat_is_measured_as_counted_by_hand() -> None:
    grey = chart("grey 128", tile=(16, 16), scale=1)
    reference = grey.lr.copy()
    own = grey.lr.copy()
    own[:, :, 0] += 2  # red everywhere
    own[8, 8, 2] -= 5  # one blue pixel of the 8x8 that are judged
    own[0, 0] = 0  # the border is not judged
    found = measure_chart(grey, own, reference, border=4)
    assert found.shift_levels == (2.0, 0.0, pytest.approx(-5 / 64))
    assert found.bias_levels == found.shift_levels
    assert found.float_bias_levels == (0.0, 0.0, 0.0)
    assert (found.ripple_levels, found.float_ripple_levels) == (5, 0)
    assert (found.spread_levels, found.float_spread_levels) == (7, 0)
    assert found.max_difference_levels == 5
    assert found.clipped_percent == 0


def test_banding_is_measured_as_counted_by_hand() -> None:
    ramp = chart("grey ramp", tile=LONG, scale=1)
    reference = ramp.lr.copy()
    own = ramp.lr // 16 * 16
    found = measure_chart(ramp, own, reference, border=12)
    assert (found.distinct, found.float_distinct) == (16, 256)
    assert (found.longest_run_px, found.float_longest_run_px) == (16, 1)
    assert found.reversals_percent == 0
    assert found.bias_levels == (-7.5, -7.5, -7.5)
    # 3..15 become 0 more than two levels too early; 255 becomes 240.
    assert found.clipped_percent == pytest.approx(13 / 256 * 100)


def test_falls_of_a_ramp_are_counted() -> None:
    ramp = chart("grey ramp", tile=LONG, scale=1)
    own = ramp.lr.copy()
    own[:, 112] += 4  # up by five, then down by three: one fall among 255 steps
    found = measure_chart(ramp, own, ramp.lr, border=12)
    assert found.reversals_percent == pytest.approx(100 / 255)
    # A fall of one level is rounding.
    own[:, 112] -= 2
    assert measure_chart(ramp, own, ramp.lr, border=12).reversals_percent == 0


def test_overshoot_is_how_far_edges_leave_their_greys() -> None:
    edges = chart("edges", tile=(32, 32), scale=1)
    own = edges.lr.copy()
    own[2, 14:16] = 50  # beside the upright edge: 64 - 50
    own[2, 16:18] = 210  # 210 - 192
    own[15:17, 15:17] = 255  # where the edges cross is not judged
    found = measure_chart(edges, own, edges.lr, border=0)
    assert (found.overshoot_levels, found.float_overshoot_levels) == (18, 0)


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="ripple_levels must be 0 or more, got -1"):
        ColourLimits(ripple_levels=-1)
    with pytest.raises(ConfigError, match="distinct_share must be from 0 to 1, got 2"):
        ColourLimits(distinct_share=2)
    with pytest.raises(ConfigError, match="smooth_shift_levels must be 0 or more, got nan"):
        ColourLimits(smooth_shift_levels=float("nan"))


def test_a_limit_holds_up_to_its_value() -> None:
    grey = chart("grey 128", tile=(16, 16), scale=1)
    found = measure_chart(grey, grey.lr + np.uint8(1), grey.lr, border=0)
    assert broken_limits(found, ColourLimits(smooth_shift_levels=1.0)) == ()
    lines = broken_limits(found, ColourLimits(smooth_shift_levels=0.9))
    assert lines[0] == "expected red within 0.9 levels of the float network, got +1.00"
    assert len(lines) == 3


# ---------------------------------------------------------------------------------------------------------------- card
class Remembering:
    """The bundled int8 network in PyTorch on one tile; each chart is computed once for all tests."""

    name, scale, tile = "int8", 4, TILE

    def __init__(self) -> None:
        self.inner = TorchRunner(resolve_weights("idsa_net_mobile", 4, "w8a8").network, tile=TILE)
        self.known: dict[bytes, Image] = {}

    def run(self, lr: Image) -> Image:
        key = lr.tobytes()
        if key not in self.known:
            self.known[key] = self.inner.run(lr)
        return self.known[key]


class Damaged:
    """A healthy runner whose results are altered."""

    name, scale, tile = "damaged", 4, TILE

    def __init__(self, inner: Remembering, damage: Callable[[Image], Image]) -> None:
        self.inner, self.damage = inner, damage

    def run(self, lr: Image) -> Image:
        return self.damage(self.inner.run(lr).copy())


@pytest.fixture(scope="module")
def healthy() -> Remembering:
    return Remembering()


@pytest.fixture(scope="module")
def references() -> References:
    return References()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    sha256 = sha256_file(bundled_checkpoint("idsa_net_mobile", 4, "w8a8"))
    loaded = load_artifact(fake_artifact(tmp_path_factory.mktemp("artifact"), checkpoint_sha256=sha256))
    return replace(loaded, meta=replace(loaded.meta, tile=TILE))


@pytest.fixture
def card_of(
    artifact: Artifact, references: References, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[object], ColourCard]]:
    def card(runner: object) -> ColourCard:
        monkeypatch.setattr(apps.verification.colour_card, "open_runner", lambda *_, **__: runner)
        return run_colour_card(artifact, references=references)

    return card  # type: ignore[return-value]


def shifted_red(sr: Image) -> Image:
    red = np.clip(sr[:, :, 0].astype(int) + 2, 0, 255)
    return np.dstack([red.astype(np.uint8), sr[:, :, 1:]])


def wrong_scale(sr: Image) -> Image:
    return (sr * 0.98 + 0.5).astype(np.uint8)


def clipped_whites(sr: Image) -> Image:
    return np.where(sr >= 244, np.uint8(255), sr)


def five_bits(sr: Image) -> Image:
    return sr // 8 * 8 + np.uint8(4)


def pattern(sr: Image) -> Image:
    rows, columns = np.ogrid[: sr.shape[0], : sr.shape[1]]
    return np.clip(sr.astype(int) + np.where((rows + columns) % 2, 3, -3)[:, :, None], 0, 255).astype(np.uint8)


def wrapped(sr: Image) -> Image:
    return sr + np.uint8(3)  # 253 and more begin again at 0


def ringing(sr: Image) -> Image:
    values = sr.astype(int)
    blurred = (np.roll(values, 1, 1) + np.roll(values, -1, 1) + np.roll(values, 1, 0) + np.roll(values, -1, 0)) // 4
    return np.clip(values + (values - blurred), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("damage", "chart_name", "words"),
    [
        (shifted_red, "grey 128", "expected red within 1 levels of the float network, got +2."),
        (wrong_scale, "white", "expected blue within 1 levels of the float network, got -5."),
        (clipped_whites, "shallow bright", "% of values clipped, got "),
        (five_bits, "grey ramp", "levels along the ramp (float "),
        (five_bits, "shallow dark", "expected bands of at most "),
        (pattern, "grey 64", "expected a flat that varies by at most 3 levels (float 0), got "),
        (pattern, "shallow middle", "% of a ramp's steps to fall, got "),
        (wrapped, "white", "expected every value within 6 levels of the float network, got 254"),
        (ringing, "edges", "expected edges that overshoot by at most "),
    ],
)
def test_planted_damage_fails_and_is_named(
    card_of: Callable[[object], ColourCard],
    healthy: Remembering,
    damage: Callable[[Image], Image],
    chart_name: str,
    words: str,
) -> None:
    failures = card_of(Damaged(healthy, damage)).failures
    own = [line for line in failures if line.startswith(f"{chart_name}: ")]
    assert any(words in line for line in own), own


def test_a_tinted_grey_fails_as_not_neutral(card_of: Callable[[object], ColourCard], healthy: Remembering) -> None:
    def tint(sr: Image) -> Image:
        # Only where it is nearly grey, so that no other chart gives it away; blue up, red down.
        grey = np.ptp(sr.astype(int), axis=2) <= 4
        tinted = np.clip(sr.astype(int) + np.array([-4, 0, 4]), 0, 255).astype(np.uint8)
        return np.where(grey[:, :, None], tinted, sr)

    failures = card_of(Damaged(healthy, tint)).failures
    assert any(
        "grey 192: expected greys whose channels differ by at most 4 levels (float 0)" in line for line in failures
    )


def test_healthy_int8_passes_and_the_float_network_is_perfect(
    card_of: Callable[[object], ColourCard], healthy: Remembering, references: References, artifact: Artifact
) -> None:
    card = card_of(healthy)
    assert card.failures == ()
    assert len(card.measures) == len(card.pictures) == 27
    # The bundled int8 network is within half a level in every mean colour on flats and ramps.
    assert card.worst("shift_levels")[0] < 0.5
    perfect = card_of(TorchRunner(references.float_network(artifact.meta), tile=TILE))
    assert perfect.failures == ()
    assert perfect.worst("max_difference_levels")[0] == 0


def test_card_becomes_json_table_and_sheet(card_of: Callable[[object], ColourCard], healthy: Remembering) -> None:
    card = card_of(Damaged(healthy, five_bits))
    text = json.loads(json.dumps(card.to_json(), allow_nan=False))
    assert text["failures"] == list(card.failures)
    assert text["limits"]["distinct_share"] == card.limits.distinct_share
    assert [entry["name"] for entry in text["charts"]][:2] == ["black", "white"]
    out = Console(file=io.StringIO(), width=200)
    print_colour_card(card, out=out)
    printed = out.file.getvalue()  # type: ignore[attr-defined]
    assert "fails" in printed
    assert not any(card.artifact in line for line in card.failures)
    sheet = colour_sheet(card, side=48)
    assert len(sheet) == 27
    assert {panel.image.shape for panels in sheet for panel in panels[1:]} == {(48, 48, 3)}


def test_another_float_network_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4), {})
    strange = replace(artifact, meta=replace(artifact.meta, scheme="fp32", checkpoint_sha256="1" * 64))
    with pytest.raises(CheckpointError):
        run_colour_card(strange, checkpoint=path)
