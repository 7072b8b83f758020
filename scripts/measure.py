"""Measure the bundled network's artifacts and write results/mobile_x4.json, from which README's tables are made.

    python scripts/measure.py accuracy --data ../shared/data/benchmarks --set Set5 --set Set14
    python scripts/measure.py latency          # on an otherwise idle machine

Each step exports what it needs into ``--work`` (made once, used again while the weights are the same), replaces its own
section of the file and leaves the others. A section carries its command, date, machine, versions and the SHA-256 of
the weights it measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apps.exporting import export_artifacts
from apps.profiling.host import profile_artifacts
from apps.progress import Progress, progress_bars
from apps.results import Timing, envelope, plain, write_json
from apps.scripting import run_script
from apps.verification.accuracy import verify_artifacts
from apps.weights import resolve_weights
from converters.artifact import Artifact, artifact_name, load_artifact
from converters.runners import accuracy_runtimes
from edge_sr.checkpoints import bundled_checkpoint, load_checkpoint, sha256_file
from edge_sr.datasets import ImageSet, load_image_sets
from edge_sr.errors import ConfigError, ConversionError
from edge_sr.evaluation import SetScore, evaluate_set
from edge_sr.resize import bicubic_resize
from quantization.state import load_quantized

ROOT = Path(__file__).resolve().parent.parent
Image = NDArray[np.uint8]

SCHEMES = ("fp32", "w8a8")
RUNNABLE = ("tflite", "executorch")
# Sets with more images than this keep their means and worst image only: the file stays readable.
MOST_IMAGES_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: one bundled network, its artifacts at one tile."""

    model: str
    scale: int
    tile: tuple[int, int]
    work: Path

    def checkpoint(self, scheme: str) -> Path:
        return bundled_checkpoint(self.model, self.scale, scheme)

    def hashes(self) -> dict[str, str]:
        return {scheme: sha256_file(self.checkpoint(scheme)) for scheme in SCHEMES}

    def artifact(self, target: str, scheme: str, *, post_training: bool = False) -> Artifact:
        """The artifact of this subject, exported unless ``work`` holds it already, made from the same weights.

        Args:
            target, scheme: what to export.
            post_training: quantize the float weights here instead of taking those trained for int8.
        """
        checkpoint = self.checkpoint("fp32" if post_training else scheme)
        folder = self.work / "post_training" if post_training else self.work
        name = artifact_name(model=self.model, scale=self.scale, scheme=scheme, target=target, tile=self.tile)
        if (folder / name).is_dir():
            artifact = load_artifact(folder / name)
            if artifact.meta.checkpoint_sha256 == sha256_file(checkpoint):
                return artifact
        print(f"exporting {name}", file=sys.stderr, flush=True)
        (row,) = export_artifacts(
            model=self.model,
            scale=self.scale,
            schemes=(scheme,),
            targets=(target,),
            tile=self.tile,
            out_dir=folder,
            checkpoint=checkpoint,
            overwrite=True,
        ).rows
        if row.path is None:
            raise ConversionError(f"expected {name}, got none: {row.error}")
        return load_artifact(row.path)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One step's part of the result file."""

    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.content


