"""History and comparisons as tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.figures import GRID, INK, MUTED, SCHEME_COLOURS, figure_png
from apps.history.compare import CompareReport, LatencyComparison, Side
from apps.history.measurement import LATENCY, Measurement
from apps.history.ratio import FASTER, SLOWER
from apps.profiling.certainty import median_interval
from apps.profiling.sampled import NOISY_IQR_PERCENT, SampleStatistics
from apps.terminal import Table, add_row, new_table, say, show, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE_COLOURS = {"A": SCHEME_COLOURS["fp32"], "B": SCHEME_COLOURS["w8a8"]}
_MARKERS = "osD^v<>P*X"
_STYLES = {SLOWER: "bold red", FASTER: "green"}
# On each side of a single moment: left to itself, matplotlib draws four years around it.
_AROUND_ONE_MOMENT = timedelta(hours=12)


@dataclass(frozen=True)
class _Runs(SampleStatistics):
    samples_ms: tuple[float, ...]


def print_history(measurements: Sequence[Measurement]) -> None:
    """One line per measurement, oldest first: what, where, and the figure with its confidence interval."""
    if not measurements:
        say("no measurement matches; edge-sr history without options shows all there are")
        return
    heads = ("when (UTC)", "artifact", "result", "95% interval", "threads", "device", "runtime", "hash")
    table = new_table(*heads, right=(2, 3, 4), names=(1,))
    for measurement in measurements:
        runtime = f"{measurement.runtime} {measurement.runtime_version} {measurement.backend}".strip()
        add_row(
            table,
            measurement.created.removesuffix("+00:00").replace("T", " "),
            measurement.artifact_name,
            *_figures(measurement),
            str(measurement.threads) if measurement.kind == LATENCY else "",
            f"{measurement.device_kind}: {measurement.device}",
            runtime,
            measurement.artifact_sha256[:8],
        )
    show(table)
    say(f"{len(measurements)} measurement{'s' if len(measurements) != 1 else ''}")
    marks = "".join(_marks(measurement) for measurement in measurements)
    if "!" in marks:
        say(f"!  IQR above {NOISY_IQR_PERCENT:g}% of the median: something else used the processor")
    if "~" in marks:
        say("~  the median is known to no better than 3%")


def print_compare(report: CompareReport) -> None:
    """Latency and accuracy of B against A, then what could not be compared."""
    say(f"A: {report.a}")
    say(f"B: {report.b}")
    if report.latency:
        show(_latency_table(report.latency))
    if report.accuracy:
        table = new_table("artifact", "set", "runtime", "A dB", "B dB", "B less A", right=(3, 4, 5), names=(0,))
        for row in report.accuracy:
            scores = (f"{row.before_db:.3f}", f"{row.after_db:.3f}", f"{row.change_db:+.3f}")
            add_row(table, row.artifact, row.set_name, row.runtime, *scores)
        show(table)
    for line in report.unmatched:
        say(line)
    say(
        f"a verdict needs the {100 * report.confidence:.0f}% interval of the ratio to lie beyond "
        f"{report.tolerance_percent:g}%"
    )


def history_chart(measurements: Sequence[Measurement]) -> bytes:
    """Median of each latency measurement over time with its 95% interval, a colour per artifact and setting; a PNG."""
    series: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        if measurement.kind == LATENCY:
            series.setdefault(_series_name(measurement), []).append(measurement)
    figure, axes = _axes(width=8.2, height=3.6)
    for number, (name, members) in enumerate(sorted(series.items())):
        _draw(axes, members, label=name, colour=f"C{number % 10}", marker=_MARKERS[number % len(_MARKERS)])
    _finish(figure, axes, [m for members in series.values() for m in members])
    return figure_png(figure)


def compare_chart(report: CompareReport) -> bytes:
    """Every launch of A and of B over time with its 95% interval, and the ratio with its interval below; a PNG."""
    from matplotlib.figure import Figure

    rows = len(report.latency)
    figure = Figure(figsize=(8.2, 3.4 + 0.4 * max(rows, 1)), dpi=160, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3.0, 0.5 + 0.4 * max(rows, 1)))
    for axes in (above, below):
        _style(axes)
    for label, colour in _SIDE_COLOURS.items():
        members = [m for side, m in report.measurements if side == label and m.kind == LATENCY]
        by_setting: dict[str, list[Measurement]] = {}
        for measurement in members:
            by_setting.setdefault(_series_name(measurement), []).append(measurement)
        for number, (name, group) in enumerate(sorted(by_setting.items())):
            _draw(above, group, label=f"{label}: {name}", colour=colour, marker=_MARKERS[number % len(_MARKERS)])
    _finish(figure, above, [m for _, m in report.measurements if m.kind == LATENCY])
    _draw_ratios(below, report)
    return figure_png(figure)


def _draw_ratios(axes: Any, report: CompareReport) -> None:
    share = report.tolerance_percent / 100
    axes.axvspan(1 / (1 + share), 1 + share, color=GRID, zorder=0)
    axes.axvline(1.0, color=MUTED, linewidth=0.8)
    for number, row in enumerate(reversed(report.latency)):
        low, high = row.ratio_interval or (row.ratio, row.ratio)
        colour = {SLOWER: "#c0392b", FASTER: "#3f9b6b"}.get(row.verdict, MUTED)
        axes.errorbar(row.ratio, number, xerr=[[row.ratio - low], [high - row.ratio]], fmt="o", color=colour, capsize=3)
    names = [
        f"{row.threads} thread{'s' if row.threads != 1 else ''}: {row.verdict}" for row in reversed(report.latency)
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, max(len(names), 1) - 0.3)
    axes.set_xlabel("median of B over median of A; grey: no difference worth the name", color=MUTED, size=8)
    axes.grid(axis="x", color=GRID)


def _draw(axes: Any, members: Sequence[Measurement], *, label: str, colour: str, marker: str) -> None:
    times = [datetime.fromisoformat(m.created) for m in members]
    medians = np.array([_median(m) for m in members])
    bounds = np.array([_interval(m) for m in members])
    errors = np.stack([medians - bounds[:, 0], bounds[:, 1] - medians])
    axes.errorbar(times, medians, yerr=errors, fmt=f"{marker}-", color=colour, label=label, capsize=2.5, ms=4, lw=1)


def _latency_table(rows: Sequence[LatencyComparison]) -> Table:
    heads = ("artifact", "device", "threads", "A, ms", "B, ms", "B / A", "verdict on B", "note")
    table = new_table(*heads, right=range(2, 6), names=(0,), prose=(7,))
    for row in rows:
        ratio = [f"{row.ratio:.3f}"]
        if row.ratio_interval is not None:
            ratio.append(f"[{row.ratio_interval[0]:.3f}, {row.ratio_interval[1]:.3f}]")
        style = _STYLES.get(row.verdict, "")
        add_row(
            table,
            row.artifact,
            row.device,
            str(row.threads),
            _side_lines(row.before),
            _side_lines(row.after),
            tuple(ratio),
            styled(row.verdict, style),
            row.note,
        )
    return table


def _side_lines(side: Side) -> tuple[str, ...]:
    interval = [] if side.interval_ms is None else [f"[{side.interval_ms[0]:.2f}, {side.interval_ms[1]:.2f}]"]
    launches = f"{side.launches} launch{'es' if side.launches != 1 else ''}"
    return f"{side.median_ms:.2f}", *interval, f"{side.samples} runs, {launches}"


def _figures(measurement: Measurement) -> tuple[str, str]:
    if measurement.kind != LATENCY:
        return f"{measurement.psnr_y_db:.3f} dB", f"{measurement.set_name}"
    interval = median_interval(measurement.samples_ms) if measurement.samples_ms else None
    spelled = "–" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
    return f"{_median(measurement):.2f} ms{_marks(measurement)}", spelled


def _marks(measurement: Measurement) -> str:
    """What profile said of the same runs: "!" and the IQR of noisy ones, "~" of a median that is not settled."""
    if not measurement.samples_ms:
        return ""
    runs = _Runs(measurement.samples_ms)
    return (f" ! {runs.iqr_percent:.0f}%" if runs.noisy else "") + ("" if runs.settled else " ~")


def _median(measurement: Measurement) -> float:
    if measurement.samples_ms:
        return float(np.median(measurement.samples_ms))
    return float(measurement.statistics["median_ms"])


def _interval(measurement: Measurement) -> tuple[float, float]:
    median = _median(measurement)
    found = median_interval(measurement.samples_ms) if measurement.samples_ms else None
    return found or (median, median)


def _series_name(measurement: Measurement) -> str:
    threads = f"{measurement.threads} thread{'s' if measurement.threads != 1 else ''}"
    return f"{measurement.artifact_name}, {measurement.device_kind}, {threads} {measurement.backend}".strip()


def _axes(*, width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: Any) -> None:
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for spine in ("left", "bottom"):
        axes.spines[spine].set_color(GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)


def _finish(figure: Figure, axes: Any, drawn: Sequence[Measurement]) -> None:
    moments = {datetime.fromisoformat(measurement.created) for measurement in drawn}
    if len(moments) == 1:
        (moment,) = moments
        axes.set_xlim(moment - _AROUND_ONE_MOMENT, moment + _AROUND_ONE_MOMENT)
    axes.set_ylabel("median of one tile, ms", color=MUTED, size=8.5)
    axes.grid(axis="y", color=GRID)
    axes.set_ylim(bottom=0)
    for label in axes.get_xticklabels():
        label.set_rotation(20)
        label.set_ha("right")
    if drawn:
        axes.legend(frameon=False, fontsize=7, loc="lower left")
