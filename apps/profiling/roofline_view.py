"""Artifacts against the machine's own peak, as a table for a terminal and as bars."""

from __future__ import annotations

from collections.abc import Sequence

from apps.figures import GRID, INK, MUTED, SCHEME_COLOURS, figure_png
from apps.profiling.layer_results import quantile
from apps.profiling.roofline import RooflineReport, RooflineRow
from apps.terminal import add_row, new_table, say, show


def print_roofline(report: RooflineReport) -> None:
    """One line per artifact and thread count: MACs, rate, peak, share of the peak with its range over the rounds."""
    numbers = ("threads", "GMACs", "median ms", "GMAC/s", "peak GMAC/s", "of peak", "rounds from … to")
    table = new_table("artifact", *numbers, right=range(1, 8), names=(0,))
    for row in report.rows:
        cells = [row.label, str(row.threads)]
        if row.reason is not None:
            add_row(table, *cells, *["–"] * 6)
            continue
        percent = row.round_percent
        cells += [
            f"{row.macs / 1e9:.3f}",
            f"{quantile(row.round_ms, 0.5):.2f}",
            f"{quantile(row.round_gmacs, 0.5):.1f}",
            f"{quantile(row.round_peak_gmacs, 0.5):.1f}",
            f"{quantile(percent, 0.5):.0f}%",
            f"{min(percent):.0f}% … {max(percent):.0f}%",
        ]
        add_row(table, *cells)
    show(table)
    for line in dict.fromkeys(f"{row.label}: {row.reason}" for row in report.rows if row.reason is not None):
        say(line)
    rounds = f"{report.rounds} round{'s' if report.rounds > 1 else ''}"
    say(f"peak: {report.peak}, same runtime, scheme and threads, in turns with the artifact, {rounds}")


def roofline_chart(report: RooflineReport) -> bytes:
    """What each artifact reaches (bar) of the peak (outline), GMAC/s; whiskers over the rounds. Returns a PNG."""
    # A Figure of its own, without pyplot: nothing global, no window, no state left behind.
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.reason is None]
    figure = Figure(figsize=(8.2, 0.8 + 0.42 * max(len(rows), 1)), dpi=160, layout="constrained")
    axes = figure.subplots()
    longest = max((max(*row.round_peak_gmacs, *row.round_gmacs) for row in rows), default=1.0)
    for place, row in zip(range(len(rows))[::-1], rows, strict=True):
        own, peak = quantile(row.round_gmacs, 0.5), quantile(row.round_peak_gmacs, 0.5)
        axes.barh(
            place,
            own,
            height=0.5,
            color=SCHEME_COLOURS.get(row.scheme, MUTED),
            xerr=_whisker(row.round_gmacs, own),
            error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
        )
        axes.barh(
            place,
            peak,
            height=0.72,
            fill=False,
            edgecolor=MUTED,
            linewidth=1,
            xerr=_whisker(row.round_peak_gmacs, peak),
            error_kw={"ecolor": MUTED, "elinewidth": 1, "capsize": 2},
        )
        text = f"{own:.0f} of {peak:.0f} ({quantile(row.round_percent, 0.5):.0f}%)"
        end = max(*row.round_peak_gmacs, *row.round_gmacs)
        axes.text(end + 0.012 * longest, place, text, va="center", color=INK, size=8)
    axes.set_yticks(range(len(rows))[::-1], [_name(row) for row in rows])
    axes.set_xlim(0, 1.25 * longest)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(axis="x", color=GRID)
    axes.set_xlabel("GMAC/s: bar, the artifact; outline, dense convolutions on this machine", color=MUTED, size=8)
    return figure_png(figure)


def _whisker(rounds: Sequence[float], middle: float) -> list[list[float]]:
    return [[max(middle - min(rounds), 0.0)], [max(max(rounds) - middle, 0.0)]]


def _name(row: RooflineRow) -> str:
    return f"{row.label}, {row.threads} thread{'s' if row.threads > 1 else ''}"
