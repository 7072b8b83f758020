"""Artifacts and histories with flipped bits: refused, read as they were, or read as something else without a word."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.history.measurement import ACCURACY, Measurement
from apps.history.store import append, read
from apps.progress import Progress
from converters.artifact import Artifact, fingerprint, load_artifact, write_artifact
from converters.isolation import Child
from converters.self_test import check_self_test
from edge_sr.datasets import load_image_sets
from edge_sr.errors import EdgeSRError, RunnerError
from scripts.reliability_workers import EXAMPLE

Image = NDArray[np.uint8]
_FLIPS = (1, 1, 1, 8, 64)
_ROWS = 16
_TIMEOUT_S = 120.0


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit flipped in three of five cases, else 8 or 64 of them."""
    damaged = np.frombuffer(content, np.uint8).copy()
    for place in rng.integers(8 * len(damaged), size=int(rng.choice(_FLIPS))):
        damaged[place // 8] ^= 1 << (place % 8)
    return damaged.tobytes()


class Bench:
    """Runs artifacts in a child process, which is started anew where a damaged file ends it."""

    def __init__(self) -> None:
        self.scale, self.tile, self.name = 4, None, "tflite"
        self._child: Child | None = None
        self._shape: list[int] = []

    def open(self, artifact: Artifact) -> None:
        """Open an artifact in place of the last one; raises EdgeSRError where its runtime refuses it."""
        if self._child is None or not self._child.alive:
            self._child = Child(what="a damaged artifact")
        request = {"do": "open", "artifact": str(artifact.path), "threads": 1, "runtime": None}
        self.name = self._child.ask(request, timeout_s=_TIMEOUT_S)[0]["name"]

    def run(self, lr: Image) -> Image:
        assert self._child is not None
        answer, data = self._child.ask({"do": "run", "shape": list(lr.shape)}, lr.tobytes(), timeout_s=_TIMEOUT_S)
        return np.frombuffer(data, np.uint8).reshape(answer["shape"])

    def close(self) -> None:
        if self._child is not None:
            self._child.close()


def damage_artifacts(artifact: Artifact, work: Path, *, count: int, seed: int, progress: Progress) -> dict[str, Any]:
    """What becomes of copies with flipped bits in the model file and hashes made anew, with and without a digest."""
    lr = _photo_tile(artifact.meta.tile)
    bench = Bench()
    try:
        bench.open(artifact)
        truth = bench.run(lr).astype(np.int16)
        sound = artifact.main_path.read_bytes()
        rows: dict[str, Counter[str]] = {"digest": Counter(), "no_digest": Counter()}
        worst = dict.fromkeys(rows, 0)
        for number in range(count):
            progress("damage artifacts", number, count)
            damaged = flipped(sound, np.random.default_rng((seed, number)))
            for name, outcomes in rows.items():
                off = _levels_off(artifact, damaged, work, bench, lr, truth, digest=name == "digest")
                outcomes["refused" if off is None else "same" if off == 0 else "different"] += 1
                worst[name] = max(worst[name], off or 0)
    finally:
        bench.close()
    return {
        "artifact": artifact.meta.name,
        "checkpoint_sha256": artifact.meta.checkpoint_sha256,
        "damaged": count,
        "rows": {name: {**dict(outcomes), "worst_levels": worst[name]} for name, outcomes in rows.items()},
    }


def damage_histories(work: Path, *, count: int, seed: int, progress: Progress) -> dict[str, Any]:
    """What is read of copies of one history with flipped bits."""
    sound = work / "sound.sqlite3"
    append([_row(number) for number in range(_ROWS)], sound)
    expected, content = read(sound), sound.read_bytes()
    outcomes: Counter[str] = Counter()
    for number in range(count):
        progress("damage histories", number, count)
        path = work / f"{number}.sqlite3"
        path.write_bytes(flipped(content, np.random.default_rng((seed, number))))
        try:
            outcomes["same" if read(path) == expected else "different"] += 1
        except EdgeSRError:
            outcomes["refused"] += 1
        except Exception as error:  # noqa: BLE001  (that there is none is what is measured)
            outcomes["traceback"] += 1
            print(f"{number}: {type(error).__name__}: {error}")
    return {"damaged": count, "measurements": _ROWS, "size_bytes": len(content), "rows": {"history": dict(outcomes)}}


def _row(number: int) -> Measurement:
    created = f"2026-01-{number + 1:02}T12:00:00+00:00"
    if number % 2:
        return replace(EXAMPLE, created=created, load_ms=float(number))
    return replace(
        EXAMPLE,
        kind=ACCURACY,
        created=created,
        samples_ms=(),
        set_name="Set5",
        psnr_y_db=30.0 + number,
        ssim=0.9,
        images=5,
    )


def _levels_off(
    artifact: Artifact, damaged: bytes, work: Path, bench: Bench, lr: Image, truth: NDArray[np.int16], *, digest: bool
) -> int | None:
    """The largest difference of a photo's tile from the true one; None where something refused the artifact."""
    source, path = work / "source", work / "damaged"
    for folder in (source, path):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifact.path, source)
    (source / artifact.meta.main_file).write_bytes(damaged)
    meta = replace(
        artifact.meta,
        files=fingerprint(source, artifact.meta.files),
        canonical_sha256=artifact.meta.canonical_sha256 if digest else None,
    )
    try:
        write_artifact(path, meta=meta, source=source)
        loaded = load_artifact(path)
        bench.open(loaded)
        check_self_test(bench, loaded)
        return int(np.abs(bench.run(lr).astype(np.int16) - truth).max())
    except (EdgeSRError, RunnerError):
        return None


def _photo_tile(tile: tuple[int, int]) -> Image:
    """The middle of a sample photo."""
    (samples,) = load_image_sets(None, None, 2)
    lr = next(image.lr for image in samples if min(image.lr.shape[:2]) >= max(tile))
    top, left = ((side - want) // 2 for side, want in zip(lr.shape[:2], tile, strict=True))
    return np.ascontiguousarray(lr[top : top + tile[0], left : left + tile[1]])
