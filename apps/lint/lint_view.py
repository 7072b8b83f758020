"""Answers and forecasts as tables for a terminal and as a strip picture for the report."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from apps.figures import GRID, INK, MUTED, figure_png
from apps.lint.engine import ASKED, DISCLAIMER, OFF, ON, UNKNOWN, UNSURE, Forecast, LintReport
from apps.lint.rules import SOURCES, Place
from apps.terminal import Table, add_row, new_table, say, show, styled

# Blue, orange and grey: told apart by colour-blind readers and in print.
STATE_COLOURS = {ON: "#3f7fbf", OFF: "#d9822b", UNSURE: "#b8bfcc"}
_STATE_TEXTS = {ON: "on the accelerator", OFF: "falls back", UNSURE: "unsure"}
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_PLACES_SHOWN = 3


def print_lint(report: LintReport, *, details: bool = True) -> None:
    """Summary of each row, then its findings, then the sources that they name."""
    show(_summary(report.forecasts))
    for line in dict.fromkeys(f"{row.title}: {row.caveat}" for row in report.forecasts):
        say(line)
    if details:
        for forecast in report.forecasts:
            if forecast.findings:
                show(_findings(forecast))
        _print_sources(report)
    say(f"{DISCLAIMER}; measure on the device before you rely on it")


def strip_chart(forecasts: Sequence[Forecast]) -> bytes:
    """One strip per forecast: every operator in order, coloured by where it would run; a PNG.

    An operator's width is half an equal share and half its share of the multiply-accumulates, so that both a hundred
    small operators and the few that carry the arithmetic can be seen.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = max(len(forecasts), 1)
    figure = Figure(figsize=(8.2, 0.9 + 0.52 * rows), dpi=160, layout="constrained")
    axes = figure.subplots()
    for row, forecast in enumerate(forecasts):
        _draw_strip(axes, rows - 1 - row, forecast)
    axes.set_yticks(
        [rows - 1 - row for row in range(len(forecasts))],
        [f"{forecast.artifact_path.name}\n{forecast.title}" for forecast in forecasts],
    )
    axes.set_xlim(0, 1.0)
    axes.set_ylim(-0.6, rows - 0.35)
    axes.set_xticks([])
    axes.tick_params(colors=INK, labelsize=7, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("operators in execution order, wider where more arithmetic is", color=MUTED, size=8)
    handles = [Patch(color=colour, label=_STATE_TEXTS[state]) for state, colour in STATE_COLOURS.items()]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=7.5)
    return figure_png(figure)


def _draw_strip(axes: object, height: float, forecast: Forecast) -> None:
    left = 0.0
    for op in forecast.ops:
        share = op.macs / forecast.macs if forecast.macs else 1 / len(forecast.ops)
        width = 0.5 / len(forecast.ops) + 0.5 * share
        axes.barh(  # type: ignore[attr-defined]
            height, width, left=left, height=0.56, color=STATE_COLOURS[op.state], edgecolor="white", linewidth=0.25
        )
        left += width
    axes.barh(height, 1.0, height=0.56, fill=False, edgecolor=GRID, linewidth=0.8)  # type: ignore[attr-defined]


def _summary(forecasts: Sequence[Forecast]) -> Table:
    counted = ("ops on", "unsure", "off", "MACs on", "partitions", "errors", "warnings")
    title = "what runs where"
    table = new_table("artifact", "accelerator", "known by", *counted, right=range(3, 10), names=(0,), title=title)
    for forecast in forecasts:
        counts = [sum(f.rule.severity == severity for f in forecast.findings) for severity in ("error", "warning")]
        add_row(
            table,
            forecast.artifact_path.name,
            forecast.title,
            _known_by(forecast.label),
            f"{forecast.count(ON)} of {len(forecast.ops)}",
            str(forecast.count(UNSURE)),
            str(forecast.count(OFF)),
            "–" if forecast.macs_share is None else f"{100 * forecast.macs_share:.1f}%",
            "–" if forecast.partitions is None else str(forecast.partitions),
            *map(str, counts),
        )
    return table


def _known_by(label: str) -> Text:
    return styled(label.lower(), {ASKED: "green", UNKNOWN: "yellow"}.get(label, "cyan"))


def _findings(forecast: Forecast) -> Table:
    title = f"{forecast.label}: {forecast.artifact_path.name} on {forecast.title}"
    table = new_table("severity", "rule", "where", "what, and its cure", prose=(3,), title=title)
    for finding in forecast.findings:
        severity = finding.rule.severity
        add_row(
            table,
            styled(severity, _STYLES[severity]),
            (finding.rule.id, f"({finding.rule.confidence})"),
            _where(finding.places),
            (f"{finding.detail}: {finding.rule.why}", f"Cure: {finding.rule.fix}"),
        )
    return table


def _where(places: Sequence[Place]) -> tuple[str, ...]:
    lines = [f"#{place.index} {place.kind} {list(place.shape)}" for place in places[:_PLACES_SHOWN]]
    more = len(places) - len(lines)
    return (*lines, *([f"and {more} more"] if more else []))


def _print_sources(report: LintReport) -> None:
    used: dict[str, set[str]] = {}
    for finding in (finding for row in report.forecasts for finding in row.findings):
        used.setdefault(finding.rule.source, set()).add(finding.rule.id)
    if used:
        say("sources:")
    for key, rules in sorted(used.items()):
        say(f"  {', '.join(sorted(rules))}: {SOURCES[key].line}")