# ---------------------------------------------------------------------------------------------------------- accuracy
def measure_accuracy(
    subject: Subject, *, data: Path, set_names: Sequence[str], targets: Sequence[str], progress: Progress
) -> Section:
    """PSNR-Y and SSIM of every artifact on whole image sets, beside bicubic and the float network on whole images."""
    artifacts = [subject.artifact(target, scheme) for target in targets for scheme in SCHEMES]
    # The baseline: the same float weights quantized without training.
    artifacts += [subject.artifact(target, "w8a8", post_training=True) for target in targets if target in RUNNABLE]
    sets = load_image_sets(data, set_names, subject.scale)
    report = verify_artifacts([artifact.path for artifact in artifacts], data=data, sets=set_names, progress=progress)
    float_whole = {row.set_name: _score(row.float_whole) for row in report.rows}
    rows = []
    for artifact in artifacts:
        # On macOS a Core ML package has rows of Core ML and of the evaluator: the first are the more telling.
        runtime = accuracy_runtimes(artifact.meta.target)[0]
        rows.append(
            {
                "target": artifact.meta.target,
                "runtime": runtime,
                "scheme": artifact.meta.scheme,
                "post_training": artifact.meta.calibration_sha256 is not None,
                "size_bytes": artifact.meta.size_bytes,
                "delegates": artifact.meta.delegation.delegates,
                "ops_outside": dict(artifact.meta.delegation.ops_outside),
                "overlap": artifact.meta.overlap,
                "sets": {
                    row.set_name: {
                        "artifact": None if row.artifact is None else _score(row.artifact),
                        "reason": row.reason,
                        "drop_db": row.drop_db,
                        "tiling_drop_db": row.tiling_drop_db,
                        "quantization_drop_db": row.quantization_drop_db,
                    }
                    for row in report.rows
                    if row.artifact_path == artifact.path and row.runtime == runtime
                },
            }
        )
    _add_drop_from_float_artifact(rows)
    bicubic = {image_set.name: _score(_bicubic(image_set)) for image_set in sets}
    return Section(content={"sets": list(bicubic), "bicubic": bicubic, "float_whole": float_whole, "artifacts": rows})


def _add_drop_from_float_artifact(rows: Sequence[dict[str, Any]]) -> None:
    """What int8 costs on one target: its float artifact's PSNR less its int8 artifact's, in the same tiles."""
    for row in rows:
        twin = next(other for other in rows if other["target"] == row["target"] and other["scheme"] == "fp32")
        for name, entry in row["sets"].items():
            before, after = twin["sets"][name]["artifact"], entry["artifact"]
            known = before is not None and after is not None
            entry["drop_from_float_artifact_db"] = before["psnr_y_db"] - after["psnr_y_db"] if known else None


def _bicubic(image_set: ImageSet) -> SetScore:
    def upscale(lr: Image) -> Image:
        return bicubic_resize(lr, lr.shape[0] * image_set.scale, lr.shape[1] * image_set.scale)

    return evaluate_set(upscale, image_set)


def _score(score: SetScore) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": len(score.images),
        "psnr_y_db": score.psnr_y_db,
        "ssim": score.ssim,
        "worst": {"name": score.worst.name, "psnr_y_db": score.worst.psnr_y_db},
    }
    if len(score.images) <= MOST_IMAGES_LISTED:
        content["psnr_y_db_by_image"] = {image.name: image.psnr_y_db for image in score.images}
    return content


# ----------------------------------------------------------------------------------------------------------- latency
def measure_latency(subject: Subject, *, threads: Sequence[int], rounds: int, runs: int, progress: Progress) -> Section:
    """Latency of float and int8 in turns, so that what else the machine does falls on both alike.

    One round times fp32, then w8a8, each in a process of its own. The ratio of a round is taken within it; the median
    over the rounds is what README quotes.
    """
    rows: list[dict[str, Any]] = []
    total = len(RUNNABLE) * len(threads) * rounds
    for target in RUNNABLE:
        artifacts = {scheme: subject.artifact(target, scheme) for scheme in SCHEMES}
        for count in threads:
            taken: dict[str, list[Timing]] = {scheme: [] for scheme in SCHEMES}
            for _ in range(rounds):
                progress("latency", sum(row["rounds"] for row in rows) + len(taken["fp32"]), total)
                for scheme in SCHEMES:
                    taken[scheme].append(_time(artifacts[scheme], threads=count, runs=runs))
            rows.append({"target": target, "threads": count, "rounds": rounds, **_latency_row(taken)})
    progress("latency", total, total)
    return Section(content={"device": "host", "rounds": rounds, "runs_per_round": runs, "artifacts": rows})


def _time(artifact: Artifact, *, threads: int, runs: int) -> Timing:
    (row,) = profile_artifacts([artifact.path], threads=(threads,), runs=runs, until_settled=False).rows
    if row.timing is None:
        raise ConfigError(f"expected a latency of {artifact.path.name}, got none: {row.reason}")
    return row.timing


