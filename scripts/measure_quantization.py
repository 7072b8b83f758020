"""Measure what each way of quantizing costs and write results/quantization_x4.json, the source of the table of drops.

    python -m scripts.measure_quantization --train-data photos --data benchmarks
    python -m scripts.measure_quantization --model idsa_net --checkpoint NETWORK --train-data PHOTOS --data DATA

Each method makes a w8a8 network from the float weights with crops of training photos, exports it for TFLite and scores
that artifact on the image sets beside the float TFLite artifact of the same weights, in the same tiles. The method that
does best on held-out photos, never on the sets, is also exported for ExecuTorch. Every finished method is written at
once; the same command goes on, and measures again only what other weights, photos or settings made. ``--quick`` shows
that all of it works, with a few crops and steps, and writes into ``--work``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apps.progress import Progress, progress_bars
from apps.results import envelope, plain, write_json
from apps.scripting import run_script
from apps.training import DEFAULT_CACHE
from apps.verification.scoring import closing_runner
from converters.artifact import Artifact, artifact_name
from converters.export import export_artifact
from converters.self_test import open_checked_runner
from edge_sr.checkpoints import bundled_checkpoint, sha256_file
from edge_sr.datasets import ImageSet
from edge_sr.evaluation import SetScore, evaluate_set
from edge_sr.scorable import load_scorable_sets
from edge_sr.tiling import upscale_image
from scripts.kept import kept_artifact
from scripts.measure import ROOT, Section, parameters, relative
from scripts.measure_verification import trained
from scripts.quantization_methods import METHODS, RECIPES, SCHEME, Made, Workshop, packed_photos

SCALE = 4
RESULT = ROOT / "results" / f"quantization_x{SCALE}.json"
ALL_SETS = ("Set5", "Set14", "BSD100", "Urban100")
DECIDED_BY, FINAL_TARGET = "tflite", "executorch"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Exports networks and scores their artifacts on the image sets.

    Attributes:
        tile: (height, width) in LR pixels; ``overlap`` the same for all, so that only the arithmetic differs.
        threads: CPU threads of the runtimes.
    """

    tile: tuple[int, int]
    overlap: int
    sets: tuple[ImageSet, ...]
    threads: int
    folder: Path
    progress: Progress

    def score(self, network: nn.Module, weights: Path, scheme: str, target: str) -> dict[str, Any]:
        """Size and PSNR-Y by set of a network's artifact, exported unless the folder holds it already.

        Args:
            network: deployed float network or quantized network, as ``scheme`` wants.
            weights: the file it came from; its hash tells whether a kept artifact is of the same weights.
        """
        artifact = self._artifact(network, weights, scheme, target)
        runner = open_checked_runner(artifact, threads=self.threads, isolated=True)
        with closing_runner(runner):
            what = f"{artifact.path.parent.name} {target}"
            scores = [self._score_set(runner, image_set, what) for image_set in self.sets]
        by_set = {score.set_name: {"images": len(score.images), "psnr_y_db": score.psnr_y_db} for score in scores}
        return {"size_bytes": artifact.meta.size_bytes, "sets": by_set}

    def _artifact(self, network: nn.Module, weights: Path, scheme: str, target: str) -> Artifact:
        folder = self.folder / ("float" if scheme == "fp32" else weights.stem)
        name = artifact_name(model=str(network.model_name), scale=SCALE, scheme=scheme, target=target, tile=self.tile)
        digest = sha256_file(weights)
        kept = kept_artifact(folder, name, weights_sha256=digest)
        if kept is not None:
            return kept
        self.progress(f"export {folder.name} {target}", 0, 1)
        artifact = export_artifact(
            network=network,
            scheme=scheme,
            target=target,
            tile=self.tile,
            out_dir=folder,
            overlap=self.overlap,
            checkpoint_sha256=digest,
            overwrite=True,
        )
        self.progress(f"export {folder.name} {target}", 1, 1)
        return artifact

    def _score_set(self, runner: Any, image_set: ImageSet, what: str) -> SetScore:
        return evaluate_set(
            lambda lr: upscale_image(runner, lr, overlap=self.overlap),
            image_set,
            with_ssim=False,
            progress=lambda done, total: self.progress(f"{what} on {image_set.name}", done, total),
        )


class Table:
    """One network's part of the result file, written whenever something is finished."""

    def __init__(self, path: Path, model: str, facts: dict[str, Any]) -> None:
        self._path, self._model, self._facts = path, model, facts
        before = self._read()["networks"].get(model, {})
        same = all(before.get(name) == value for name, value in plain(facts).items())
        self.parts: dict[str, Any] = before.get("parts", {}) if same else {}

    def has(self, name: str) -> bool:
        """Whether this was measured already."""
        return name in self.parts

    def keep(self, name: str, content: dict[str, Any]) -> None:
        """Adds a part and writes the file."""
        self.parts[name] = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **content}
        command = ["python", "-m", "scripts.measure_quantization", *relative(sys.argv[1:])]
        whole = self._read()
        section = Section(content=plain({**self._facts, "parts": self.parts}))
        whole["networks"][self._model] = envelope("quantization", section, command=command)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, whole)

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {"scale": SCALE, "networks": {}}
        content: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        return content


