"""Profiling: statistics by hand, one row per artifact and thread count, and what becomes of a child that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import apps.profiling.host
import apps.profiling.host_child
from apps.profiling.certainty import median_interval
from apps.profiling.host import profile_artifacts
from apps.profiling.host_child import measure, peak_rss_bytes
from apps.results import Timing
from converters.artifact import (
    Artifact,
)
from edge_sr.errors import ArtifactError, ConfigError, RunnerError
from fakes import FAKE_TILE, fake_artifact


def _fields(samples: list[float], threads: int = 1) -> dict[str, Any]:
    return {
        "threads": threads,
        "load_ms": 5.0,
        "first_ms": 9.0,
        "warmup_runs": 3,
        "samples_ms": samples,
        "peak_rss_bytes": 2_000_000,
        "base_rss_bytes": 1_000_000,
        "runtime": "fake",
        "runtime_version": "1",
    }


def _timing(samples: list[float]) -> Timing:
    return Timing(**{**_fields(samples), "samples_ms": tuple(samples)})


# -------------------------------------------------------------------------------------------------------- statistics
def test_median_iqr_and_p95_match_hand_computed_values() -> None:
    # Sorted 1..5: quartiles 2 and 4; the 95th percentile lies 0.8 of the way from 4 to 5.
    timing = _timing([3.0, 1.0, 5.0, 2.0, 4.0])
    assert (timing.median_ms, timing.quartiles_ms, timing.iqr_ms) == (3.0, (2.0, 4.0), 2.0)
    assert timing.p95_ms == pytest.approx(4.8)
    assert timing.iqr_percent == pytest.approx(100 * 2 / 3)


# First: quartiles 100 and 110 around a median of 105, so 9.5%. Second: 100 and 110.5 around 100, so 10.5%.
@pytest.mark.parametrize(("samples", "noisy"), [([100.0, 100.0, 110.0, 110.0], False), ([100.0, 100.0, 121.0], True)])
def test_iqr_above_ten_percent_is_flagged(samples: list[float], noisy: bool) -> None:
    assert _timing(samples).noisy is noisy


def test_raw_samples_are_kept_in_the_json() -> None:
    assert _timing([3.0, 1.0, 2.0]).to_json()["samples_ms"] == [3.0, 1.0, 2.0]


def test_timing_without_a_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one timed run"):
        _timing([])


# -------------------------------------------------------------------------------------------------------------- rows
def test_each_artifact_is_measured_with_each_thread_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def run_in_child(function: str, arguments: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        asked.append(arguments)
        return _fields([1.0, 1.0], threads=arguments["threads"])

    monkeypatch.setattr(apps.profiling.host, "run_in_child", run_in_child)
    report = profile_artifacts([fake_artifact(tmp_path)], threads=(1, 2, 1), runs=7)
    assert [(row.threads, row.timing is not None) for row in report.rows] == [(1, True), (2, True)]
    assert [(call["threads"], call["runs"]) for call in asked] == [(1, 7), (2, 7)]


def test_child_that_dies_costs_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_in_child(function: str, arguments: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        if arguments["threads"] == 1:
            raise RunnerError("got SIGABRT")
        return _fields([1.0], threads=2)

    monkeypatch.setattr(apps.profiling.host, "run_in_child", run_in_child)
    first, second = profile_artifacts([fake_artifact(tmp_path)], threads=(1, 2)).rows
    assert (first.failed, first.reason, first.timing) == (True, "got SIGABRT", None)
    assert second.timing is not None


@pytest.mark.skipif("sys.platform == 'darwin'", reason="Core ML is missing: this tests what happens without it")
def test_core_ml_has_a_reason_in_place_of_a_latency(tmp_path: Path) -> None:
    (row,) = profile_artifacts([fake_artifact(tmp_path, "coreml")]).rows
    assert (row.timing, row.failed) == (None, False)
    assert row.reason == "cannot run here: Core ML predicts on macOS only"


def test_file_that_is_no_model_is_a_row_with_the_runtimes_own_words(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is missing")
    (row,) = profile_artifacts([fake_artifact(tmp_path)], runs=1).rows
    assert row.failed
    assert row.timing is None
    assert "model.bin" in (row.reason or "")


# ------------------------------------------------------------------------------------------------------- measurement
class CountingRunner:
    name, scale, tile = "fake", 4, FAKE_TILE

    def __init__(self) -> None:
        self.runs = 0

    def run(self, lr: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        assert lr.shape == (*FAKE_TILE, 3)
        self.runs += 1
        return lr.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[CountingRunner]:
    opened: list[CountingRunner] = []

    def open_runner(artifact: Artifact, *, threads: int) -> CountingRunner:
        opened.append(CountingRunner())
        return opened[-1]

    monkeypatch.setattr(apps.profiling.host_child, "open_runner", open_runner)
    return opened


def test_measurement_makes_the_runs_it_was_asked_for_after_warm_up(
    tmp_path: Path, runners: list[CountingRunner]
) -> None:
    taken = measure(artifact=str(fake_artifact(tmp_path)), threads=1, runs=12, max_seconds=60.0, until_settled=False)
    assert len(taken["samples_ms"]) == 12
    assert taken["warmup_runs"] >= 3
    assert runners[-1].runs == 1 + taken["warmup_runs"] + 12


def test_measurement_stops_at_its_time_but_not_before_ten_runs(tmp_path: Path, runners: list[CountingRunner]) -> None:
    taken = measure(
        artifact=str(fake_artifact(tmp_path)), threads=1, runs=1_000_000, max_seconds=1e-9, until_settled=True
    )
    assert len(taken["samples_ms"]) == 10


def test_measurement_goes_on_until_its_median_is_certain(
    tmp_path: Path, runners: list[CountingRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten runs that scatter, then runs that all take 5 ms. Of 20 runs the interval is the 6th to the 15th smallest, as
    # P(at most 5 of 20 heads) = 2.1%: four 1s and five 9s lie outside of it.
    times = iter([1.0, 9.0] * 5 + [5.0] * 1000)
    monkeypatch.setattr(apps.profiling.host_child, "_timed_run", lambda *_: next(times))
    taken = measure(artifact=str(fake_artifact(tmp_path)), threads=1, runs=10, max_seconds=60.0, until_settled=True)
    assert len(taken["samples_ms"]) == 20
    assert _timing(taken["samples_ms"]).settled
    assert not _timing(taken["samples_ms"][:10]).settled


@pytest.mark.parametrize("count", [5, 6, 7, 30, 101, 1001])
def test_interval_of_the_median_is_scipys(count: int) -> None:
    samples = np.random.default_rng(count).exponential(size=count)
    expected = scipy.stats.quantile_test(samples, p=0.5).confidence_interval(0.95)
    own = median_interval(samples.tolist())
    assert own == ((expected.low, expected.high) if count > 5 else None)


def test_peak_memory_holds_what_was_touched_last() -> None:
    block = np.ones(64 * 2**20, dtype=np.uint8)
    assert peak_rss_bytes() >= block.nbytes


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("arguments", [{"threads": (0,)}, {"threads": ()}, {"runs": 0}, {"max_seconds": 0.0}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        profile_artifacts([fake_artifact(tmp_path)], **arguments)


def test_altered_artifact_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.profiling.host, "run_in_child", lambda *_, **__: pytest.fail("something was measured"))
    path = fake_artifact(tmp_path)
    (path / "model.bin").write_bytes(b"not a m0del")
    with pytest.raises(ArtifactError):
        profile_artifacts([path])
