"""HTML pages: one file each, style inline, pictures embedded, nothing fetched when it is opened.

A page follows the reader's width (a phone's as well) and choice of a dark ground. Charts are drawn by it, not painted:
see :mod:`apps.bars`.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from apps.figures import SCHEME_COLOURS
from apps.formatting import format_bytes, format_db, format_drop
from apps.machine import describe_machine, package_versions
from edge_sr.atomic import atomic_path
from edge_sr.foreign_text import visible

Image = NDArray[np.uint8]

# Of whole photos: its faults are far smaller than what the page shows, and a page of four stays under a megabyte.
JPEG_QUALITY = 90
# A list of notes, or a command that names many artifacts.
_MAX_TEXT = 100_000


def write_page(path: Path, template: str, *, title: str, command: str, facts: Mapping[str, Any]) -> Path:
    """Render a template of ``apps/templates`` that extends ``base.html.j2``, which adds machine and versions.

    Args:
        path: the .html file; its folder must exist. An existing file is replaced, whole or not at all.
        template: the template's file name.
        title: heading of the page.
        command: the words that made the numbers, printed for whoever repeats them.
        facts: what the template shows.
    """
    # Imported here: only a page needs jinja2.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("apps"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(_FILTERS)
    environment.filters["link"] = lambda target: _link(target, path)
    page = environment.get_template(template).render(
        title=title,
        command=command,
        colours=SCHEME_COLOURS,
        machine=describe_machine(),
        versions={name: version for name, version in package_versions().items() if version is not None},
        **facts,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _shown(value: Any) -> Any:
    """What a template's expression gives, as it is put into the page; jinja2 escapes it after that."""
    return visible(value, limit=_MAX_TEXT) if type(value) is str else value


class _DataUri(str):
    """A picture in a page: our own, and longer than any text."""


def _png(image: Image) -> str:
    """An (H, W, 3) uint8 picture to its last bit."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="PNG", optimize=True)
    return _data_uri("png", buffer.getvalue())


def _jpeg(image: Image) -> str:
    """An (H, W, 3) uint8 photo, at full colour resolution."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return _data_uri("jpeg", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return _DataUri(f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii"))


def _link(target: Path, page: Path) -> str:
    """An address relative to the page, which holds when the folder of both is moved."""
    return quote(Path(os.path.relpath(target, page.parent)).as_posix())


_FILTERS: dict[str, Callable[..., Any]] = {
    "bytes": format_bytes,
    "db": format_db,
    "drop": format_drop,
    "png": _png,
    "jpeg": _jpeg,
}
