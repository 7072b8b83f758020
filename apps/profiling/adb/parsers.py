"""What the tools on a device print, read into numbers.

Formats: TFLite's and LiteRT's ``benchmark_model`` from 2019 to LiteRT 2, with and without ``INFO: `` before each line,
with times in plain or e-notation, with and without percentiles; ExecuTorch's ``executor_runner`` with one line per
iteration (1.0 and later) or only the sum, on its own streams or through logcat.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from apps.profiling.adb.results import DelegationSeen, PrintedStatistics, SampledTiming
from edge_sr.errors import RunnerError
from edge_sr.foreign_text import real_number, visible

# Bounded: a search that may begin anywhere would take the square of the length of a line without end.
_WHOLE = r"([0-9]{1,9})"
_NAME = r"(\S{1,80}?)"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# Before the tool's own words: a level, or what logcat writes (date, time, process, thread, level, tag).
_PREFIX = re.compile(
    r"^\s*(?:(?:\d\d-\d\d )?\d\d:\d\d:\d\d\.\d+\s+\S.*?\s[VDIWEF]\s+\w+\s*: )?"
    r"(?:(?:INFO|WARN(?:ING)?|ERROR|VERBOSE): )?\s*"
)
_FIELD = re.compile(rf"(\w{{1,40}})=({_NUMBER})")
_DELEGATED = re.compile(
    rf"{_NAME} delegate: {_WHOLE} nodes delegated out of {_WHOLE} nodes?(?:,? with {_WHOLE} partitions)?"
)
_REPLACING = re.compile(
    rf"Replacing {_WHOLE} out of {_WHOLE} node\(s\) with delegate \({_NAME}\) node, yielding {_WHOLE} partitions"
)
_GPU_SHARE = re.compile(
    rf"{_WHOLE} operations will run on the GPU, and the remaining {_WHOLE} operations will run on the CPU"
)
_GPU_REFUSES = re.compile(
    r"Following operations are not supported by GPU delegate:\n(.*?)\n[^\n]*operations will run", re.S
)
_EXPLICIT = re.compile(
    rf"(?:Explicitly )?[aA]pplied {_NAME} delegate, and the model graph will be (completely|partially) executed"
)
_REFUSED = re.compile(rf"Though {_NAME} delegate is explicitly applied, the model graph will not be executed")
_FAILED = re.compile(rf"Failed to apply {_NAME} delegate")

_ITERATION = re.compile(rf"Iteration {_WHOLE} of {_WHOLE}: ({_NUMBER}) ms")
_EXECUTED = re.compile(rf"Model executed successfully {_WHOLE} time\(s\) in ({_NUMBER}) ms")
_LOADED = re.compile(rf"Model loaded in ({_NUMBER}) ms")
_LOGCAT = re.compile(rf"^\d\d-\d\d \d\d:\d\d:\d\d\.\d+\s+{_WHOLE}\s+\d+\s+[VDIWEF]\s+\S+\s*: ")


@dataclass(frozen=True, kw_only=True)
class ExecutorLog:
    """``executor_runner``'s log: every iteration in ms, or only their number and sum from older builds."""

    iterations_ms: tuple[float, ...]
    executions: int | None
    total_ms: float | None
    load_ms: float | None


def parse_benchmark_model(text: str) -> PrintedStatistics:
    """Read the output of ``benchmark_model``.

    Raises:
        RunnerError: the lines with the timings are missing, or a number in them is out of all range.
    """
    counts: list[dict[str, float]] = []
    inference: dict[str, float] = {}
    memory_mb = None
    for raw in text.splitlines():
        line = _PREFIX.sub("", raw, count=1)
        if line.startswith("count="):
            fields = {name: _measured(name, value) for name, value in _FIELD.findall(line)}
            counts += [fields] if "count" in fields else []
        elif line.startswith(("Inference timings in us:", "Average inference timings in us:")):
            found = re.findall(rf"([A-Z][\w ()]{{0,40}}|no stats): ({_NUMBER})", line.split("in us:", 1)[1])
            inference = {name.strip(): _measured(name, value) for name, value in found}
        elif "memory footprint" in line.lower() and (overall := re.search(rf"overall=({_NUMBER})", line)):
            memory_mb = real_number(overall[1])
    if len(counts) < 2:
        raise RunnerError(
            f"expected a warm-up and a timed 'count=' line from benchmark_model, got {len(counts)}; "
            "it ended early or is of a version unknown here"
        )
    warmup, timed = counts[-2], counts[-1]
    # A single run prints count and curr alone.
    mean_us = timed.get("avg", timed.get("curr"))
    if mean_us is None or timed["count"] < 1:
        raise RunnerError("expected timed runs from benchmark_model, got none; raise --max-seconds")

    def ms(values: dict[str, float], name: str, default: float | None = None) -> float | None:
        value = values.get(name, default)
        return None if value is None else value / 1000.0

    return PrintedStatistics(
        count=int(timed["count"]),
        warmup_runs=int(warmup["count"]),
        mean_ms=mean_us / 1000.0,
        std_ms=timed.get("std", 0.0) / 1000.0,
        min_ms=timed.get("min", mean_us) / 1000.0,
        max_ms=timed.get("max", mean_us) / 1000.0,
        median_ms=ms(timed, "median"),
        p5_ms=ms(timed, "p5"),
        p95_ms=ms(timed, "p95"),
        load_ms=ms(inference, "Init"),
        first_ms=ms(inference, "First inference", warmup.get("first", warmup.get("curr"))),
        memory_mb=memory_mb,
    )


