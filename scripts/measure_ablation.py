"""Compare equal short trainings of idsa_net without one of its parts and write results/ablation_x4.json.

    edge-sr train --config edge_sr/training/configs/idsa_net_x4_short_no_lcipb.toml --data PHOTOS --out runs/no_lcipb
    python -m scripts.measure_ablation accuracy --run runs/idsa_net_x4_short --run runs/no_lcipb --data benchmarks
    python -m scripts.measure_ablation latency --run runs/idsa_net_x4_short --run runs/no_lcipb   # on an idle machine

A run is the folder that training wrote. What a run leaves out is read from its own ``config.json``; everything else in
it must be equal to the first run's, and so must the photos. Each step keeps what the other measured of the same runs.
PSNR-Y is that of the float network on whole images;
latencies are those of the TFLite artifacts, float and int8 after training, in turns with the yardstick's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.progress import Progress, progress_bars
from apps.results import Timing, envelope, plain, write_json
from apps.scripting import run_script
from apps.verification.scoring import score
from edge_sr.checkpoints import load_checkpoint, sha256_file
from edge_sr.datasets import ImageSet
from edge_sr.errors import ConfigError
from edge_sr.runner import TorchRunner
from edge_sr.scorable import load_scorable_sets
from edge_sr.training.config import config_from_mapping
from scripts.measure import ALL_SETS, ROOT, Section, parameters, relative
from scripts.measure_yardstick import SCALE, SEED, YARDSTICK, deployed
from scripts.turns import Candidate, calibration_tiles, export_candidate, hd_macs, ratios, summary, time_rounds
from scripts.yardstick import create_yardstick

SCHEMES = ("fp32", "w8a8")
TARGET = "tflite"
RESULT = ROOT / "results" / f"ablation_x{SCALE}.json"
# What a run may leave out, and how the table says so.
PARTS = {"share_attention": "attention of its own in every block", "lcipb": "without LCIPB", "inam": "without INAM"}
FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training run.

    Attributes:
        folder: what training wrote.
        name: what sets it apart from the runs beside it: here ``full``, or the setting that is off.
        training: its configuration but for the network's settings; what a run did not write has its default.
        held_out_psnr_y_db: of its last validation.
        photos: SHA-256 of the training photos and of those held out; None where the checkpoint does not say.
    """

    folder: Path
    name: str
    training: dict[str, Any]
    held_out_psnr_y_db: float
    photos: str | None

    @property
    def checkpoint(self) -> Path:
        """The network it ended with."""
        return self.folder / "network.safetensors"


def left_out(network: Mapping[str, Any]) -> str:
    """The part that a network's settings leave out, or ``full``.

    Raises:
        ConfigError: they leave out several parts, or set something else.
    """
    off = [part for part in PARTS if network.get(part) is False]
    if len(off) > 1 or set(network) - set(off):
        raise ConfigError(f"expected at most one of {', '.join(PARTS)} to be off, got {dict(network)}; give another")
    return off[0] if off else FULL


def read_run(folder: Path, name_of: Callable[[Mapping[str, Any]], str] = left_out) -> Run:
    """Read a run's configuration, last validation and photos.

    Args:
        folder: what training wrote.
        name_of: gives the run its name from its network's settings; raises ConfigError for those no table has a row of.
    Raises:
        ConfigError: a file is missing, the run is not finished or not one of idsa_net at x4, or it has no name.
        CheckpointError: the network cannot be loaded.
    """
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1])
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"expected config.json and log.jsonl of a run in {folder}, got {error}; train it") from error
    config = config_from_mapping(written)  # a run older than a setting is one with that setting's default
    if (config.model, config.scale) != ("idsa_net", SCALE):
        raise ConfigError(f"expected a run of idsa_net x{SCALE}, got {folder} of {config.model}; give another")
    if last["step"] != config.steps:
        raise ConfigError(f"expected {config.steps} steps in {folder}, got {last['step']}; let it finish")
    try:
        name = name_of(config.network)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    checkpoint = load_checkpoint(folder / "network.safetensors", expect_model="idsa_net")
    return Run(
        folder=folder,
        name=name,
        training={key: value for key, value in plain(config.to_json()).items() if key != "network"},
        held_out_psnr_y_db=float(last["held_out_psnr_y_db"]),
        photos=checkpoint.metadata.get("pool_sha256"),
    )


def check_equal(runs: Sequence[Run]) -> None:
    """Refuse runs that say nothing about one part: other settings or photos, twice the same part, no full network.

    Raises:
        ConfigError: which run differs, and in what.
    """
    names = [run.name for run in runs]
    if FULL not in names or len(set(names)) != len(names):
        raise ConfigError(f"expected one run of the full network and one for each part, got {', '.join(names)}")
    check_trained_alike(runs)


def check_trained_alike(runs: Sequence[Run]) -> None:
    """Refuse runs of which one had other settings, or other photos, than the first; networks may differ.

    Raises:
        ConfigError: which run differs, and in what.
    """
    first = runs[0]
    for run in runs[1:]:
        differing = [key for key in first.training if run.training.get(key) != first.training[key]]
        if run.photos != first.photos:
            differing.append("photos")
        if differing:
            raise ConfigError(
                f"expected {run.folder} to be trained as {first.folder}, got other {', '.join(differing)}"
            )


def score_run(run: Run, sets: Sequence[ImageSet], progress: Progress) -> dict[str, Any]:
    """Parameters and PSNR-Y (whole images of each set) of the training form, MACs of what is deployed."""
    loaded = load_checkpoint(run.checkpoint)
    network = loaded.network.eval()
    runner = TorchRunner(network)
    scores = [score(runner, image_set, run.name, 0, progress) for image_set in sets]
    return {
        "name": run.name,
        "title": PARTS.get(run.name, FULL),
        "sha256": loaded.sha256,
        "parameters": parameters(network),
        "macs_hd": hd_macs(deployed(network)),
        "held_out_psnr_y_db": run.held_out_psnr_y_db,
        "sets": {one.set_name: {"images": len(one.images), "psnr_y_db": one.psnr_y_db} for one in scores},
    }


