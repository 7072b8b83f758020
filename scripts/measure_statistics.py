"""Compare where idsa_net's normalisation takes its statistics from and write results/statistics_x4.json.

    python -m scripts.measure_statistics --run runs/frozen --run runs/image --train-data PHOTOS --data DATA

The runs are those of ``idsa_net_x4_short.toml`` and ``idsa_net_x4_short_image_statistics.toml``, equal but for
``statistics``; a third network is the second with its statistics made constants after training, from crops of training
photos. Each is scored as float network on whole images and in tiles, and quantized after training in the same tiles,
all in PyTorch; so every drop is that of tiles or of integers alone. What TFLite takes of each is read off an export.
``--quick`` shows that all of it works and writes into ``--work``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from apps.progress import Progress, progress_bars
from apps.results import envelope, plain, write_json
from apps.scripting import run_script
from apps.training import DEFAULT_CACHE
from apps.verification.scoring import score
from edge_sr.checkpoints import load_checkpoint, save_checkpoint
from edge_sr.datasets import ImageSet
from edge_sr.errors import ConfigError, ConversionError, UnsupportedScheme
from edge_sr.networks.idsa import IDSANet
from edge_sr.runner import TorchRunner
from edge_sr.scorable import load_scorable_sets
from edge_sr.tiling import DEFAULT_OVERLAP
from edge_sr.training.crop_pool import CropPool
from scripts.measure import ROOT, Section, relative
from scripts.measure_ablation import Run, check_trained_alike, read_run
from scripts.measure_yardstick import SCALE
from scripts.quantization_methods import RECIPES, Workshop, packed_photos
from scripts.turns import Candidate, calibration_tiles, export_candidate

RESULT = ROOT / "results" / f"statistics_x{SCALE}.json"
FROZEN, IMAGE, IMAGE_FROZEN = "frozen", "image", "image_frozen"
# What is compared, and how the table says so. The first two are trained, the third is made of the second.
OPTIONS = {
    FROZEN: "constants from half of the training on",
    IMAGE: "of the image or tile at hand",
    IMAGE_FROZEN: "of the image at hand, constants after training",
}
TILES, QUICK_TILES = (128, 64), (32,)
METHOD, EXPORTED = "search", ("fp32", "w8a8")
# The search is most of the time this script takes; crops of a tile's size show the ranges that tiles have.
RECIPE = replace(RECIPES["idsa_net"], batches=6, crops=4, side=64, searched=2, searched_side=32)
# Statistics are averages over these: crops of a tile's size, other ones than the ranges are taken from.
STATISTICS_BATCHES, STATISTICS_CROPS, STATISTICS_SIDE, STATISTICS_SEED = 8, 4, 64, 2_000_001

Scores = dict[str, dict[str, Any]]


def statistics_of(network: Mapping[str, Any]) -> str:
    """``frozen`` or ``image``, as a network's settings say.

    Raises:
        ConfigError: they set something else as well.
    """
    others = sorted(set(network) - {"statistics"})
    if others:
        raise ConfigError(f"expected settings of statistics alone, got {', '.join(others)} too; give another run")
    return str(network.get("statistics", FROZEN))


def check_pair(runs: Sequence[Run], pool_sha256: str) -> None:
    """Refuse anything but one run of each kind of statistics, trained alike on the photos that crops are cut from.

    Raises:
        ConfigError: which run is missing, or differs, and in what.
    """
    names = [run.name for run in runs]
    if sorted(names) != sorted((FROZEN, IMAGE)):
        raise ConfigError(f"expected one run of {FROZEN} and one of {IMAGE}, got {', '.join(names)}; use --run twice")
    check_trained_alike(runs)
    if runs[0].photos != pool_sha256:
        raise ConfigError(
            f"expected the runs' photos {str(runs[0].photos)[:12]}, got {pool_sha256[:12]}; give them as --train-data"
        )


def freeze_after_training(checkpoint: Path, pool: CropPool, path: Path) -> Path:
    """Write a run's network with constants for statistics, averages over crops of training photos; nothing is trained.

    Raises:
        CheckpointError: the network cannot be loaded or written.
        ConfigError: it has no statistics.
    """
    network = load_checkpoint(checkpoint, expect_model="idsa_net").network
    assert isinstance(network, IDSANet)
    sampler = pool.sampler(STATISTICS_SIDE)
    batches: list[Tensor] = [
        sampler.batch(STATISTICS_CROPS, seed=STATISTICS_SEED, step=step).lr for step in range(STATISTICS_BATCHES)
    ]
    save_checkpoint(path, network.with_frozen_statistics(batches), {"made_of": checkpoint.name, "steps": 0})
    return path


def score_sets(
    network: nn.Module, sets: Sequence[ImageSet], what: str, tile: tuple[int, int] | None, progress: Progress
) -> Scores:
    """PSNR-Y in dB of each set, mean and by image; ``tile`` is None for whole images."""
    runner = TorchRunner(network, tile=tile)
    scores = [score(runner, image_set, what, DEFAULT_OVERLAP, progress) for image_set in sets]
    return {
        one.set_name: {"psnr_y_db": one.psnr_y_db, "by_image": {image.name: image.psnr_y_db for image in one.images}}
        for one in scores
    }


def measure_option(
    name: str, workshop: Workshop, sets: Sequence[ImageSet], tiles: Sequence[int], progress: Progress
) -> dict[str, Any]:
    """All scores of one network. One that cannot be quantized has the reason and no int8 score."""
    reason = None
    try:
        made = workshop.make(METHOD)
    except (ConfigError, UnsupportedScheme) as error:
        made, reason = None, str(error)
    scored = []
    for side in tiles:
        tile, what = (side, side), f"{name} in {side}x{side} tiles"
        float_scores = score_sets(workshop.deployed, sets, what, tile, progress)
        int8 = None if made is None else score_sets(made.network, sets, f"{what}, w8a8", tile, progress)
        scored.append({"tile": list(tile), "float": float_scores, "quantized": int8})
    return {
        "name": name,
        "title": OPTIONS[name],
        "sha256": workshop.made_of["float_checkpoint_sha256"],
        "reason": reason,
        "held_out_psnr_y_db": workshop.float_held_out_psnr_y_db(),
        "held_out_quantized_psnr_y_db": None if made is None else made.held_out_psnr_y_db,
        "whole": score_sets(workshop.deployed, sets, f"{name} whole", None, progress),
        "tiles": scored,
    }


def export_facts(candidate: Candidate, scheme: str, side: int, work: Path) -> dict[str, Any]:
    """What XNNPACK takes of a network's TFLite file, or why there is none."""
    try:
        artifact = export_candidate(
            candidate,
            scheme,
            "tflite",
            tile=(side, side),
            work=work,
            calibration=calibration_tiles(SCALE, multiple=8),
        )
    except (ConfigError, ConversionError, UnsupportedScheme) as error:
        return {"scheme": scheme, "tile": [side, side], "reason": str(error)}
    return {
        "scheme": scheme,
        "tile": [side, side],
        "reason": None,
        "delegates": artifact.meta.delegation.delegates,
        "ops_outside": dict(artifact.meta.delegation.ops_outside),
        "notes": list(artifact.meta.notes),
    }


