"""What the tools print, in the wording of several versions; expected figures are read off the files by eye."""

from __future__ import annotations

import math

import pytest
from adb_fixtures.rig import HERE

from apps.profiling.adb.parsers import (
    executor_timing,
    parse_benchmark_model,
    parse_delegation,
    parse_executor_runner,
)
from apps.profiling.adb.results import PrintedStatistics, SampledTiming
from edge_sr.errors import RunnerError


def log(name: str) -> str:
    return (HERE / "logs" / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "count", "warmups", "mean", "std", "low", "high", "load", "first", "memory"),
    [
        ("benchmark_model_2019", 50, 4, 150.988, 0.901, 149.8, 153.9, 12.123, 140.0, None),
        ("benchmark_model_2_4_gpu", 110, 56, 8.68033, 0.591, 7.863, 10.688, 1451.507, 11.147, 98.25),
        ("benchmark_model_2_13_nnapi", 520, 1, 1.88574, 0.870, 1.171, 9.925, 66.002, 637.079, 109.848),
        ("benchmark_model_litert_2", 50, 1, 2950.34, 109.798, 2727.568, 3189.954, 17.187, 3512.391, 46.08),
        ("benchmark_model_logcat", 50, 1, 392.865, 3.443, 390.939, 416.049, 164.025, 394.833, 66.5391),
    ],
)
def test_every_version_of_benchmark_model_gives_the_timed_line_in_milliseconds(
    name: str,
    count: int,
    warmups: int,
    mean: float,
    std: float,
    low: float,
    high: float,
    load: float,
    first: float,
    memory: float | None,
) -> None:
    found = parse_benchmark_model(log(name))
    assert (found.count, found.warmup_runs, found.memory_mb) == (count, warmups, memory)
    times = (found.mean_ms, found.std_ms, found.min_ms, found.max_ms, found.load_ms, found.first_ms)
    assert times == pytest.approx((mean, std, low, high, load, first))


def test_percentiles_are_taken_where_they_are_printed_and_never_made_up() -> None:
    new, old = (
        parse_benchmark_model(log("benchmark_model_litert_2")),
        parse_benchmark_model(log("benchmark_model_2019")),
    )
    assert (new.p5_ms, new.median_ms, new.p95_ms) == pytest.approx((2780.0, 2941.0, 3150.0))
    assert (old.p5_ms, old.median_ms, old.p95_ms) == (None, None, None)
    assert new.to_json()["kind"] == "statistics"
    assert "samples_ms" not in new.to_json()


def test_a_single_run_is_its_own_mean() -> None:
    found = parse_benchmark_model("count=1 curr=900\n\ncount=1 curr=500\n")
    assert (found.count, found.mean_ms, found.min_ms, found.max_ms, found.std_ms) == (1, 0.5, 0.5, 0.5, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "INFO: STARTING!\nINFO: count=3 first=1 curr=1 min=1 max=1 avg=1 std=0\n"),
        "count=[ first=1 curr=1\ncount=3 first=1 curr=1 avg=1\n",
    ],
)
def test_a_log_that_ends_early_is_one_line_of_error(text: str) -> None:
    with pytest.raises(RunnerError, match="expected a warm-up and a timed 'count=' line"):
        parse_benchmark_model(text)


@pytest.mark.parametrize(
    ("name", "delegate", "fallback"),
    [
        ("benchmark_model_litert_2", "XNNPACK", "32 of 2168 nodes run outside of XNNPACK (2136 inside, 65 partitions)"),
        ("benchmark_model_2_4_gpu", "GPU", "22 of 63 nodes run outside of GPU (41 inside)"),
        ("benchmark_model_2_13_nnapi", "NNAPI", "nothing runs in NNAPI: all of it fell back"),
        ("benchmark_model_logcat", "XNNPACK", None),
    ],
)
def test_fallback_is_read_from_the_log(name: str, delegate: str, fallback: str | None) -> None:
    seen = parse_delegation(log(name))
    assert seen is not None
    assert (seen.delegate, seen.fallback) == (delegate, fallback)


def test_operators_that_the_gpu_refuses_are_named() -> None:
    seen = parse_delegation(log("benchmark_model_2_4_gpu"))
    assert seen is not None
    assert seen.unsupported == ("SPLIT: Operation is not supported.",)


def test_a_whole_delegation_is_no_fallback_and_silence_is_no_claim() -> None:
    whole = parse_delegation(
        "INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate."
    )
    assert whole is not None
    assert (whole.whole, whole.fallback) == (True, None)
    assert parse_delegation(log("benchmark_model_2019")) is None


def test_subgraphs_of_one_delegate_are_added_up() -> None:
    line = "Replacing {} out of {} node(s) with delegate (TfLiteXNNPackDelegate) node, yielding {} partitions\n"
    seen = parse_delegation(line.format(10, 12, 2) + line.format(5, 5, 1))
    assert seen is not None
    assert (seen.delegated_nodes, seen.nodes, seen.partitions) == (15, 17, 3)


def test_executor_runner_iterations_become_samples_after_the_warm_up() -> None:
    timing = executor_timing(parse_executor_runner(log("executor_runner_1_3")), warmup_runs=2)
    assert isinstance(timing, SampledTiming)
    assert timing.samples_ms == (100.5, 100.25, 100.75)
    assert (timing.load_ms, timing.first_ms) == (4463.268273, 241.944288)
    assert timing.median_ms == 100.5


def test_an_older_executor_runner_gives_a_mean_and_no_spread() -> None:
    timing = executor_timing(parse_executor_runner(log("executor_runner_0_4")), warmup_runs=3)
    assert isinstance(timing, PrintedStatistics)
    assert (timing.count, timing.mean_ms, timing.median_ms) == (20, 20.0, None)
    assert math.isnan(timing.std_ms)
    assert timing.to_json()["std_ms"] == "nan"


def test_logcat_lines_of_other_processes_are_left_out() -> None:
    found = parse_executor_runner(log("executor_runner_logcat"), pid=4242)
    assert (found.iterations_ms, found.load_ms, found.executions) == ((40.25, 30.125), 12.5, 2)


def test_a_runner_built_without_logging_is_one_line_of_error() -> None:
    with pytest.raises(RunnerError, match="EXECUTORCH_ENABLE_LOGGING"):
        executor_timing(parse_executor_runner("OutputX 0: tensor(sizes=[1], [2.])\n"), warmup_runs=3)
