"""Measure which parts of both networks pay for int8 and write results/sensitivity_x4.json and its chart.

    python -m scripts.measure_sensitivity parts --train-data photos
    python -m scripts.measure_sensitivity latency      # on an otherwise idle machine

``parts`` measures on held-out training photos, never on the benchmark sets: decisions are made on them. Each step
replaces its own part of the file, network by network, and keeps the rest. ``--checkpoint`` names float weights of
``idsa_net`` in place of the bundled ones. ``--quick`` shows that all of it works, on a few crops and runs, and wants an
``--out`` of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.progress import Progress, progress_bars
from apps.results import envelope, write_json
from apps.scripting import run_script
from apps.sensitivity import SensitivityReport, analyse_sensitivity, measure_part_latency
from apps.sensitivity_view import print_sensitivity, sensitivity_chart
from apps.training import DEFAULT_CACHE
from edge_sr.atomic import atomic_path
from edge_sr.checkpoints import bundled_checkpoint, sha256_file
from edge_sr.errors import ConfigError
from edge_sr.training import HeldOut
from quantization.sensitivity import Effect, PartSensitivity, Sensitivity
from scripts.measure import ROOT, Section, relative
from scripts.measure_verification import trained
from scripts.quantization_methods import packed_photos

Image = NDArray[np.uint8]

RESULT = ROOT / "results" / "sensitivity_x4.json"
CHART = ROOT / "docs" / "images" / "sensitivity.png"
SCALE = 4
_QUICK_CROPS, _QUICK_RUNS = 2, 3


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network.

    Attributes:
        search: whether its ranges are searched, which takes a quarter of an hour of a core for ``idsa_net``.
        tile: (height, width) for the timing.
    """

    model: str
    checkpoint: Path
    bundled: bool
    search: bool
    tile: tuple[int, int]

    def facts(self) -> dict[str, Any]:
        """What the weights are, so that no short run passes for a trained network."""
        return {"bundled": self.bundled, "trained": trained(self.checkpoint)}


def subjects(checkpoint: Path | None, *, quick: bool) -> list[Subject]:
    """Both networks; ``idsa_net`` with these weights instead of the bundled ones."""
    side = 32 if quick else 128
    mobile = Subject(
        model="idsa_net_mobile",
        checkpoint=bundled_checkpoint("idsa_net_mobile", SCALE),
        bundled=True,
        search=not quick,
        tile=(side, side),
    )
    side = min(side, 64)
    paper = Subject(
        model="idsa_net",
        checkpoint=checkpoint or bundled_checkpoint("idsa_net", SCALE),
        bundled=checkpoint is None,
        search=False,
        tile=(side, side),
    )
    return [mobile, paper]


def measure_parts(subject: Subject, crops: Sequence[tuple[Image, Image]], *, progress: Progress) -> SensitivityReport:
    """Sensitivity and variants of one network on crops of held-out photos."""
    return analyse_sensitivity(
        crops,
        data="held-out training photos",
        model=subject.model,
        scale=SCALE,
        checkpoint=subject.checkpoint,
        search=subject.search,
        variants=True,
        progress=_named(progress, subject.model),
    )