def with_drops(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with a ``drops`` of every tile size and set, in dB.

    ``tiling`` is whole float less tiled float, ``quantization`` tiled float less tiled int8, ``total`` their sum;
    ``from_best`` is what tiled int8 lacks to the best whole float of all rows. ``worst_image`` lost most in total.
    Without an int8 score all but ``tiling`` are None.
    """
    best = {name: max(row["whole"][name]["psnr_y_db"] for row in rows) for name in rows[0]["whole"]}
    content = []
    for row in rows:
        tiles = []
        for one in row["tiles"]:
            quantized = one["quantized"] or {}
            drops = {
                name: _drops(row["whole"][name], one["float"][name], quantized.get(name), best[name]) for name in best
            }
            tiles.append({**one, "drops": drops})
        content.append({**row, "tiles": tiles})
    return content


def _drops(
    whole: dict[str, Any], tiled: dict[str, Any], quantized: dict[str, Any] | None, best: float
) -> dict[str, Any]:
    drops: dict[str, Any] = dict.fromkeys(("tiling_db", "quantization_db", "total_db", "from_best_db", "worst_image"))
    drops["tiling_db"] = whole["psnr_y_db"] - tiled["psnr_y_db"]
    if quantized is None:
        return drops
    lost = {name: psnr - quantized["by_image"][name] for name, psnr in whole["by_image"].items()}
    worst = max(lost, key=lambda name: lost[name])
    drops["quantization_db"] = tiled["psnr_y_db"] - quantized["psnr_y_db"]
    drops["total_db"] = whole["psnr_y_db"] - quantized["psnr_y_db"]
    drops["from_best_db"] = best - quantized["psnr_y_db"]
    drops["worst_image"] = {"name": worst, "total_db": lost[worst]}
    return drops


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", dest="runs", type=Path, action="append", required=True, help="folder; give it twice")
    parser.add_argument("--train-data", type=Path, required=True, help="photos that the runs were trained on")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder for packed photos")
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5/HR, Set14/HR and so on")
    parser.add_argument(
        "--set", dest="sets", action="append", help="image set; may be given again (default Set5, Set14)"
    )
    parser.add_argument("--quick", action="store_true", help="two images, 32x32 tiles, fp32 exports; into --work")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "statistics", help="for networks and artifacts")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the third network, quantize, score, export, write; returns the exit status."""
    options = _parse(arguments)
    quick: bool = options.quick
    work = (options.work / ("quick" if quick else "full")).resolve()
    recipe, tiles = (RECIPE.quick(), QUICK_TILES) if quick else (RECIPE, TILES)
    names = ["Set5"] if quick else options.sets or ["Set5", "Set14"]
    runs = [read_run(folder, statistics_of) for folder in options.runs]
    rows = []
    with progress_bars() as progress:
        pool = packed_photos(options.train_data, SCALE, options.cache, progress)
        check_pair(runs, pool.sha256)
        sets = [one.first(2) if quick else one for one in load_scorable_sets(options.data, names, SCALE)]
        checkpoints = {run.name: run.checkpoint for run in runs}
        frozen_after = work / "image_frozen.safetensors"
        checkpoints[IMAGE_FROZEN] = freeze_after_training(checkpoints[IMAGE], pool, frozen_after)
        for name in OPTIONS:

            def report(what: str, done: float, total: int, detail: str = "", name: str = name) -> None:
                progress(f"{name}: {what}", done, total, detail)

            workshop = Workshop(checkpoints[name], pool, recipe, work / name, report)
            row = measure_option(name, workshop, sets, tiles, progress)
            candidate = Candidate(name=name, deployed=workshop.deployed, weights=row["sha256"])
            schemes = EXPORTED[:1] if quick else EXPORTED
            row["exports"] = [export_facts(candidate, scheme, min(tiles), work) for scheme in schemes]
            rows.append(row)
    content = {
        "scale": SCALE,
        "overlap": DEFAULT_OVERLAP,
        "training": runs[0].training,
        "photos_sha256": pool.sha256,
        "train_images": pool.train_files,
        "held_out_images": len(pool.held_out_images),
        "statistics_crops": {"crops": STATISTICS_BATCHES * STATISTICS_CROPS, "side": STATISTICS_SIDE},
        "quantization": {"method": METHOD, "recipe": recipe.to_json()},
        "sets": names,
        "rows": with_drops(rows),
    }
    path = work / RESULT.name if quick else options.out
    command = ["python", "-m", "scripts.measure_statistics", *relative(sys.argv[1:])]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, envelope("statistics", Section(content=plain(content)), command=command))
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    run_script(main)