def measure_methods(
    workshop: Workshop, bench: Bench, table: Table, checkpoint: Path, methods: Sequence[str] = tuple(METHODS)
) -> None:
    """Fills the table: the float artifact, each method asked for and, once all are there, the best in ExecuTorch."""
    if not table.has("float"):
        held_out = workshop.float_held_out_psnr_y_db()
        scored = bench.score(workshop.deployed, checkpoint, "fp32", DECIDED_BY)
        table.keep("float", {"held_out_psnr_y_db": held_out, **scored})
    reference = table.parts["float"]
    for method in methods:
        if table.has(method):
            continue
        made = workshop.make(method)
        scored = bench.score(made.network, made.path, SCHEME, DECIDED_BY)
        table.keep(method, {**_row(made, reference), **with_drops(scored, reference)})
    if not all(table.has(method) for method in METHODS):
        return
    best = best_method(table.parts)
    if table.has("final") and table.parts["final"]["method"] == best:
        return
    made = workshop.make(best)
    float_scored = bench.score(workshop.deployed, checkpoint, "fp32", FINAL_TARGET)
    scored = bench.score(made.network, made.path, SCHEME, FINAL_TARGET)
    final = {"method": best, "target": FINAL_TARGET, "float": float_scored, **with_drops(scored, float_scored)}
    table.keep("final", final)


def best_method(parts: dict[str, Any]) -> str:
    """The measured method with the highest PSNR on held-out photos; the sets have no say."""
    return max((name for name in METHODS if name in parts), key=lambda name: parts[name]["held_out_psnr_y_db"])


def with_drops(scored: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The scores of an int8 artifact, with what each set lost against the float artifact of the same target, in dB."""
    sets = {
        name: {**entry, "drop_db": reference["sets"][name]["psnr_y_db"] - entry["psnr_y_db"]}
        for name, entry in scored["sets"].items()
    }
    return {**scored, "sets": sets}


def _row(made: Made, reference: dict[str, Any]) -> dict[str, Any]:
    return {
        "seconds": made.seconds,
        "held_out_psnr_y_db": made.held_out_psnr_y_db,
        "held_out_drop_db": reference["held_out_psnr_y_db"] - made.held_out_psnr_y_db,
        "facts": made.facts,
        "network_sha256": sha256_file(made.path),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="idsa_net_mobile", choices=sorted(RECIPES))
    parser.add_argument("--checkpoint", type=Path, help="float checkpoint; default the bundled one")
    parser.add_argument("--train-data", type=Path, required=True, help="folder of training photos, or a packed pool")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for packed photos")
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5/HR, Set14/HR and so on")
    parser.add_argument("--set", dest="sets", action="append", help="image set; may be given again (default all four)")
    parser.add_argument(
        "--method", dest="methods", action="append", choices=tuple(METHODS), help="may be given again (default all)"
    )
    parser.add_argument("--tile", type=int, default=128, help="height and width of the LR tile (default 128)")
    parser.add_argument("--overlap", type=int, default=16, help="LR pixels between tiles (default 16)")
    parser.add_argument("--threads", type=int, default=1, help="of the runtimes (default 1)")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "quantization", help="for networks and artifacts")
    parser.add_argument("--quick", action="store_true", help="Set5 only, a few crops and steps, result in --work")
    parser.add_argument("--out", type=Path, help=f"default results/{RESULT.name}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one network; returns the exit status."""
    options = _parse(arguments)
    checkpoint = options.checkpoint or bundled_checkpoint(options.model, SCALE)
    folder = (options.work / ("quick" if options.quick else "full") / options.model).resolve()
    recipe = RECIPES[options.model].quick() if options.quick else RECIPES[options.model]
    names = ["Set5"] if options.quick else options.sets or list(ALL_SETS)
    tile = (32, 32) if options.quick else (options.tile, options.tile)
    path = options.out or (folder.parent / RESULT.name if options.quick else RESULT)
    with progress_bars() as progress:
        pool = packed_photos(options.train_data, SCALE, options.cache, progress)
        workshop = Workshop(checkpoint, pool, recipe, folder, progress)
        bench = Bench(
            tile=tile,
            overlap=options.overlap,
            sets=tuple(load_scorable_sets(options.data, names, SCALE)),
            threads=options.threads,
            folder=folder,
            progress=progress,
        )
        facts = {
            **workshop.made_of,
            "bundled": options.checkpoint is None,
            "trained": trained(checkpoint),
            "parameters": parameters(workshop.deployed),
            "train_data": options.train_data.name,
            "held_out_images": len(pool.held_out_images),
            "sets": names,
            "tile": list(tile),
            "overlap": options.overlap,
            "training_threads": torch.get_num_threads(),
        }
        table = Table(path, options.model, facts)
        measure_methods(workshop, bench, table, checkpoint, options.methods or tuple(METHODS))
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    run_script(main)
