"""A network's sensitivity on the terminal, as a page, and as a chart for elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.figures import GRID, INK, MUTED, SCHEME_COLOURS, figure_png
from apps.formatting import format_drop
from apps.pages import write_page
from apps.profiling.part_latency import LatencyByPart
from apps.sensitivity import SensitivityReport
from apps.terminal import add_row, new_table, say, show
from edge_sr.atomic import atomic_path
from edge_sr.errors import ConfigError
from edge_sr.sizes import format_size
from quantization.places import BLOCK, OP, ROLE
from quantization.sensitivity import Effect, Sensitivity

PAGE = "sensitivity.html"
CHART = "sensitivity.png"
TITLES = {OP: "by operator", BLOCK: "by block", ROLE: "the same layer of all blocks"}


def print_sensitivity(report: SensitivityReport) -> None:
    """The whole, then the parts of each view, real schemes, and times, as far as they were measured."""
    result = report.sensitivity
    say(
        f"{report.model} x{report.scale}, {result.scheme}: {format_effect(result.whole)} with everything in int8 "
        f"({format_drop(result.network_drop_db)} by its own integer arithmetic), on {result.images} crops of "
        f"{report.data} in {result.seconds:.0f} s; ranges: {report.ranges}"
    )
    for view, title in TITLES.items():
        if not result.view(view):
            continue
        heads = ("roundings", "error, levels²", "share", "only this: drop, dB", "all but this: drop, dB")
        table = new_table(title, *heads, right=range(1, 6), names=(0,))
        for part in result.view(view):
            add_row(
                table,
                part.name,
                str(part.weights + part.values),
                f"{part.alone.mse_levels2:.4f}",
                f"{result.share_percent(part):.1f}%",
                format_effect(part.alone),
                format_effect(part.others),
            )
        show(table)
    if report.variants:
        columns = ("error, levels²", "drop, dB", "values rounded")
        table = new_table("as targets execute it, without a search", *columns, right=(1, 2), names=(0,))
        for variant in report.variants:
            rounded = ", ".join(f"{count} {op}" for op, count in variant.rounded.items())
            effect = variant.effect
            add_row(table, variant.name, f"{effect.mse_levels2:.4f}", format_effect(effect), rounded)
        show(table)
    if report.latency is not None:
        _print_latency(report.latency)


def _print_latency(latency: LatencyByPart) -> None:
    tile = format_size(latency.tile)
    say(f"milliseconds of a tile of {tile} with {latency.threads} thread(s), LiteRT's operator profile")
    table = new_table("part", *latency.total_ms, right=range(1, 1 + len(latency.total_ms)), names=(0,))
    add_row(table, "whole", *(f"{cost:.3f}" for cost in latency.total_ms.values()))
    for row in latency.rows:
        name = row.name if row.view == OP else f"{row.name}, convolutions"
        costs = ["–" if cost is None else f"{cost:.3f}" for cost in row.latency_ms.values()]
        add_row(table, name, *costs)
    show(table)
    for note in latency.notes:
        say(note)


def format_effect(effect: Effect) -> str:
    """``+0.018 ± 0.005``: drop in dB and its standard error."""
    error = "" if effect.drop_error_db is None else f" ± {effect.drop_error_db:.3f}"
    return f"{format_drop(effect.drop_db)}{error}"


def sensitivity_chart(results: Sequence[Sensitivity]) -> bytes:
    """Shares of the whole's error by operator and by block, one column of bars per network; returns a PNG."""
    if not results:
        raise ConfigError("expected at least one network to draw, got none")
    # A Figure of its own, without pyplot: nothing global, no window, no state left behind.
    from matplotlib.figure import Figure

    views = (OP, BLOCK)
    rows = [max(len(result.view(view)) for result in results) for view in views]
    figure = Figure(figsize=(5.4 * len(results), 0.9 + 0.3 * sum(rows)), dpi=160, layout="constrained")
    grid = figure.subplots(len(views), len(results), squeeze=False, height_ratios=[max(count, 1) for count in rows])
    for column, result in enumerate(results):
        for line, view in enumerate(views):
            _bars(grid[line][column], result, view)
        grid[0][column].set_title(
            f"{result.model}, {result.scheme}: {format_effect(result.whole)} dB", color=INK, size=10, loc="left"
        )
    return figure_png(figure)


def _bars(axes: Any, result: Sensitivity, view: str) -> None:
    parts = result.view(view)
    positions = list(range(len(parts)))[::-1]
    shares = [result.share_percent(part) for part in parts]
    axes.barh(positions, shares, height=0.66, color=SCHEME_COLOURS["w8a8"])
    longest = max(shares, default=1.0)
    for position, share, part in zip(positions, shares, parts, strict=True):
        text = f"{share:.1f}%  {format_effect(part.alone)} dB"
        axes.text(share + longest * 0.015, position, text, va="center", color=INK, size=7.5)
    axes.set_yticks(positions, [part.name for part in parts])
    axes.set_xlim(0, longest * 1.55)
    axes.set_xlabel(f"{TITLES[view]}: error by itself, percent of the whole's", color=MUTED, size=8)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID)


def write_report(out: Path, report: SensitivityReport, *, command: str) -> Path:
    """Write the page and the chart into a folder, replacing those of an earlier run.

    Returns:
        the page's path.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"expected a folder for the page, got the file {out}, name another --out")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / CHART) as temporary:
        temporary.write_bytes(sensitivity_chart([report.sensitivity]))
    facts: dict[str, Any] = {
        "report": report,
        "result": report.sensitivity,
        "views": TITLES,
        "effect": format_effect,
    }
    return write_page(out / PAGE, "sensitivity.html.j2", title="Sensitivity to int8", command=command, facts=facts)
