"""Measure both networks on every kind of device that this machine has, and write results/devices_x4.json.

    python -m scripts.measure_devices export    # needs no idle machine
    python -m scripts.measure_devices           # host, browser, layers, roofline, tiles: on an otherwise idle machine
    python -m scripts.measure_devices --quick   # the whole way in small; writes into --work only

Each section can be measured again alone and replaces only itself. It carries its command, date, machine, versions, the
load of the machine when the command started, and the SHA-256 of the weights. Artifacts are kept in ``--work`` and used
again while their weights are the same; ``--fresh`` exports them again, as after a change to a converter.

A phone is measured with ``edge-sr profile --device adb`` or ``--device browser --lan``. Nothing here is one: ``host``
is this processor, ``browser`` is headless Chromium on it, and both say so in every row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.machine import MachineInfo, describe_machine
from apps.progress import progress_bars
from apps.results import envelope, plain, write_json
from apps.scripting import run_script
from edge_sr.errors import ConfigError, EdgeSRError
from scripts.device_sections import QUICK, SECTIONS, Effort, Subjects
from scripts.device_subjects import both_networks
from scripts.measure import ROOT, RUNNABLE, SCHEMES, Section, relative

RESULT = ROOT / "results" / "devices_x4.json"
# A load above this share of the cores, before anything was started here, makes every latency suspect.
BUSY_SHARE = 0.25


def write_section(
    path: Path, name: str, content: dict[str, Any], *, subjects: Subjects, start: MachineInfo, quick: bool
) -> None:
    """Replace one section of the result file, atomically; the others stay as they are.

    Args:
        start: the machine when the command began, before it made any load of its own.
    """
    whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    facts = {
        "quick": quick,
        "load_average_at_start": start.load_average,
        "busy_at_start": busy(start),
        "networks": [subject.facts() for subject in subjects],
        **content,
    }
    command = ["python", "-m", "scripts.measure_devices", *relative(sys.argv[1:])]
    whole[name] = envelope(f"devices-{name}", Section(content=plain(facts)), command=command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, whole)


def busy(machine: MachineInfo) -> bool | None:
    """Whether others kept the machine from measuring well; None where the system does not tell its load."""
    return None if machine.load_average is None else machine.load_average > BUSY_SHARE * machine.logical_cores


def export_all(subjects: Subjects, effort: Effort) -> int:
    """Make every artifact that the sections measure; returns how many there are."""
    made = [artifact for subject in subjects for artifact in subject.artifacts(RUNNABLE)]
    made += [subjects[0].artifact("tflite", name, tile=(side, side)) for side in effort.tile_sides for name in SCHEMES]
    return len({artifact.path for artifact in made})


def measure(names: Sequence[str], subjects: Subjects, effort: Effort, path: Path, *, quick: bool) -> list[str]:
    """Measure sections one after the other; returns why some could not be. What was measured before is written."""
    start = describe_machine()
    if busy(start):
        print(f"this machine is busy (load {start.load_average:.2f}): the result will say so", file=sys.stderr)
    failures = []
    with progress_bars() as progress:
        print(f"{export_all(subjects, effort)} artifacts at hand", file=sys.stderr, flush=True)
        for name in names:
            began = time.monotonic()
            try:
                content = SECTIONS[name](subjects, effort, progress)
            except EdgeSRError as error:
                # A browser that is missing must not cost the other sections.
                failures.append(f"{name}: {error}")
                print(f"section {name} failed: {error}", file=sys.stderr, flush=True)
                continue
            write_section(path, name, content, subjects=subjects, start=start, quick=quick)
            print(f"wrote section {name} of {path.name} ({time.monotonic() - began:.0f} s)", flush=True)
    return failures


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "steps", nargs="*", metavar="STEP", help=f"export, {', '.join(SECTIONS)} (default: all sections)"
    )
    parser.add_argument("--quick", action="store_true", help="a trial on small tiles, with few runs: no result")
    parser.add_argument("--fresh", action="store_true", help="export again what --work holds")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "devices", help="where artifacts are kept")
    parser.add_argument("--out", type=Path, help="default results/devices_x4.json; of a trial, a file in --work")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns the exit status, which is 2 where a section could not be measured."""
    options = _parse(arguments)
    steps = list(dict.fromkeys(options.steps)) or list(SECTIONS)
    unknown = [step for step in steps if step not in SECTIONS and step != "export"]
    if unknown:
        raise ConfigError(f"expected steps among export, {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    work = options.work.resolve() / ("quick" if options.quick else "artifacts")
    out: Path = options.out or (work / RESULT.name if options.quick else RESULT)
    if options.quick and out.resolve().is_relative_to(RESULT.parent):
        raise ConfigError(f"expected the numbers of a trial outside of {RESULT.parent.name}/, got {out}; leave --quick")
    if options.fresh and work.exists():
        shutil.rmtree(work)
    subjects, effort = both_networks(work, quick=options.quick), QUICK if options.quick else Effort()
    if "export" in steps:
        print(f"{export_all(subjects, effort)} artifacts at hand")
    names = [step for step in steps if step != "export"]
    failures = measure(names, subjects, effort, out, quick=options.quick) if names else []
    return EdgeSRError.exit_code if failures else 0


if __name__ == "__main__":
    run_script(main)
