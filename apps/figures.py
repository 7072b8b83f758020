"""Pictures: crops side by side, latency bars, and the waterfall of where the PSNR goes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from edge_sr.errors import ConfigError, ShapeError
from edge_sr.foreign_text import visible
from edge_sr.images import write_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = NDArray[np.uint8]

# One palette for the page and the charts: schemes keep their colour everywhere.
INK, MUTED, GRID = "#1b2330", "#66718a", "#dfe4ec"
SCHEME_COLOURS = {"fp32": "#7a8ca8", "fp16": "#4f9d9d", "w8a8": "#e0762f", "w8a8_mixed": "#b9a13a"}
_GAIN_COLOUR = "#3f9b6b"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One labelled picture of a row. ``note`` is a second, smaller line, such as a PSNR."""

    label: str
    image: Image
    note: str = ""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ShapeError(
                f"a panel needs an (H, W, 3) uint8 image, got {self.image.shape} {self.image.dtype}, convert it first"
            )


@dataclass(frozen=True, kw_only=True)
class LatencyBar:
    """One bar of the latency chart. ``quartiles_ms`` are the first and the third."""

    label: str
    scheme: str
    median_ms: float
    quartiles_ms: tuple[float, float]


def most_different_window(first: Image, second: Image, size: int) -> tuple[int, int]:
    """Where two images differ most.

    Args:
        first, second: (H, W, 3) uint8 of one shape.
        size: side of the square window, in pixels; cut to the image where that is smaller.
    Returns:
        (top, left) of the window with the largest sum of squared differences.
    Raises:
        ShapeError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ShapeError(f"expected two images of one shape, got {first.shape} and {second.shape}")
    squares = ((first.astype(np.int64) - second.astype(np.int64)) ** 2).sum(axis=2)
    height, width = min(size, squares.shape[0]), min(size, squares.shape[1])
    table = np.zeros((squares.shape[0] + 1, squares.shape[1] + 1), dtype=np.int64)
    table[1:, 1:] = squares.cumsum(axis=0).cumsum(axis=1)
    sums = table[height:, width:] - table[:-height, width:] - table[height:, :-width] + table[:-height, :-width]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top), int(left)


def crop_panels(panels: Sequence[Panel], *, window: tuple[int, int], size: int) -> tuple[Panel, ...]:
    """Cut the same square out of every panel; smaller images (the LR) are cut in proportion.

    Args:
        panels: pictures of one scene; the largest sets the coordinates.
        window: (top, left) in the largest picture's pixels.
        size: side of the square in the largest picture's pixels.
    """
    full = max(panel.image.shape[0] for panel in panels)
    cut = []
    for panel in panels:
        step = round(full / panel.image.shape[0])
        top, left, side = window[0] // step, window[1] // step, max(size // step, 1)
        cut.append(Panel(label=panel.label, note=panel.note, image=panel.image[top : top + side, left : left + side]))
    return tuple(cut)


def compose_row(panels: Sequence[Panel], *, side: int = 256, gap: int = 10) -> Image:
    """Set panels side by side, enlarged by whole pixels (nothing is smoothed), each with its label below.

    Args:
        panels: at least one picture.
        side: height of each picture in the row, pixels.
        gap: white space between pictures, pixels.
    Returns:
        (H, W, 3) uint8.
    """
    return compose_rows([panels], side=side, gap=gap)


def compose_rows(rows: Sequence[Sequence[Panel]], *, side: int = 256, gap: int = 10) -> Image:
    """Set several rows of panels above one another; see :func:`compose_row`."""
    if not rows or not all(rows):
        raise ConfigError("expected at least one picture to compose, got none")
    label_font, note_font = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    text_height = 44 if any(panel.note for row in rows for panel in row) else 26
    columns = max(len(row) for row in rows)
    width, height = gap + columns * (side + gap), gap + len(rows) * (side + text_height + gap)
    canvas = PillowImage.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for row_index, row in enumerate(rows):
        top = gap + row_index * (side + text_height + gap)
        for column, panel in enumerate(row):
            left = gap + column * (side + gap)
            picture = PillowImage.fromarray(panel.image)
            picture = picture.resize(_fit(picture.size, side), PillowImage.Resampling.NEAREST)
            canvas.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
            middle = left + side / 2
            draw.text((middle, top + side + 5), visible(panel.label), fill=INK, font=label_font, anchor="mt")
            draw.text((middle, top + side + 25), visible(panel.note), fill=MUTED, font=note_font, anchor="mt")
    return np.asarray(canvas, dtype=np.uint8).copy()


def write_comparison(
    path: Path,
    rows: Sequence[Sequence[Panel]],
    *,
    side: int = 256,
    overwrite: bool = False,
) -> Path:
    """Write rows of panels (LR, bicubic, float, int8, HR, say) as one PNG, for a README.

    Raises:
        ImageError: the file exists and ``overwrite`` is false, or cannot be written.
    """
    write_image(path, compose_rows(rows, side=side), overwrite=overwrite)
    return path


def latency_chart(bars: Sequence[LatencyBar]) -> bytes:
    """Horizontal latency bars from top to bottom, with whiskers from quartile to quartile; returns a PNG."""
    figure, axes = _axes(width=8.2, height=0.5 + 0.36 * max(len(bars), 1))
    positions = list(range(len(bars)))[::-1]
    axes.barh(
        positions,
        [bar.median_ms for bar in bars],
        height=0.62,
        color=[SCHEME_COLOURS.get(bar.scheme, MUTED) for bar in bars],
        xerr=[
            [bar.median_ms - bar.quartiles_ms[0] for bar in bars],
            [bar.quartiles_ms[1] - bar.median_ms for bar in bars],
        ],
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
    )
    longest = max((bar.quartiles_ms[1] for bar in bars), default=1.0)
    for position, bar in zip(positions, bars, strict=True):
        text = f"{bar.median_ms:.1f} ms"
        axes.text(bar.quartiles_ms[1] + longest * 0.012, position, text, va="center", color=INK, size=8.5)
    axes.set_yticks(positions, [bar.label for bar in bars])
    axes.set_xlim(0, longest * 1.14)
    axes.set_xlabel("median of one tile, ms", color=MUTED, size=8.5)
    axes.grid(axis="x", color=GRID)
    return figure_png(figure)


def waterfall_chart(steps: Sequence[tuple[str, float]], *, start_label: str, start_db: float, end_label: str) -> bytes:
    """PSNR from the float network on whole images down to the artifact.

    Args:
        steps: (label, drop in dB) in order; a negative drop is a gain.
        start_label, start_db: the first bar.
        end_label: name of the last bar, which is what the steps leave.
    Returns:
        a PNG. The axis starts near the values, not at zero: drops are hundredths of a decibel.
    """
    levels = [start_db]
    for _, drop in steps:
        levels.append(levels[-1] - drop)
    span = max(max(levels) - min(levels), 0.02)
    floor, top = min(levels) - 1.1 * span, max(levels) + 0.45 * span
    figure, axes = _axes(width=5.6, height=3.1)
    labels = [start_label, *(label for label, _ in steps), end_label]
    axes.bar(0, start_db - floor, bottom=floor, width=0.6, color=SCHEME_COLOURS["fp32"])
    for index, (_, drop) in enumerate(steps, start=1):
        colour = _GAIN_COLOUR if drop < 0 else SCHEME_COLOURS["w8a8"]
        axes.bar(index, -drop, bottom=levels[index - 1], width=0.6, color=colour)
        axes.plot([index - 1.3, index + 0.3], [levels[index - 1]] * 2, color=MUTED, lw=0.8, ls=":")
        label_at = max(levels[index - 1], levels[index]) + 0.05 * span
        axes.text(index, label_at, f"{signed_db(-drop)} dB", ha="center", va="bottom", color=INK, size=8.5)
    axes.bar(len(labels) - 1, levels[-1] - floor, bottom=floor, width=0.6, color=INK)
    for index, level in ((0, start_db), (len(labels) - 1, levels[-1])):
        axes.text(index, level + 0.05 * span, f"{level:.3f}", ha="center", va="bottom", color=INK, size=8.5)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(floor, top)
    axes.set_ylabel("PSNR-Y, dB", color=MUTED, size=8.5)
    axes.grid(axis="y", color=GRID)
    return figure_png(figure)


def signed_db(value: float) -> str:
    """Decibels with a sign, but for what rounds to nothing."""
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"


def png_bytes(image: Image) -> bytes:
    """Encode an (H, W, 3) uint8 image as PNG."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def figure_png(figure: Figure, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Draw a matplotlib figure as a PNG; every name in it is drawn as it is."""
    _show_as_text(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", transparent=False, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    # By a whole factor where the picture is smaller, so that every pixel keeps one size.
    factor = side / max(size)
    factor = float(int(factor)) if factor >= 1 else factor
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _axes(*, width: float, height: float) -> tuple[Figure, Any]:
    # A Figure of its own, without pyplot: nothing global, no window, no state left behind.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    axes = figure.subplots()
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    return figure, axes


def _show_as_text(figure: Figure) -> None:
    """Take away what matplotlib would read in names: ``$`` as mathematics, and what its fonts cannot draw."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator

    for text in figure.findobj(Text):
        text.set_text(_drawn(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_locator(), FixedLocator):  # or the labels are matplotlib's own
                labels = [label.get_text() for label in axis.get_ticklabels()]
                drawn = [_drawn(label) for label in labels]
                if drawn != labels:
                    axis.set_ticks(axis.get_ticklocs(), drawn)


def _drawn(text: str) -> str:
    return "\n".join(visible(line) for line in text.split("\n")).replace("$", r"\$")
