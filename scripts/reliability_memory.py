"""How much memory an enlarged photo takes, in a process of its own, against what was forecast before its first tile."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from apps.progress import Progress
from apps.upscaling.batch import Forecast, resident_bytes, upscale_photos
from apps.upscaling.runners import UpscalerChoice
from converters.artifact import Artifact
from converters.isolation import run_in_child
from edge_sr.datasets import load_image_sets

# Megapixels of the photo (3:2), and the format of the result.
CASES = ((24.0, ".png"), (3.0, ".png"), (3.0, ".tif"), (3.0, ".jpg"), (3.0, ".webp"))
_SECONDS_BETWEEN_LOOKS = 0.01
_TIMEOUT_S = 3600.0


def measure_memory(artifact: Artifact, work: Path, *, progress: Progress) -> dict[str, Any]:
    """Upscale photos of each case and look at the memory of all processes a hundred times a second.

    Args:
        artifact: runs the tiles.
        work: gets photos and results.
        progress: called after each case.
    Returns:
        ``rows``: sizes, ``base_bytes`` (everything that is resident when the runtime is open and nothing is read yet),
        ``forecast_bytes`` (what ``upscale`` says), ``peak_bytes`` and ``seconds`` of each.
    """
    rows = []
    for done, (megapixels, suffix) in enumerate(CASES, start=1):
        photo = work / f"{megapixels:g}.jpg"
        _write_photo(photo, megapixels)
        arguments = {"photo": str(photo), "output": str(work / f"large{suffix}"), "artifact": str(artifact.path)}
        rows.append(run_in_child("scripts.reliability_memory:upscale_watched", arguments, timeout_s=_TIMEOUT_S))
        progress("memory", done, len(CASES), f"{megapixels:g} megapixels to {suffix}")
    return {"artifact": artifact.path.name, "rows": rows}


def upscale_watched(photo: str, output: str, artifact: str) -> dict[str, Any]:
    """One case, in this process; JSON-ready."""
    announced: list[tuple[Forecast, int]] = []
    watch = _Watch()

    def begin(forecast: Forecast) -> None:
        announced.append((forecast, resident_bytes()))
        watch.start()

    report = upscale_photos(
        [Path(photo)],
        Path(output),
        choice=UpscalerChoice(artifact=Path(artifact)),
        overwrite=True,
        announce=begin,
    )
    peak = watch.stop()
    ((forecast, base),), (result,) = announced, report.photos
    return {
        "lr_size": list(result.lr_size),
        "sr_size": list(result.sr_size),
        "format": Path(output).suffix[1:],
        "tiles": result.tiles,
        "base_bytes": base,
        "forecast_bytes": forecast.memory_bytes,
        "peak_bytes": peak,
        "seconds": result.seconds,
    }


class _Watch(threading.Thread):
    """Looks at the resident memory of this process and its children until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._end = threading.Event()
        self._peak = 0

    def run(self) -> None:
        while not self._end.wait(_SECONDS_BETWEEN_LOOKS):
            self._peak = max(self._peak, resident_bytes())

    def stop(self) -> int:
        """The largest that was seen, in bytes."""
        self._end.set()
        self.join()
        return self._peak


def _write_photo(path: Path, megapixels: float) -> None:
    """A sample photo enlarged to the size asked for: how much detail it has changes nothing here."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    pair = next(iter(load_image_sets(None, None, 4)[0]))
    PillowImage.fromarray(pair.hr).resize((height * 3 // 2, height), PillowImage.Resampling.BICUBIC).save(
        path, quality=95
    )
