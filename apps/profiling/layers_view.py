"""The cost of layers as a table for a terminal and as bars."""

from __future__ import annotations

import math

from apps.figures import GRID, INK, MUTED, SCHEME_COLOURS, figure_png
from apps.profiling.layer_results import LayerCost, LayerProfile
from apps.terminal import add_row, new_table, say, show

TABLE_LAYERS = 20
CHART_LAYERS = 24
_REST_COLOUR = "#c9d1de"


def print_layers(profile: LayerProfile, *, limit: int = TABLE_LAYERS) -> None:
    """The dearest layers, what the others take together, what is left of the whole; then the kinds of layers."""
    say(f"{profile.label}: {profile.total_ms:.3f} ms with {_threads(profile)}, {profile.macs / 1e9:.3f} GMACs")
    heads = ("layer", "operation", "MACs", "median ms", "95% interval", "share", "GMAC/s")
    table = new_table(*heads, right=range(2, 7), names=(0,))
    shown, rest = dearest(profile, limit)
    for layer in shown:
        add_row(table, *_cells(profile, layer))
    if rest:
        cost = math.fsum(layer.median_ms for layer in rest)
        add_row(table, f"{len(rest)} others", "", _count(rest), f"{cost:.3f}", "", _percent(profile, cost), "")
    residual = profile.residual_ms
    add_row(table, "outside of layers", "", "", f"{residual:.3f}", "", _percent(profile, residual), "")
    show(table)
    kinds = new_table("operation", "layers", "ms", "share", right=range(1, 4))
    for kind, (count, cost) in list(profile.by_kind().items())[:limit]:
        add_row(kinds, kind, str(count), f"{cost:.3f}", _percent(profile, cost))
    show(kinds)
    for note in profile.notes:
        say(note)


def layers_chart(profile: LayerProfile, *, limit: int = CHART_LAYERS) -> bytes:
    """Horizontal bars in execution order, the dearest ``limit`` layers and the rest; returns a PNG.

    Whiskers are the 95% interval of the median, or the quartiles where there is none.
    """
    # A Figure of its own, without pyplot: nothing global, no window, no state left behind.
    from matplotlib.figure import Figure

    shown, rest = dearest(profile, limit)
    chosen = {id(layer) for layer in shown}
    ordered = [layer for layer in profile.layers if id(layer) in chosen]
    labels = [f"{layer.name} {_short(layer.kind)}" for layer in ordered]
    costs = [layer.median_ms for layer in ordered]
    reaches = [layer.interval_ms or layer.quartiles_ms for layer in ordered]
    colours = [SCHEME_COLOURS.get(profile.scheme, MUTED) if layer.macs else MUTED for layer in ordered]
    extra = [(f"{len(rest)} other layers", math.fsum(layer.median_ms for layer in rest))] if rest else []
    for label, cost in (*extra, ("outside of layers", profile.residual_ms)):
        labels, costs, reaches = [*labels, label], [*costs, cost], [*reaches, (cost, cost)]
        colours.append(_REST_COLOUR)
    figure = Figure(figsize=(8.2, 0.9 + 0.24 * len(labels)), dpi=160, layout="constrained")
    axes = figure.subplots()
    places = list(range(len(labels)))[::-1]
    errors = [
        [max(cost - low, 0.0) for cost, (low, _) in zip(costs, reaches, strict=True)],
        [max(high - cost, 0.0) for cost, (_, high) in zip(costs, reaches, strict=True)],
    ]
    axes.barh(places, costs, height=0.66, color=colours, xerr=errors, error_kw={"ecolor": INK, "elinewidth": 0.9})
    longest = max(max(high for _, high in reaches), 1e-9)
    for place, cost, (_, high) in zip(places, costs, reaches, strict=True):
        text = _percent(profile, cost)
        axes.text(max(high, cost, 0) + 0.012 * longest, place, text, va="center", color=INK, size=7)
    axes.set_yticks(places, labels)
    axes.set_xlim(min(0.0, *costs) * 1.05, 1.12 * longest)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=7, length=0)
    axes.grid(axis="x", color=GRID)
    axes.set_xlabel(f"ms of {profile.total_ms:.2f} ms per tile, {_threads(profile)}", color=MUTED, size=8)
    axes.set_title(f"{profile.label} ({profile.method})", loc="left", color=INK, size=9)
    return figure_png(figure)


def dearest(profile: LayerProfile, limit: int) -> tuple[list[LayerCost], list[LayerCost]]:
    """The ``limit`` layers that cost most, dearest first, and the others; a single other one is not left out."""
    ordered = sorted(profile.layers, key=lambda layer: -layer.median_ms)
    limit = len(ordered) if len(ordered) == limit + 1 else limit
    return ordered[:limit], ordered[limit:]


def _cells(profile: LayerProfile, layer: LayerCost) -> tuple[str, ...]:
    interval = layer.interval_ms
    rate = layer.gmacs_per_second
    return (
        layer.name,
        layer.kind,
        _count([layer]),
        f"{layer.median_ms:.3f}",
        "–" if interval is None else f"{interval[0]:.3f} – {interval[1]:.3f}",
        _percent(profile, layer.median_ms),
        "–" if rate is None else f"{rate:.1f}",
    )


def _count(layers: list[LayerCost]) -> str:
    if any(layer.macs is None for layer in layers):
        return "–"
    total = sum(layer.macs or 0 for layer in layers)
    return f"{total / 1e6:.1f} M" if total else "–"


def _percent(profile: LayerProfile, cost: float) -> str:
    return f"{100.0 * cost / profile.total_ms:.1f}%"


def _threads(profile: LayerProfile) -> str:
    return f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"


def _short(kind: str) -> str:
    return kind if len(kind) <= 30 else kind[:29] + "…"