def parse_delegation(text: str) -> DelegationSeen | None:
    """What a TFLite log says of its delegate; None where it says nothing.

    Where several delegates take part, the one that was asked for prints first and is the one reported; subgraphs of one
    delegate are added up.
    """
    seen: DelegationSeen | None = None
    nodes = [(match[2], int(match[0]), int(match[1]), int(match[3])) for match in _REPLACING.findall(text)]
    nodes = nodes or [
        (match[0], int(match[1]), int(match[2]), int(match[3] or 0)) for match in _DELEGATED.findall(text)
    ]
    if nodes:
        name = nodes[0][0]
        own = [entry for entry in nodes if entry[0] == name]
        inside, total = sum(entry[1] for entry in own), sum(entry[2] for entry in own)
        partitions = sum(entry[3] for entry in own) or None
        seen = DelegationSeen(
            delegate=_plain_name(name),
            delegated_nodes=inside,
            nodes=total,
            partitions=partitions,
            whole=inside == total and partitions in (1, None),
        )
    share, refuses = _GPU_SHARE.search(text), _GPU_REFUSES.search(text)
    if share and seen is None:
        inside, outside = int(share[1]), int(share[2])
        seen = DelegationSeen(
            delegate="GPU",
            delegated_nodes=inside,
            nodes=inside + outside,
            whole=outside == 0,
            unsupported=tuple(line.strip() for line in refuses[1].splitlines()) if refuses else (),
        )
    refused = _REFUSED.search(text) or _FAILED.search(text)
    if refused:
        return DelegationSeen(
            delegate=refused[1], delegated_nodes=0, nodes=None if seen is None else seen.nodes, whole=False
        )
    explicit = _EXPLICIT.search(text)
    if explicit and seen is None:
        return DelegationSeen(delegate=explicit[1], whole=explicit[2] == "completely")
    return seen


def parse_executor_runner(text: str, *, pid: int | None = None) -> ExecutorLog:
    """Read the log of ``executor_runner``.

    Args:
        text: its streams, or what logcat (``-v threadtime``) holds of it.
        pid: of a logcat text, only the lines of this process.
    Raises:
        RunnerError: a time is no time.
    """
    lines = text.splitlines()
    if pid is not None:
        lines = [line for line in lines if (match := _LOGCAT.match(line)) and int(match[1]) == pid]
    own = "\n".join(lines)
    executed, loaded = _EXECUTED.search(own), _LOADED.search(own)
    return ExecutorLog(
        iterations_ms=tuple(_measured("Iteration", match[2]) for match in _ITERATION.findall(own)),
        executions=int(executed[1]) if executed else None,
        total_ms=_measured("Model executed", executed[2]) if executed else None,
        load_ms=_measured("Model loaded", loaded[1]) if loaded else None,
    )


def executor_timing(log: ExecutorLog, *, warmup_runs: int) -> SampledTiming | PrintedStatistics:
    """The log as a timing: samples after the warm-up where it has them, else the mean.

    Raises:
        RunnerError: the log holds no run.
    """
    samples = log.iterations_ms
    if len(samples) > warmup_runs:
        return SampledTiming(
            samples_ms=samples[warmup_runs:], warmup_runs=warmup_runs, load_ms=log.load_ms, first_ms=samples[0]
        )
    if log.executions and log.total_ms is not None:
        mean = log.total_ms / log.executions
        # Only a sum: the first runs are in it, and there is no spread. NaN says so, zero would be a claim.
        return PrintedStatistics(
            count=log.executions,
            warmup_runs=0,
            mean_ms=mean,
            std_ms=float("nan"),
            min_ms=float("nan"),
            max_ms=float("nan"),
            load_ms=log.load_ms,
        )
    raise RunnerError(
        "expected 'Iteration' or 'Model executed successfully' lines from executor_runner, got none in its output and "
        "in logcat; build it with -DEXECUTORCH_ENABLE_LOGGING=ON"
    )


def _measured(name: str, text: str) -> float:
    number = real_number(text)
    if number is None:
        raise RunnerError(
            f"expected a number from 0 to 1e12 as {visible(name, limit=40)!r} in the tool's output, got "
            f"{visible(text, limit=40)}; use another build of it"
        )
    return number


def _plain_name(name: str) -> str:
    """``TfLiteXNNPackDelegate`` -> ``XNNPACK``; other names without their decoration."""
    bare = re.sub(r"^TfLite|Delegate(V\d+)?$", "", name)
    return {"XNNPack": "XNNPACK", "Gpu": "GPU", "Nnapi": "NNAPI"}.get(bare, bare or name)
