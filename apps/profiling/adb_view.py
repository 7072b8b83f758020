"""Measurements on devices as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from apps.profiling.adb.device_state import DeviceState
from apps.profiling.adb.results import AdbReport, AdbRow, DeviceNumerics, SampledTiming
from apps.profiling.apple_results import AppleReport, AppleRow
from apps.terminal import add_row, new_table, say, show


def print_adb(report: AdbReport) -> None:
    """Device, then one line per measurement: latency, what fell back, numerics, state before and after."""
    table = new_table(
        *("artifact", "backend", "thr.", "cores", "load ms", "median ms", "mean ms", "spread", "runs"),
        *("outside of delegate", "numerics", "temp. °C", "governor"),
        right=(2, 4, 5, 6, 7, 8, 11),
        names=(0,),
        prose=(9, 10),
    )
    for row in report.rows:
        cores = f"mask {row.taskset_mask}" if row.pinned else "any"
        cells = [row.label, row.backend, str(row.threads), cores]
        if row.timing is None:
            add_row(table, *cells, *["–"] * 5, row.reason or "", "–", "–", "–")
            continue
        add_row(
            table,
            *cells,
            _ms(row.timing.load_ms),
            _ms(row.timing.median_ms),
            _ms(row.timing.mean_ms),
            _spread(row),
            str(row.timing.count),
            _outside(row),
            describe_numerics(row.numerics),
            f"{_degrees(row.before)} → {_degrees(row.after)}",
            "–" if row.before is None else row.before.governor,
        )
    say(f"device: {report.device.title} (serial {report.device.serial})")
    show(table)
    _say_once((row.label, (*row.notes, *_reasons(row.numerics))) for row in report.rows if row.timing is not None)
    if any(isinstance(row.timing, SampledTiming) for row in report.rows):
        say("spread: interquartile range of the samples, or ± standard deviation where the tool prints no samples")
    if report.interrupted:
        say("interrupted: what was measured until then is above")
    if report.left_behind is not None:
        say(f"left on {report.device.serial}: {report.left_behind}; the next session on that device removes it")


def print_apple(report: AppleReport) -> None:
    """Device, then one line per artifact and compute unit: latency, where Core ML plans the work, numerics."""
    table = new_table(
        *("artifact", "compute unit", "load ms", "median ms", "IQR ms", "p95 ms", "runs", "planned for", "numerics"),
        right=range(2, 7),
        names=(0,),
        prose=(7, 8),
    )
    for row in report.rows:
        if row.timing is None:
            add_row(table, row.label, row.compute_unit, *["–"] * 5, row.reason or "", "–")
            continue
        timing = row.timing
        add_row(
            table,
            *(row.label, row.compute_unit, _ms(timing.load_ms), _ms(timing.median_ms)),
            *(_ms(timing.iqr_ms) + (" !" if timing.noisy else ""), _ms(timing.p95_ms), str(timing.count)),
            *(_planned(row), describe_numerics(row.numerics)),
        )
    say(f"device: {report.device}, {report.os}")
    show(table)
    _say_once((row.label, _reasons(row.numerics)) for row in report.rows if row.timing is not None)


def describe_numerics(numerics: DeviceNumerics) -> str:
    """A comparison in a few words, such as ``equal`` or ``62.1 dB, at most 3 levels``."""
    if numerics.psnr_db is None:
        return "wrong" if numerics.agrees is False else "not verified"
    if numerics.max_difference == 0:
        return "equal"
    words = f"{numerics.psnr_db:.1f} dB, at most {numerics.max_difference} levels"
    return words if numerics.agrees else f"DIFFERS: {words}"


def _outside(row: AdbRow) -> str:
    if row.delegation is not None:
        return row.delegation.fallback or "none"
    # What an ExecuTorch program delegates was decided at export and is in the artifact.
    return "see artifact" if row.target == "executorch" else "the log does not say"


def _planned(row: AppleRow) -> str:
    if row.plan is None:
        return row.plan_reason or "–"
    parts = []
    for name, share in row.plan.shares.items():
        cost = "" if share.cost_percent is None else f" ({share.cost_percent:.0f}% of cost)"
        parts.append(f"{name} {share.operations} ops{cost}")
    return ", ".join(parts)


def _spread(row: AdbRow) -> str:
    timing = row.timing
    if timing is None:
        return "–"
    value = _ms(timing.iqr_ms) if isinstance(timing, SampledTiming) else f"± {_ms(timing.std_ms)}"
    return value + (" !" if timing.noisy else "")


def _reasons(numerics: DeviceNumerics) -> tuple[str, ...]:
    return () if numerics.reason in (None, "not run") else (str(numerics.reason),)


def _degrees(state: DeviceState | None) -> str:
    degrees = None if state is None else state.warmth[1]
    return "–" if degrees is None else f"{degrees:.1f}"


def _ms(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.2f}"  # NaN differs from itself


def _say_once(notes: Iterable[tuple[str, Sequence[str]]]) -> None:
    told: dict[str, list[str]] = {}
    for label, lines in notes:
        for line in lines:
            told.setdefault(line, []).append(label)
    for line, labels in told.items():
        say(f"{', '.join(dict.fromkeys(labels))}: {line}")
