"""Measure what is lost where processes write at once, are killed, or find damage, and write results/reliability.json.

    python -m scripts.measure_reliability                 # every part
    python -m scripts.measure_reliability history record  # these alone

Parts: ``history`` (several processes begin a history), ``record`` (several record in one artifact), ``overwrite``
(a process is killed while it overwrites an artifact that another one reads), ``artifacts`` (flipped bits in the
bundled mobile network's w8a8 artifact for TFLite, hashes made anew), ``histories`` (flipped bits in a history) and
``memory`` (photos enlarged by that artifact). Each replaces its own section of the file, with its command, date,
machine and versions. The machine need not be idle.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apps.progress import Progress, progress_bars
from apps.results import envelope, plain, write_json
from apps.scripting import run_script
from converters.artifact import Artifact
from edge_sr.errors import ConfigError
from scripts.measure import ROOT, Section, Subject, relative
from scripts.reliability_damage import damage_artifacts, damage_histories
from scripts.reliability_memory import measure_memory
from scripts.reliability_writers import begin_histories, kill_while_overwriting, record_at_once

RESULT = ROOT / "results" / "reliability.json"
TILE = (128, 128)

Part = Callable[[argparse.Namespace, Path, Progress], dict[str, Any]]
PARTS: dict[str, Part] = {
    "history": lambda options, work, progress: begin_histories(work, writes=options.writes, progress=progress),
    "record": lambda options, work, progress: record_at_once(
        bundled(options.work), work, writes=options.writes, progress=progress
    ),
    "overwrite": lambda options, work, progress: kill_while_overwriting(
        bundled(options.work), work, kills=options.kills, seed=options.seed, progress=progress
    ),
    "artifacts": lambda options, work, progress: damage_artifacts(
        bundled(options.work), work, count=options.damaged, seed=options.seed, progress=progress
    ),
    "histories": lambda options, work, progress: damage_histories(
        work, count=options.damaged, seed=options.seed, progress=progress
    ),
    "memory": lambda options, work, progress: measure_memory(bundled(options.work), work, progress=progress),
}


def bundled(folder: Path) -> Artifact:
    """The artifact that is written, killed and damaged, exported unless ``folder`` holds it already."""
    return Subject(model="idsa_net_mobile", scale=4, tile=TILE, work=folder).artifact("tflite", "w8a8")


def write_part(path: Path, name: str, content: dict[str, Any]) -> None:
    """Replace one section of the result file; the others stay as they are."""
    whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    command = ["python", "-m", "scripts.measure_reliability", *relative(sys.argv[1:])]
    whole[name] = envelope(f"reliability-{name}", Section(content=plain(content)), command=command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, whole)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all of them)")
    parser.add_argument("--writes", type=int, default=1000, help="of all processes together (default %(default)s)")
    parser.add_argument("--kills", type=int, default=60, help="of a writer (default %(default)s)")
    parser.add_argument("--damaged", type=int, default=400, help="damaged copies of each (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and bits (default %(default)s)")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "reliability", help="where the artifact is kept")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file (default results/reliability.json)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        raise ConfigError(f"parts must be among {', '.join(PARTS)}, got {', '.join(unknown)}")
    options.work.mkdir(parents=True, exist_ok=True)
    with progress_bars() as progress:
        for name in options.parts or PARTS:
            with tempfile.TemporaryDirectory(prefix="edge-sr-reliability-") as folder:
                content = PARTS[name](options, Path(folder), progress)
            write_part(options.out, name, content)
            print(f"wrote part {name} of {options.out.name}", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
