"""The roofline: arithmetic on made-up times, who is timed when, and a real artifact against a real peak."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image as PillowImage

import apps.profiling.roofline
from apps.profiling.layers import file_macs
from apps.profiling.roofline import (
    PEAK_CHANNELS,
    DensePeak,
    RooflineReport,
    RooflineRow,
    export_peak,
    measure_roofline,
    spread,
)
from apps.profiling.roofline_view import print_roofline, roofline_chart
from converters.artifact import Artifact, load_artifact
from edge_sr.errors import ConfigError, RunnerError
from fakes import FAKE_TILE, fake_artifact


def row(
    round_ms: Sequence[float] = (2.0, 4.0), round_peak_ms: Sequence[tuple[float, float]] = ((1.0, 3.0), (1.0, 2.0))
) -> RooflineRow:
    """4 MMACs against peak networks of 10 and 30 MMACs."""
    return RooflineRow(
        artifact_path=Path("some_artifact"),
        model="m",
        scheme="fp32",
        target="tflite",
        tile=(16, 16),
        threads=1,
        macs=4_000_000,
        peak_macs=(10_000_000, 30_000_000),
        round_ms=tuple(round_ms),
        round_peak_ms=tuple(round_peak_ms),
    )


def depth_of(path: Path) -> str:
    """Of a simulated peak network; "own" for any other artifact."""
    place = path.parent.name
    return place.split("_")[1] if place.startswith("peak_") else "own"


def simulated(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Peak networks that are no models, of 10 and 30 MMACs; what is exported is listed."""
    exported: list[str] = []

    def fake_peak(depth: int, *, target: str, scheme: str, tile: tuple[int, int], out_dir: Path) -> Artifact:
        exported.append(f"{depth} {target} {scheme} {tile[0]}x{tile[1]}")
        place = folder / f"peak_{depth}_{len(exported)}"
        place.mkdir()
        return load_artifact(fake_artifact(place, target, scheme=scheme))

    def macs(artifact: Artifact) -> int:
        return {"own": 4_000_000, "4": 10_000_000, "12": 30_000_000}[depth_of(artifact.path)]

    monkeypatch.setattr(apps.profiling.roofline, "export_peak", fake_peak)
    monkeypatch.setattr(apps.profiling.roofline, "file_macs", macs)
    return exported


# -------------------------------------------------------------------------------------------------------- arithmetic
def test_peak_is_more_macs_over_more_time_and_each_round_is_compared_with_its_own() -> None:
    found = row()
    # 4 MMACs in 2 ms are 2 GMAC/s; 20 more MMACs in 2 more ms are 10 GMAC/s.
    assert found.round_gmacs == pytest.approx((2.0, 1.0))
    assert found.round_peak_gmacs == pytest.approx((10.0, 20.0))
    assert found.round_percent == pytest.approx((20.0, 5.0))
    assert spread(found.round_percent) == pytest.approx({"median": 12.5, "least": 5.0, "largest": 20.0})
    assert found.to_json()["percent"] == pytest.approx({"median": 12.5, "least": 5.0, "largest": 20.0})


def test_rounds_without_their_peak_are_refused() -> None:
    with pytest.raises(ConfigError, match="as many rounds"):
        row(round_ms=(1.0,))


def test_macs_of_the_peak_network_are_those_of_its_layers() -> None:
    # Per pixel: 3 -> 64, twice 64 -> 64, 64 -> 12, nine places each.
    expected = 9 * (3 * 64 + 2 * 64 * 64 + 64 * 12)
    network = DensePeak(2)
    weights = [weight for weight in network.parameters() if weight.dim() == 4]
    assert PEAK_CHANNELS == 64
    assert sum(weight.numel() for weight in weights) == expected
    assert network(torch.rand(1, 3, 8, 10)).shape == (1, 3, 16, 20)


def test_values_of_the_peak_network_neither_vanish_nor_explode() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        largest = DensePeak(12)(torch.rand(1, 3, 16, 16)).abs().max()
    assert 1e-3 < float(largest) < 1e3