def time_runs(
    runs: Sequence[Run], *, tile: tuple[int, int], rounds: int, runs_per_round: int, work: Path, progress: Progress
) -> dict[str, dict[str, Any]]:
    """By run and scheme: latency of the TFLite artifact, and its ratio to the float yardstick in the same rounds."""
    taking_part = [Candidate(name=YARDSTICK, deployed=create_yardstick(SEED).deployed(), weights="untrained")]
    for run in runs:
        network = load_checkpoint(run.checkpoint).network
        taking_part.append(Candidate(name=run.name, deployed=deployed(network), weights=str(run.folder)))
    tiles = calibration_tiles(SCALE, multiple=8)
    artifacts = {
        f"{one.name}/{scheme}": export_candidate(one, scheme, TARGET, tile=tile, work=work, calibration=tiles)
        for one in taking_part
        for scheme in SCHEMES
        if one.name != YARDSTICK or scheme == "fp32"
    }
    taken = time_rounds(artifacts, rounds=rounds, runs=runs_per_round, threads=1, progress=progress)
    base: Sequence[Timing] = taken[f"{YARDSTICK}/fp32"]
    return {
        run.name: {
            scheme: {
                **summary(artifacts[f"{run.name}/{scheme}"], taken[f"{run.name}/{scheme}"]),
                "ratio": ratios(taken[f"{run.name}/{scheme}"], base).to_json(),
            }
            for scheme in SCHEMES
        }
        for run in runs
    }


def with_differences(scored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table's rows: the full network first, then each part in the order of ``PARTS``, with what it costs to omit.

    ``difference_db`` is a row's PSNR-Y less the full network's, for the held-out photos and every set.
    """
    order = [FULL, *PARTS]
    ordered = sorted(scored, key=lambda row: order.index(row["name"]))
    full = ordered[0]
    content = []
    for row in ordered:
        sets = {
            name: {**entry, "difference_db": entry["psnr_y_db"] - full["sets"][name]["psnr_y_db"]}
            for name, entry in row["sets"].items()
        }
        held_out = row["held_out_psnr_y_db"] - full["held_out_psnr_y_db"]
        content.append({**row, "sets": sets, "held_out_difference_db": held_out})
    return content


def facts(runs: Sequence[Run]) -> dict[str, Any]:
    """What all runs share, and the SHA-256 of each run's network."""
    trained = load_checkpoint(runs[0].checkpoint).metadata
    content: dict[str, Any] = plain(
        {
            "scale": SCALE,
            "training": runs[0].training,
            "photos_sha256": runs[0].photos,
            "train_images": trained.get("train_images"),
            "held_out_images": trained.get("held_out_images"),
            "weights_sha256": {run.name: sha256_file(run.checkpoint) for run in runs},
        }
    )
    return content


def write(path: Path, step: str, shared: dict[str, Any], found: dict[str, Any]) -> None:
    """Put one step's findings into the file; the other step's stay if they are of the same runs."""
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = before if all(before.get(name) == value for name, value in shared.items()) else {}
    command = ["python", "-m", "scripts.measure_ablation", *relative(sys.argv[1:])]
    section = envelope(f"ablation-{step}", Section(content=plain(found)), command=command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**kept, **shared, step: section})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("accuracy", "latency"))
    parser.add_argument("--run", dest="runs", type=Path, action="append", required=True, help="folder; give it again")
    parser.add_argument("--data", type=Path, help="accuracy: folder with Set5/HR, Set14/HR and so on")
    parser.add_argument(
        "--set", dest="sets", action="append", help="accuracy: image set; may be given again (default all four)"
    )
    parser.add_argument("--tile", type=int, default=128, help="latency: LR tile (default 128)")
    parser.add_argument("--rounds", type=int, default=7, help="latency: turns of all artifacts (default 7)")
    parser.add_argument("--runs-per-round", type=int, default=10, help="latency: timed runs per turn (default 10)")
    parser.add_argument("--quick", action="store_true", help="16x16 tile, 2 rounds, Set5; result into --work")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "ablation", help="where artifacts are kept")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score or time, write; returns the exit status."""
    options = _parse(arguments)
    if options.step == "accuracy" and options.data is None:
        raise ConfigError("expected --data with the benchmark images, got none; name the folder that holds Set5")
    runs = [read_run(folder) for folder in options.runs]
    check_equal(runs)
    work = options.work.resolve()
    path = work / "quick.json" if options.quick else options.out
    with progress_bars() as progress:
        if options.step == "accuracy":
            names = ["Set5"] if options.quick else options.sets or list(ALL_SETS)
            sets = load_scorable_sets(options.data, names, SCALE)
            rows = with_differences([score_run(run, sets, progress) for run in runs])
            found = {"sets": names, "rows": rows}
        else:
            side = 16 if options.quick else options.tile
            rounds = 2 if options.quick else options.rounds
            timed = time_runs(
                runs,
                tile=(side, side),
                rounds=rounds,
                runs_per_round=options.runs_per_round,
                work=work,
                progress=progress,
            )
            found = {
                "tile": [side, side],
                "threads": 1,
                "rounds": rounds,
                "runs_per_round": options.runs_per_round,
                "rows": timed,
            }
    write(path, options.step, facts(runs), found)
    print(f"wrote {options.step} of {path.name}")
    return 0


if __name__ == "__main__":
    run_script(main)