def held_out_crops(
    train_data: Path | None, cache: Path, most: int | None, progress: Progress
) -> list[tuple[Image, Image]]:
    """The middle of the held-out training photos, 64x64 LR pixels."""
    if train_data is None:
        raise ConfigError("expected --train-data with training photos, got none; some are held out to measure on")
    if most is not None and most < 1:
        raise ConfigError(f"expected --crops of 1 or more, got {most}")
    pool = packed_photos(train_data, SCALE, cache, progress)
    crops = list(HeldOut(pool).crops)
    return crops if most is None else crops[:: max(len(crops) // most, 1)][:most]


def _named(progress: Progress, model: str) -> Progress:
    def report(what: str, done: float, total: int, detail: str = "") -> None:
        progress(f"{model}: {what}", done, total, detail)

    return report


def write(path: Path, step: str, subject: Subject, found: dict[str, Any]) -> None:
    """Put one step's findings of one network into the file; other networks and the other step stay.

    A network whose weights changed since loses what was measured of the old ones.
    """
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    networks = {entry["model"]: entry for entry in before.get("networks", [])}
    digest = sha256_file(subject.checkpoint)
    entry = networks.get(subject.model, {})
    if entry.get("checkpoint_sha256") != digest:
        entry = {}
    command = ["python", "-m", "scripts.measure_sensitivity", *relative(sys.argv[1:])]
    section = envelope(f"sensitivity-{step}", Section(content=found), command=command)
    entry |= {"model": subject.model, "scale": SCALE, "checkpoint_sha256": digest, **subject.facts(), step: section}
    networks[subject.model] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"kind": "edge-sr/sensitivity", "networks": [networks[name] for name in sorted(networks)]})
    print(f"wrote {step} of {subject.model} to {path.name}", flush=True)


def read_sensitivity(content: dict[str, Any]) -> Sensitivity:
    """The dataclass back from its JSON, for the chart."""
    parts = tuple(
        PartSensitivity(
            **{name: part[name] for name in ("view", "name", "weights", "values")},
            alone=Effect(**part["alone"]),
            others=Effect(**part["others"]),
        )
        for part in content["parts"]
    )
    return Sensitivity(**{**content, "whole": Effect(**content["whole"]), "parts": parts})


def draw(path: Path, chart: Path) -> None:
    """Draw the chart of every network in the file."""
    networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
    results = [read_sensitivity(entry["parts"]["sensitivity"]) for entry in networks if "parts" in entry]
    if results:
        with atomic_path(chart) as temporary:
            temporary.write_bytes(sensitivity_chart(results))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("parts", "latency"))
    parser.add_argument("--checkpoint", type=Path, help="float weights of idsa_net at x4 (default: the bundled ones)")
    parser.add_argument("--model", choices=("idsa_net_mobile", "idsa_net"), help="only this one (default: all)")
    parser.add_argument("--train-data", type=Path, help="parts: folder of training photos; some are held out")
    parser.add_argument("--cache", type=Path, default=ROOT / DEFAULT_CACHE, help="parts: folder for packed photos")
    parser.add_argument("--crops", type=int, help="parts: of so many held-out photos, evenly chosen (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="latency: CPU threads (default 1)")
    parser.add_argument("--runs", type=int, default=100, help="latency: timed runs (default 100)")
    parser.add_argument("--quick", action="store_true", help="a few crops and runs, to see that it works")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--chart", type=Path, help=f"default {CHART.relative_to(ROOT)}; with --quick beside --out")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one step of each network and write it at once; returns the exit status."""
    options = _parse(arguments)
    if options.quick and options.out == RESULT:
        raise ConfigError("expected --out beside --quick, got none: a quick trial must not replace the result")
    with progress_bars() as progress:
        most = _QUICK_CROPS if options.quick else options.crops
        crops = held_out_crops(options.train_data, options.cache, most, progress) if options.step == "parts" else []
        for subject in subjects(options.checkpoint, quick=options.quick):
            if options.model is not None and subject.model != options.model:
                continue
            if options.step == "latency":
                found = measure_part_latency(
                    subject.checkpoint,
                    tile=subject.tile,
                    threads=options.threads,
                    runs=_QUICK_RUNS if options.quick else options.runs,
                    progress=_named(progress, subject.model),
                ).to_json()
            else:
                report = measure_parts(subject, crops, progress=progress)
                print_sensitivity(report)
                found = report.to_json()
            write(options.out, options.step, subject, found)
    draw(options.out, options.chart or (options.out.with_suffix(".png") if options.quick else CHART))
    return 0


if __name__ == "__main__":
    run_script(main)