# ------------------------------------------------------------------------------------------------------- measurement
def test_artifact_and_peak_take_turns_and_the_median_of_runs_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(monkeypatch, tmp_path)
    order: list[str] = []

    def timer(path: Path, threads: int) -> list[float]:
        what = depth_of(path)
        order.append(f"{what}/{threads}")
        middle = {"own": 2.0, "4": 1.0, "12": 3.0}[what]
        return [middle, middle - 0.5, middle + 100.0]

    report = measure_roofline([fake_artifact(tmp_path)], threads=(1, 2), rounds=2, timer=timer)
    assert order == ["4/1", "own/1", "12/1"] * 2 + ["4/2", "own/2", "12/2"] * 2
    assert [(found.threads, found.round_ms) for found in report.rows] == [(1, (2.0, 2.0)), (2, (2.0, 2.0))]
    assert report.rows[0].round_percent == pytest.approx((20.0, 20.0))


def test_artifacts_alike_share_a_peak_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = simulated(monkeypatch, tmp_path)
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    paths = [fake_artifact(folders[0]), fake_artifact(folders[1]), fake_artifact(folders[2], scheme="fp32")]
    times = iter([1.0, 2.0, 3.0] * 3)
    measure_roofline(paths, rounds=1, timer=lambda path, threads: [next(times)])
    tile = f"{FAKE_TILE[0]}x{FAKE_TILE[1]}"
    assert exported == [f"{depth} tflite {scheme} {tile}" for scheme in ("w8a8", "fp32") for depth in (4, 12)]


def test_deeper_network_that_is_not_slower_is_no_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, tmp_path)
    with pytest.raises(RunnerError, match="too busy"):
        measure_roofline([fake_artifact(tmp_path)], rounds=1, timer=lambda path, threads: [5.0])


def test_artifact_that_cannot_run_here_gets_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.profiling.roofline, "reason_not_timed", lambda target: f"no {target} here")
    report = measure_roofline([fake_artifact(tmp_path, "coreml")], threads=(1, 2))
    assert [(found.reason, found.round_ms) for found in report.rows] == [("no coreml here", ())] * 2
    assert report.to_json()["rows"][0]["percent"] is None


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    path = fake_artifact(tmp_path)
    with pytest.raises(ConfigError, match="at least one artifact"):
        measure_roofline([])
    with pytest.raises(ConfigError, match="must be positive"):
        measure_roofline([path], threads=(0,))
    with pytest.raises(ConfigError, match="must be positive"):
        measure_roofline([path], rounds=0)
    with pytest.raises(ConfigError, match="two growing depths"):
        measure_roofline([path], depths=(3, 3))


# --------------------------------------------------------------------------------------------------------------- views
def test_table_and_chart_show_share_of_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    report = RooflineReport(rows=(row(),), rounds=2)
    print_roofline(report)
    text = capsys.readouterr().out
    # Medians: 3 ms, 1.5 and 15 GMAC/s, 12.5 % (printed half to even).
    assert ["some_artifact", "1", "0.004", "3.00", "1.5", "15.0", "12%", "5%", "…", "20%"] in [
        line.split() for line in text.splitlines()
    ]
    assert "2 rounds" in text
    assert PillowImage.open(io.BytesIO(roofline_chart(report))).format == "PNG"


def test_row_that_was_not_measured_shows_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.profiling.roofline, "reason_not_timed", lambda target: "not on this system")
    report = measure_roofline([fake_artifact(tmp_path, "coreml")])
    print_roofline(report)
    assert "not on this system" in capsys.readouterr().out
    assert PillowImage.open(io.BytesIO(roofline_chart(report))).format == "PNG"


# ---------------------------------------------------------------------------------------------------------- end to end
def test_real_artifact_is_measured_against_a_real_peak(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="needs litert-torch")
    # Any artifact serves; a dense network of one convolution is one whose MACs are known.
    artifact = export_peak(1, target="tflite", scheme="w8a8", tile=(16, 24), out_dir=tmp_path)
    per_pixel = 9 * (3 * 64 + 64 * 64 + 64 * 12)
    assert file_macs(artifact) == 16 * 24 * per_pixel
    # Far apart, so that the deeper one is slower on a busy machine, too.
    report = measure_roofline([artifact.path], rounds=1, runs=10, max_seconds=2.0, depths=(1, 16))
    (found,) = report.rows
    assert found.macs == 16 * 24 * per_pixel
    assert found.peak_macs[1] - found.peak_macs[0] == 15 * 16 * 24 * 9 * 64 * 64
    assert min(found.round_percent) > 0
    assert found.reason is None
