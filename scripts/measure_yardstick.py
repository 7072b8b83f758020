"""Time our networks beside a yardstick and write results/yardstick_x4.json: ratios, not milliseconds of one machine.

    python -m scripts.measure_yardstick                      # on an otherwise idle machine
    python -m scripts.measure_yardstick --quick              # shows that all of it works; writes into --work

The yardstick is ``scripts/yardstick.py``: IMDN's shape, untrained. In every round each artifact of each runtime is
timed once; a ratio is taken within a round, and the table quotes the median over the rounds with the smallest and the
largest. Artifacts that ``--work`` holds already are used again while network and scheme are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apps.progress import Progress, progress_bars
from apps.results import Timing, envelope, plain, write_json
from apps.scripting import run_script
from converters.artifact import Artifact
from edge_sr.checkpoints import load_checkpoint
from edge_sr.networks import create_network
from scripts.measure import ROOT, Section, relative
from scripts.turns import Candidate, calibration_tiles, export_candidate, ratios, summary, time_rounds
from scripts.yardstick import create_yardstick

SCALE, SEED = 4, 0
YARDSTICK = "imdn_yardstick"
SCHEMES = ("fp32", "w8a8", "w8a8_mixed")
TARGETS = ("tflite", "executorch")
RESULT = ROOT / "results" / f"yardstick_x{SCALE}.json"


def candidates(checkpoint: Path | None) -> list[Candidate]:
    """The yardstick and our two networks, untrained but for ``checkpoint``, which is one of idsa_net.

    Raises:
        CheckpointError: the file is missing, damaged or of another network.
    """
    made = [Candidate(name=YARDSTICK, deployed=create_yardstick(SEED).deployed(), weights=f"untrained, seed {SEED}")]
    for name in ("idsa_net", "idsa_net_mobile"):
        if checkpoint is not None and name == "idsa_net":
            loaded = load_checkpoint(checkpoint, expect_model=name)
            made.append(
                Candidate(name=name, deployed=deployed(loaded.network), weights=f"checkpoint {loaded.sha256[:12]}")
            )
        else:
            with torch.random.fork_rng():
                torch.manual_seed(SEED)
                network = create_network(name, SCALE)
            made.append(Candidate(name=name, deployed=deployed(network), weights=f"untrained, seed {SEED}"))
    return made


def deployed(network: nn.Module) -> nn.Module:
    """The deployment form of any network of ours."""
    form: nn.Module = network.eval().deployed()  # type: ignore[operator]
    return form


def rows(
    artifacts: Mapping[tuple[str, str, str], Artifact], taken: Mapping[tuple[str, str, str], Sequence[Timing]]
) -> list[dict[str, Any]]:
    """One row per artifact, by (network, scheme, target), with its ratios to the yardstick in the same runtime.

    ``ratio`` is to the yardstick in float, whatever the own scheme; ``ratio_same_scheme`` to the yardstick in the own.
    """
    content = []
    for (name, scheme, target), timings in taken.items():
        to_float = ratios(timings, taken[YARDSTICK, "fp32", target])
        to_same = ratios(timings, taken[YARDSTICK, scheme, target])
        content.append(
            {
                "network": name,
                **summary(artifacts[name, scheme, target], timings),
                "ratio": to_float.to_json(),
                "ratio_same_scheme": to_same.to_json(),
            }
        )
    return content


def measure(
    taking_part: Sequence[Candidate],
    *,
    schemes: Sequence[str],
    targets: Sequence[str],
    tile: tuple[int, int],
    rounds: int,
    runs: int,
    work: Path,
    progress: Progress,
) -> Section:
    """Export everything, then time everything in turns, one runtime after the other.

    Raises:
        MissingToolError, ConversionError: a toolchain is missing or refused.
        ConfigError: an artifact could not be timed here.
    """
    tiles = calibration_tiles(SCALE, multiple=8)
    artifacts = {
        (one.name, scheme, target): export_candidate(one, scheme, target, tile=tile, work=work, calibration=tiles)
        for target in targets
        for scheme in schemes
        for one in taking_part
    }
    taken: dict[tuple[str, str, str], Sequence[Timing]] = {}
    for target in targets:
        own = {"/".join(key): artifact for key, artifact in artifacts.items() if key[2] == target}
        timed = time_rounds(own, rounds=rounds, runs=runs, threads=1, progress=progress)
        taken |= {(name, scheme, target): timed[f"{name}/{scheme}/{target}"] for name, scheme, _ in map(_split, timed)}
    return Section(
        content={
            "scale": SCALE,
            "tile": list(tile),
            "threads": 1,
            "rounds": rounds,
            "runs_per_round": runs,
            "yardstick": YARDSTICK,
            "networks": [one.to_json() for one in taking_part],
            "rows": rows(artifacts, taken),
        }
    )


def _split(key: str) -> tuple[str, str, str]:
    name, scheme, target = key.split("/")
    return name, scheme, target


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of idsa_net at x4; default untrained weights, seeded")
    parser.add_argument("--target", dest="targets", action="append", choices=TARGETS, help="default both")
    parser.add_argument("--tile", type=int, default=128, help="height and width of the LR tile (default 128)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of all artifacts (default 7)")
    parser.add_argument("--runs", type=int, default=10, help="timed runs per turn (default 10)")
    parser.add_argument("--quick", action="store_true", help="TFLite, 16x16 tile, 2 rounds; result into --work")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "yardstick", help="where artifacts are kept")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns the exit status."""
    options = _parse(arguments)
    work = options.work.resolve()
    side = 16 if options.quick else options.tile
    with progress_bars() as progress:
        section = measure(
            candidates(options.checkpoint),
            schemes=SCHEMES[:2] if options.quick else SCHEMES,
            targets=("tflite",) if options.quick else options.targets or TARGETS,
            tile=(side, side),
            rounds=2 if options.quick else options.rounds,
            runs=options.runs,
            work=work,
            progress=progress,
        )
    path = work / "quick.json" if options.quick else options.out
    command = ["python", "-m", "scripts.measure_yardstick", *relative(sys.argv[1:])]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, envelope("yardstick", Section(content=plain(section.to_json())), command=command))
    for row in section.content["rows"]:
        print(
            f"{row['network']} {row['scheme']} {row['target']}: {row['ratio']['median']:.2f} of the yardstick's float"
        )
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    run_script(main)
