"""Choose tile and overlap for a picture of a given size and a limit of memory, from measurements.

Nothing here is modelled but sums: the time of one tile and the memory that a model adds to a process are measured
(:mod:`apps.profiling.host`), the number of tiles is counted by the function that cuts them
(:func:`edge_sr.tiling.plan_tiles`), and what pictures take is arithmetic (:mod:`apps.upscaling.memory`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apps.results import ProfileReport, plain
from apps.upscaling.memory import picture_bytes
from edge_sr.errors import ConfigError
from edge_sr.foreign_text import visible
from edge_sr.photos.reading import PhotoHeader
from edge_sr.tiling import plan_tiles

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_AMOUNT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([KMG]?i?B)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TileCost:
    """One artifact at one number of threads, as it was measured.

    Attributes:
        name: the artifact's.
        scale, tile, overlap: of the artifact; tile as (height, width) in LR pixels.
        threads, device: where it was measured.
        tile_ms, tile_ms_quartiles: time of one tile, picture in and picture out: median, and first and third quartile.
        model_bytes: memory that runtime, model and one tile add to the process.
    """

    name: str
    scale: int
    tile: tuple[int, int]
    overlap: int
    threads: int
    device: str
    tile_ms: float
    tile_ms_quartiles: tuple[float, float]
    model_bytes: int


@dataclass(frozen=True, kw_only=True)
class Option:
    """What one artifact would need for the whole picture.

    Attributes:
        cost: the measured tile.
        tiles: how many tiles cover the picture.
        computed_share: pixels computed per pixel of the picture; what overlap and last tiles cost (1.0 is nothing).
        seconds: predicted time, and ``seconds_quartiles`` the same from the tile's quartiles.
        pictures_bytes: what reading, tiling and writing a PNG file take (:mod:`apps.upscaling.memory`).
        memory_bytes: those and the model.
        fits: whether that is within the limit.
    """

    cost: TileCost
    tiles: int
    computed_share: float
    seconds: float
    seconds_quartiles: tuple[float, float]
    pictures_bytes: int
    memory_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """All options, the fastest that fits first; ``best`` is the first.

    Attributes:
        height, width: the LR picture.
        ram_bytes: the limit, or None for none.
    """

    height: int
    width: int
    ram_bytes: int | None
    options: tuple[Option, ...]

    @property
    def best(self) -> Option:
        return self.options[0]

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def plan_picture(
    height: int, width: int, costs: Sequence[TileCost], *, ram_bytes: int | None = None, overlap: int | None = None
) -> TilePlan:
    """Predict time and memory of upscaling a picture with each artifact.

    Args:
        height, width: of the LR picture, in pixels.
        costs: measured artifacts of one scale.
        ram_bytes: memory that model and pictures may take together; None for no limit.
        overlap: LR pixels shared by neighbouring tiles; None takes each artifact's own.
    Returns:
        the plan; options that do not fit come last, so that a reader sees what they would take.
    Raises:
        ConfigError: nothing measured, several scales, or nothing fits; the message names the least that would do.
    """
    if not costs:
        raise ConfigError("expected at least one measured artifact, got none; name a tflite or executorch artifact")
    scales = sorted({cost.scale for cost in costs})
    if len(scales) > 1:
        raise ConfigError(f"expected artifacts of one scale, got x{', x'.join(map(str, scales))}; plan them one by one")
    options = []
    for cost in costs:
        used = cost.overlap if overlap is None else overlap
        tiles = len(plan_tiles(height, width, cost.tile, used))
        pictures = picture_bytes(PhotoHeader(height=height, width=width), scale=cost.scale, tile_height=cost.tile[0])
        memory = cost.model_bytes + pictures
        low, high = cost.tile_ms_quartiles
        options.append(
            Option(
                cost=cost,
                tiles=tiles,
                computed_share=tiles * cost.tile[0] * cost.tile[1] / (height * width),
                seconds=tiles * cost.tile_ms / 1000,
                seconds_quartiles=(tiles * low / 1000, tiles * high / 1000),
                pictures_bytes=pictures,
                memory_bytes=memory,
                fits=ram_bytes is None or memory <= ram_bytes,
            )
        )
    if ram_bytes is not None and not any(option.fits for option in options):
        least = min(options, key=lambda option: option.memory_bytes)
        raise ConfigError(
            f"expected a picture that fits into {ram_bytes / 1e6:.0f} MB, got {width}x{height}, which takes at least "
            f"{least.memory_bytes / 1e6:.0f} MB ({least.pictures_bytes / 1e6:.0f} MB of it pixels); "
            "allow more memory, export a smaller tile, or cut the picture into parts"
        )
    ordered = sorted(options, key=lambda option: (not option.fits, option.seconds))
    return TilePlan(
        height=height,
        width=width,
        ram_bytes=ram_bytes,
        options=tuple(ordered),
    )


def costs_of(report: ProfileReport) -> tuple[TileCost, ...]:
    """The measured rows of a profile; those without a timing are left out."""
    return tuple(
        TileCost(
            name=row.label,
            scale=row.scale,
            tile=row.tile,
            overlap=row.overlap,
            threads=row.threads,
            device=row.device,
            tile_ms=row.timing.median_ms,
            tile_ms_quartiles=row.timing.quartiles_ms,
            model_bytes=max(row.timing.peak_rss_bytes - row.timing.base_rss_bytes, 0),
        )
        for row in report.rows
        if row.timing is not None
    )


def parse_memory(text: str) -> int:
    """Read ``512MB`` (10^6) or ``512MiB`` (2^20) and the like; returns bytes."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"expected an amount of memory, got {visible(text, limit=60)!r}, write 512MB, say")
    return int(float(match[1]) * _UNITS[match[2].upper()])
