"""Pictures: crops side by side, and what matplotlib draws."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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


def compose_rows(rows: Sequence[Sequence[Panel]], *, side: int = 256, gap: int = 10) -> Image:
    """Set rows of labelled panels above one another, on white; small pictures are enlarged by whole pixels.

    Args:
        rows: at least one, each of at least one picture.
        side: height and width of each picture's place, pixels.
        gap: white space between pictures, pixels.
    Returns:
        (H, W, 3) uint8.
    """
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
