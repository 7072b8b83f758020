"""Write docs/images/devices.png from results/devices_x4.json: float beside int8, per network and runtime.

    python -m scripts.device_chart

``make docs`` calls it. The picture carries the SHA-256 of the values it shows, so that a test can tell an old one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.figures import GRID, INK, MUTED, SCHEME_COLOURS, figure_png
from apps.scripting import run_script
from edge_sr.atomic import atomic_path
from edge_sr.errors import ConfigError
from scripts.measure import ROOT, SCHEMES

RESULT = ROOT / "results" / "devices_x4.json"
CHART = ROOT / "docs" / "images" / "devices.png"
# The PNG's text that says which values it shows.
DIGEST_KEY = "Values-SHA256"
_DEVICES = {"host": "host", "browser": "headless browser on the host"}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One scheme in one runtime: median and first and third quartile of a tile, ms."""

    scheme: str
    median_ms: float
    quartiles_ms: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One runtime with a number of threads: ``label``, and float and int8 as far as they were measured."""

    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One network at its tile."""

    title: str
    lines: tuple[Line, ...]


def panels(result: dict[str, Any]) -> tuple[Panel, ...]:
    """What the chart shows of a result: nothing that was not measured, and every line says what it ran on.

    Raises:
        ConfigError: neither the host nor a browser was measured.
    """
    found: dict[str, list[Line]] = {}
    for name, device in _DEVICES.items():
        for row in result.get(name, {}).get("rows", ()):
            bars = tuple(_bar(scheme, row[scheme]["timing"]) for scheme in SCHEMES if row[scheme]["timing"])
            title = f"{row['model']} x{row['scale']}, {row['tile'][0]}x{row['tile'][1]} LR pixels"
            threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
            if bars:
                found.setdefault(title, []).append(Line(label=f"{row['title']}, {threads}\n{device}", bars=bars))
    if not found:
        raise ConfigError("expected measurements of the host or a browser, got none; run scripts.measure_devices")
    return tuple(Panel(title=title, lines=tuple(lines)) for title, lines in found.items())


def _bar(scheme: str, timing: dict[str, Any]) -> Bar:
    low, high = timing["quartiles_ms"]
    return Bar(scheme=scheme, median_ms=timing["median_ms"], quartiles_ms=(low, high))


def digest(shown: Sequence[Panel]) -> str:
    """SHA-256 of every value and label of the chart."""
    return hashlib.sha256(json.dumps([asdict(panel) for panel in shown]).encode()).hexdigest()


def draw(shown: Sequence[Panel], *, machine: str) -> bytes:
    """One panel per network, each with an axis of its own; returns a PNG.

    Args:
        shown: see :func:`panels`.
        machine: what all of it ran on, for the line below.
    """
    # A Figure of its own, without pyplot: nothing global, no window, no state left behind.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    counts = [len(panel.lines) for panel in shown]
    figure = Figure(figsize=(8.6, 1.0 + sum(0.46 + 0.44 * count for count in counts)), dpi=130, layout="constrained")
    grid = figure.subplots(len(shown), 1, squeeze=False, height_ratios=[0.6 + count for count in counts])
    for axes, panel in zip(grid[:, 0], shown, strict=True):
        _draw_panel(axes, panel)
    schemes = dict.fromkeys(bar.scheme for panel in shown for line in panel.lines for bar in line.bars)
    handles = [Patch(color=SCHEME_COLOURS[scheme], label=scheme) for scheme in schemes]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=8)
    caption = f"ms per tile, median; whiskers: middle half of the runs. {machine}: no phone."
    grid[-1, 0].set_xlabel(caption, color=MUTED, size=8)
    return figure_png(figure, metadata={DIGEST_KEY: digest(shown)})


def _draw_panel(axes: Any, panel: Panel) -> None:
    longest = max(bar.quartiles_ms[1] for line in panel.lines for bar in line.bars)
    places = list(range(len(panel.lines)))[::-1]
    for place, line in zip(places, panel.lines, strict=True):
        for bar in line.bars:
            low, high = bar.quartiles_ms
            at = place + (0.19 if bar.scheme == SCHEMES[0] else -0.19)
            reach = [[max(bar.median_ms - low, 0.0)], [max(high - bar.median_ms, 0.0)]]
            whisker = {"ecolor": INK, "elinewidth": 0.9, "capsize": 1.5}
            colour = SCHEME_COLOURS[bar.scheme]
            axes.barh(at, bar.median_ms, height=0.36, color=colour, xerr=reach, error_kw=whisker)
            text = f"{bar.median_ms:.1f}"
            axes.text(high + 0.008 * longest, at, text, va="center", color=INK, size=7.5)
    axes.set_yticks(places, [line.label for line in panel.lines])
    axes.set_ylim(-0.55, len(panel.lines) - 0.45)
    axes.set_xlim(0, 1.08 * longest)
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=7.5, length=0)
    axes.grid(axis="x", color=GRID)
    axes.set_title(panel.title, loc="left", color=INK, size=9)


def machine_line(result: dict[str, Any]) -> str:
    """Which processors the sections were measured on."""
    names = dict.fromkeys(result[name]["machine"]["cpu_model"] for name in _DEVICES if name in result)
    return " and ".join(names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the chart, or say that there is nothing to draw yet; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--out", type=Path, default=CHART)
    options = parser.parse_args(arguments)
    if not options.result.exists():
        print(f"no chart of devices: {options.result.name} is not measured yet")
        return 0
    result = json.loads(options.result.read_text(encoding="utf-8"))
    content = draw(panels(result), machine=machine_line(result))
    if options.out.exists() and options.out.read_bytes() == content:
        return 0
    with atomic_path(options.out) as temporary:
        temporary.write_bytes(content)
    print(f"wrote {options.out.name}, {len(content) / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    run_script(main)
