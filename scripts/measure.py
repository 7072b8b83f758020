"""Measure a bundled network's artifacts and write results/MODEL_x4.json, which the documents' tables show.

    python -m scripts.measure accuracy --data benchmarks
    python -m scripts.measure accuracy --model idsa_net --data benchmarks
    python -m scripts.measure latency          # on an otherwise idle machine

Each step exports what it needs into ``--work`` (made once, used again while the weights are the same), writes its own
section of the file and leaves the others. A section carries its command, date, machine, versions and the SHA-256 of
the weights it measured. Accuracy is written artifact by artifact: the same command goes on where it was cut, and two
processes may share the work by ``--target``.
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
from torch import nn

from apps.exporting import export_artifacts
from apps.profiling.host import profile_artifacts
from apps.progress import Progress, progress_bars
from apps.results import Timing, envelope, plain, write_json
from apps.scripting import run_script
from apps.weights import resolve_weights
from converters.artifact import Artifact, artifact_name, load_artifact
from edge_sr.checkpoints import bundled_checkpoint, load_checkpoint, sha256_file
from edge_sr.errors import ConfigError, ConversionError
from quantization.state import load_quantized
from scripts.accuracy_rows import Key, measure_rows, merged
from scripts.kept import kept_artifact

ROOT = Path(__file__).resolve().parent.parent

SCHEMES = ("fp32", "w8a8")
RUNNABLE = ("tflite", "executorch")
# Every row of the accuracy table; the last are the baseline: the same float weights quantized without training.
ROWS: tuple[Key, ...] = (
    *((target, scheme, False) for target in (*RUNNABLE, "coreml") for scheme in SCHEMES),
    *((target, "w8a8", True) for target in RUNNABLE),
)
ALL_SETS = ("Set5", "Set14", "BSD100", "Urban100")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: one bundled network, its artifacts at one tile."""

    model: str
    scale: int
    tile: tuple[int, int]
    work: Path

    def checkpoint(self, scheme: str) -> Path:
        """The bundled weights for a scheme: those trained for it, else the float ones."""
        return bundled_checkpoint(self.model, self.scale, scheme if scheme in SCHEMES else "fp32")

    def hashes(self) -> dict[str, str]:
        return {scheme: sha256_file(self.checkpoint(scheme)) for scheme in SCHEMES}

    def artifact(self, target: str, scheme: str, *, post_training: bool = False, socs: Sequence[str] = ()) -> Artifact:
        """The artifact of this subject, exported unless ``work`` holds it already, made from the same weights.

        Args:
            target, scheme: what to export.
            post_training: quantize the float weights here instead of taking those trained for int8.
            socs: as for :func:`apps.exporting.export_artifacts`.
        """
        checkpoint = self.checkpoint("fp32" if post_training else scheme)
        folder = self.work / "post_training" if post_training else self.work
        name = artifact_name(model=self.model, scale=self.scale, scheme=scheme, target=target, tile=self.tile)
        kept = kept_artifact(folder, name, weights_sha256=sha256_file(checkpoint))
        if kept is not None:
            return kept
        print(f"exporting {name}", file=sys.stderr, flush=True)
        (row,) = export_artifacts(
            model=self.model,
            scale=self.scale,
            schemes=(scheme,),
            targets=(target,),
            tile=self.tile,
            out_dir=folder,
            checkpoint=checkpoint,
            socs=socs,
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


# ----------------------------------------------------------------------------------------------------------- latency
def measure_latency(subject: Subject, *, threads: Sequence[int], rounds: int, runs: int, progress: Progress) -> Section:
    """Latency of float and int8 in turns, so that what else the machine does falls on both alike.

    One round times fp32, then w8a8, each in a process of its own. The ratio of a round is taken within it; the median
    over the rounds is what the documents quote.
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


# ---------------------------------------------------------------------------------------------------------- accuracy
def measure_accuracy(
    path: Path, subject: Subject, *, data: Path, set_names: Sequence[str], targets: Sequence[str], progress: Progress
) -> None:
    """Measure the rows of these targets that the file lacks, and write each at once.

    Rows of other weights, tiles or image sets are dropped first. ``commands`` are those that the rows come from.
    """

    names = ("sets", "bicubic", "float_whole", "artifacts", "commands")

    def kept() -> dict[str, Any]:
        content = read(path)
        section: dict[str, Any] = content.get("accuracy", {})
        same = (
            section.get("checkpoint_sha256") == subject.hashes()
            and content.get("tile") == list(subject.tile)
            and section.get("sets") == list(set_names)
        )
        return {name: section[name] for name in names if name in section} if same else {}

    def keep(found: dict[str, Any]) -> dict[str, Any]:
        before = kept()
        commands = [one for one in before.get("commands", []) if one != command()]
        content: dict[str, Any] = plain(merged(before, {**found, "commands": [*commands, command()]}, ROWS))
        write_section(path, subject, "accuracy", Section(content=content))
        return content

    measure_rows(
        kept(),
        keys=[row for row in ROWS if row[0] in targets],
        artifact=lambda row: subject.artifact(row[0], row[1], post_training=row[2]),
        data=data,
        set_names=set_names,
        keep=keep,
        progress=progress,
    )


# -------------------------------------------------------------------------------------------------------------- file
def read(path: Path) -> dict[str, Any]:
    """The result file, {} where there is none yet."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def write_section(path: Path, subject: Subject, name: str, section: Section) -> None:
    """Replace one section of the result file, atomically."""
    content = read(path)
    content |= {"model": subject.model, "scale": subject.scale, "tile": list(subject.tile)}
    content["weights"] = weights(subject)
    body = envelope(name, section, command=command())
    content[name] = {"checkpoint_sha256": subject.hashes(), **body}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def command() -> list[str]:
    """How this process was called."""
    return ["python", "-m", "scripts.measure", *relative(sys.argv[1:])]


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
    """The command as it would be typed from the project's root; of a folder elsewhere its name only, for it is one of
    this machine.
    """
    return [_without_machine(word) for word in words]


def _without_machine(word: str) -> str:
    path = Path(word)
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return path.name if path.is_absolute() or word.startswith("..") else word


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("accuracy", "latency"))
    parser.add_argument("--model", default="idsa_net_mobile")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--tile", type=int, default=128, help="height and width of the LR tile (default 128)")
    parser.add_argument("--data", type=Path, help="folder with Set5/HR, Set14/HR and so on")
    parser.add_argument("--set", dest="sets", action="append", help="image set; may be given again (default all four)")
    parser.add_argument(
        "--target",
        dest="targets",
        action="append",
        choices=(*RUNNABLE, "coreml"),
        help="accuracy only; may be given again (default all three)",
    )
    parser.add_argument("--threads", type=int, action="append", help="latency only; may be given again (default 1, 2)")
    parser.add_argument("--rounds", type=int, default=5, help="latency only: turns of float and int8 (default 5)")
    parser.add_argument("--runs", type=int, default=30, help="latency only: timed runs per turn (default 30)")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "measure", help="where artifacts are kept")
    parser.add_argument("--out", type=Path, help="default results/MODEL_xSCALE.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; returns the exit status."""
    options = _parse(arguments)
    subject = Subject(
        model=options.model, scale=options.scale, tile=(options.tile, options.tile), work=options.work.resolve()
    )
    path = options.out or ROOT / "results" / f"{subject.model}_x{subject.scale}.json"
    with progress_bars() as progress:
        if options.step == "latency":
            section = measure_latency(
                subject, threads=options.threads or (1, 2), rounds=options.rounds, runs=options.runs, progress=progress
            )
            write_section(path, subject, "latency", Section(content=plain(section.to_json())))
        else:
            if options.data is None:
                raise ConfigError(
                    "expected --data with the benchmark images, got none; name the folder that holds Set5"
                )
            measure_accuracy(
                path,
                subject,
                data=options.data,
                set_names=options.sets or list(ALL_SETS),
                targets=options.targets or [*RUNNABLE, "coreml"],
                progress=progress,
            )
    print(f"wrote section {options.step} of {path.name}")
    return 0


if __name__ == "__main__":
    run_script(main)
