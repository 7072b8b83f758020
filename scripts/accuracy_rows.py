"""The accuracy section that scripts/measure.py writes: one row per artifact, kept as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.progress import Progress
from apps.verification.accuracy import verify_artifacts
from apps.verification.references import References
from converters.artifact import Artifact
from converters.runners import accuracy_runtimes
from edge_sr.evaluation import SetScore, score_bicubic
from edge_sr.scorable import load_scorable_sets

Image = NDArray[np.uint8]
# (target, scheme, quantized after training instead of by it)
Key = tuple[str, str, bool]

# Sets with more images than this keep their means and worst image only: the file stays readable.
MOST_IMAGES_LISTED = 20


def measure_rows(
    before: dict[str, Any],
    *,
    keys: Sequence[Key],
    artifact: Callable[[Key], Artifact],
    data: Path,
    set_names: Sequence[str],
    keep: Callable[[dict[str, Any]], dict[str, Any]],
    progress: Progress,
) -> None:
    """PSNR-Y and SSIM of every artifact on whole image sets, beside bicubic and the float network on whole images.

    Args:
        before: the section so far, {} to begin; its rows are not measured again.
        keys: which rows are wanted.
        artifact: exports one, or finds it.
        data, set_names: the image sets; all of one scale.
        keep: writes what is new, and returns the section with what other processes may have added meanwhile.
    Raises:
        ArtifactError, CheckpointError, ConversionError, DataError: an artifact or a set is not usable.
    """
    references = References((), progress=progress)
    for key in keys:
        if key in {_key(row) for row in before.get("artifacts", [])}:
            continue
        made = artifact(key)
        report = verify_artifacts([made.path], data=data, sets=set_names, references=references, progress=progress)
        if "bicubic" not in before:
            sets = load_scorable_sets(data, set_names, made.meta.scale)
            before = keep(
                {
                    "sets": list(set_names),
                    "bicubic": {one.name: score_entry(score_bicubic(one)) for one in sets},
                    "float_whole": {found.set_name: score_entry(found.float_whole) for found in report.rows},
                    "artifacts": [],
                }
            )
        # On macOS a Core ML package has rows of Core ML and of the evaluator: the first are the more telling.
        runtime = accuracy_runtimes(made.meta)[0]
        row = {
            "target": made.meta.target,
            "runtime": runtime,
            "scheme": made.meta.scheme,
            "post_training": made.meta.calibration_sha256 is not None,
            "size_bytes": made.meta.size_bytes,
            "delegates": made.meta.delegation.delegates,
            "ops_outside": dict(made.meta.delegation.ops_outside),
            "overlap": made.meta.overlap,
            "sets": {
                found.set_name: {
                    "artifact": None if found.artifact is None else score_entry(found.artifact),
                    "reason": found.reason,
                    "drop_db": found.drop_db,
                    "tiling_drop_db": found.tiling_drop_db,
                    "quantization_drop_db": found.quantization_drop_db,
                }
                for found in report.rows
                if found.runtime == runtime
            },
        }
        before = keep({"artifacts": [row]})


def merged(before: dict[str, Any], found: dict[str, Any], order: Sequence[Key]) -> dict[str, Any]:
    """The section with what was found: other facts replaced, rows added in the given order.

    Args:
        before, found: sections; a row of ``found`` takes the place of its like in ``before``.
        order: all rows there can be.
    """
    rows = {_key(row): row for row in (*before.get("artifacts", []), *found.get("artifacts", []))}
    ordered = [rows[key] for key in order if key in rows]
    add_drop_from_float_artifact(ordered)
    return {**before, **found, "artifacts": ordered}


def add_drop_from_float_artifact(rows: Sequence[dict[str, Any]]) -> None:
    """What int8 costs on one target: its float artifact's PSNR less its int8 artifact's, in the same tiles.

    None where one of the two could not be run, or the float artifact is not measured yet.
    """
    floats = {row["target"]: row["sets"] for row in rows if row["scheme"] == "fp32"}
    for row in rows:
        for name, entry in row["sets"].items():
            before = floats.get(row["target"], {}).get(name, {}).get("artifact")
            after = entry["artifact"]
            known = before is not None and after is not None
            entry["drop_from_float_artifact_db"] = before["psnr_y_db"] - after["psnr_y_db"] if known else None


def score_entry(score: SetScore) -> dict[str, Any]:
    """A set's means, its worst image and, for a small set, every image's PSNR-Y."""
    content: dict[str, Any] = {
        "images": len(score.images),
        "psnr_y_db": score.psnr_y_db,
        "ssim": score.ssim,
        "worst": {"name": score.worst.name, "psnr_y_db": score.worst.psnr_y_db},
    }
    if len(score.images) <= MOST_IMAGES_LISTED:
        content["psnr_y_db_by_image"] = {image.name: image.psnr_y_db for image in score.images}
    return content


def _key(row: dict[str, Any]) -> Key:
    return row["target"], row["scheme"], row["post_training"]