def _latency_row(taken: dict[str, list[Timing]]) -> dict[str, Any]:
    ratios = [slow.median_ms / fast.median_ms for slow, fast in zip(taken["fp32"], taken["w8a8"], strict=True)]
    content: dict[str, Any] = {"ratio": statistics.median(ratios), "ratios": ratios}
    for scheme, timings in taken.items():
        samples = np.array([sample for timing in timings for sample in timing.samples_ms])
        low, median, high = np.quantile(samples, (0.25, 0.5, 0.75))
        content[scheme] = {
            "median_ms": float(median),
            "iqr_ms": float(high - low),
            "iqr_percent": float(100.0 * (high - low) / median),
            "samples": len(samples),
            "round_medians_ms": [timing.median_ms for timing in timings],
            "peak_rss_bytes": max(timing.peak_rss_bytes for timing in timings),
        }
    return content


# -------------------------------------------------------------------------------------------------------------- file
def write_section(path: Path, subject: Subject, name: str, section: Section) -> None:
    """Replace one section of the result file, atomically."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content |= {"model": subject.model, "scale": subject.scale, "tile": list(subject.tile)}
    content["weights"] = weights(subject)
    body = envelope(name, section, command=["python", *relative(sys.argv)])
    content[name] = {"checkpoint_sha256": subject.hashes(), **body}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    print(f"wrote section {name} of {path}")


def weights(subject: Subject) -> dict[str, Any]:
    """What the bundled checkpoints say of themselves: data, steps, seeds; and the number of parameters."""
    float_one = load_checkpoint(subject.checkpoint("fp32"), expect_model=subject.model)
    quantized = load_quantized(subject.checkpoint("w8a8"))
    return {
        "training_parameters": parameters(float_one.network),
        "deployed_parameters": parameters(resolve_weights(subject.model, subject.scale, "fp32").network),
        "fp32": {"sha256": float_one.sha256, "metadata": dict(float_one.metadata)},
        "w8a8": {"sha256": quantized.sha256, "metadata": dict(quantized.metadata)},
    }


def parameters(network: nn.Module) -> int:
    """How many numbers a network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def relative(words: Sequence[str]) -> list[str]:
    """The command as typed from the project's root, so that no folder of one machine is written down."""
    return [str(Path(word).relative_to(ROOT)) if word.startswith(f"{ROOT}/") else word for word in words]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("accuracy", "latency"))
    parser.add_argument("--model", default="idsa_net_mobile")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--tile", type=int, default=128, help="height and width of the LR tile (default 128)")
    parser.add_argument("--data", type=Path, help="folder with Set5/HR, Set14/HR and so on")
    parser.add_argument(
        "--set", dest="sets", action="append", help="image set; may be given again (default Set5, Set14)"
    )
    parser.add_argument("--target", dest="targets", action="append", help="accuracy only (default: all three)")
    parser.add_argument("--threads", type=int, action="append", help="latency only; may be given again (default 1, 2)")
    parser.add_argument("--rounds", type=int, default=5, help="latency only: turns of float and int8 (default 5)")
    parser.add_argument("--runs", type=int, default=30, help="latency only: timed runs per turn (default 30)")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "measure", help="where artifacts are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mobile_x4.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; returns the exit status."""
    options = _parse(arguments)
    subject = Subject(
        model=options.model, scale=options.scale, tile=(options.tile, options.tile), work=options.work.resolve()
    )
    with progress_bars() as progress:
        if options.step == "latency":
            section = measure_latency(
                subject, threads=options.threads or (1, 2), rounds=options.rounds, runs=options.runs, progress=progress
            )
        else:
            if options.data is None:
                raise ConfigError(
                    "expected --data with the benchmark images, got none; name the folder that holds Set5"
                )
            sets = options.sets or ["Set5", "Set14"]
            targets = options.targets or ["tflite", "executorch", "coreml"]
            section = measure_accuracy(subject, data=options.data, set_names=sets, targets=targets, progress=progress)
    write_section(options.out, subject, options.step, Section(content=plain(section.to_json())))
    return 0


if __name__ == "__main__":
    run_script(main)
