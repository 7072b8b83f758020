"""Verify a network's artifacts fully and write results/verification_NETWORK_xSCALE.json for the documents.

    python -m scripts.measure_verification --data benchmarks --set Set5 --set Set14
    python -m scripts.measure_verification --model idsa_net --tile 64 --checkpoint NETWORK --data DATA --set Set5

It exports fp32 and w8a8 for every target into ``--work``, runs ``edge-sr verify --full`` on them, keeps its page there
and a digest of its numbers in the result file.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.exporting import export_artifacts
from apps.progress import progress_bars
from apps.results import envelope, plain, write_json
from apps.scripting import run_script
from apps.verification.agreement import AgreementMatrix
from apps.verification.colour_card import ColourCard
from apps.verification.full import FullReport, verify_fully
from apps.verification.full_view import claim_folder, print_full, write_full
from apps.verification.gate import GateLimits, failure_lines
from apps.verification.seam_certificate import SeamCertificate, SeamRow
from apps.weights import resolve_weights
from edge_sr.checkpoints import load_tensors
from edge_sr.errors import ConversionError
from edge_sr.networks import MODELS
from scripts.measure import ROOT, SCHEMES, Section, parameters, relative

_SEAM_FACTS = ("overlap", "cost_factor", "seam_max_levels", "seam_mean_levels", "photo_max_levels")


def digest(report: FullReport) -> dict[str, Any]:
    """The numbers of a full verification, without what only a debugger wants."""
    counts = Counter(check.status for check in report.checks)
    return {
        "seconds": report.seconds,
        "checks": dict(counts),
        "failures": list(failure_lines(report.checks)),
        "skipped": sorted({check.line for check in report.checks if check.status == "skipped"}),
        "waterfall": [row.to_json() for row in report.waterfall.rows],
        "agreement": [_agreement(matrix) for matrix in report.agreement],
        "seams": [_seams(certificate) for certificate in report.seams],
        "colour_cards": [_colours(card) for card in report.colour_cards],
        "arm": [check.to_json() for check in report.arm],
    }


def _agreement(matrix: AgreementMatrix) -> dict[str, Any]:
    whole = matrix.to_json()
    kept = ("scheme", "tile", "allowed_levels", "participants", "pairs")
    return {
        **{name: whole[name] for name in kept},
        "tiles": len(matrix.tiles),
        "divergences": [found.sentence() for found in matrix.divergences],
    }


def _seams(certificate: SeamCertificate) -> dict[str, Any]:
    return {
        "artifact": certificate.artifact,
        "scheme": certificate.scheme,
        "target": certificate.target,
        "runtime": certificate.runtime,
        "overlap": certificate.overlap,
        "certified_overlap": certificate.certified_overlap,
        "reference_overlap": certificate.reference_overlap,
        "reference_exact": certificate.reference_exact,
        "reach_px": certificate.reach.reach_px,
        "disagreement_levels": certificate.disagreement_levels,
        "verdict": certificate.verdict,
        "rows": [_seam_row(row) for row in certificate.rows],
    }


def _seam_row(row: SeamRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _SEAM_FACTS}


def _colours(card: ColourCard) -> dict[str, Any]:
    shift, shift_on = card.worst("shift_levels")
    ramps = [entry for entry in card.measures if entry.distinct is not None and entry.float_distinct]
    levels = min((entry.distinct or 0) / (entry.float_distinct or 1) for entry in ramps)
    return {
        "artifact": card.artifact,
        "runtime": card.runtime,
        "charts": len(card.measures),
        "failures": list(card.failures),
        "largest_shift_levels": shift,
        "largest_shift_on": shift_on,
        "least_share_of_ramp_levels": levels,
    }


def trained(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its training: steps and data, so that no short run passes for a trained network.

    Steps and seconds are those of all runs that led to a bundled checkpoint.
    """
    metadata = load_tensors(checkpoint).metadata
    facts = {name: metadata.get(name) for name in ("steps", "held_out_psnr_y_db", "train_images", "train_seconds")}
    for run in metadata.get("earlier_runs", []):
        facts |= {name: facts[name] + run[name] for name in ("steps", "train_seconds")}
    return facts


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="idsa_net_mobile", choices=sorted(MODELS))
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--tile", type=int, default=128, help="height and width of the LR tile (default 128)")
    parser.add_argument("--checkpoint", type=Path, help="float checkpoint; default the bundled ones")
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5/HR, Set14/HR and so on")
    parser.add_argument("--set", dest="sets", action="append", help="image set; may be given again")
    parser.add_argument("--max-drop", type=float, help="gate: most dB of a set's mean (default none)")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "verification", help="for artifacts and the page")
    parser.add_argument("--out", type=Path, help="default results/verification_MODEL_xSCALE.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, verify, write; returns the exit status, which is 0 also where the gate failed: the file says so."""
    options = _parse(arguments)
    name = f"{options.model}_x{options.scale}"
    work = (options.work / name).resolve()
    command = ["python", "-m", "scripts.measure_verification", *relative(sys.argv[1:])]
    claim_folder(work)
    with progress_bars() as progress:
        exported = export_artifacts(
            model=options.model,
            scale=options.scale,
            schemes=SCHEMES,
            tile=(options.tile, options.tile),
            out_dir=work / "artifacts",
            checkpoint=options.checkpoint,
            overwrite=True,
            progress=progress,
        )
        if exported.failures:
            raise ConversionError(f"expected all artifacts, got {exported.failures[0].error}")
        report = verify_fully(
            exported.paths,
            data=options.data,
            sets=options.sets,
            limits=GateLimits(max_drop_db=options.max_drop),
            checkpoints=() if options.checkpoint is None else (options.checkpoint,),
            progress=progress,
        )
    print_full(report)
    write_full(work, report, command=" ".join(command))
    weights = resolve_weights(options.model, options.scale, "fp32", checkpoint=options.checkpoint)
    facts = {
        "model": options.model,
        "scale": options.scale,
        "tile": [options.tile, options.tile],
        "sets": options.sets,
        "parameters": parameters(weights.network),
        "bundled": options.checkpoint is None,
        "checkpoint_sha256": weights.checkpoint_sha256,
        "trained": trained(weights.checkpoint),
        **digest(report),
    }
    path = options.out or ROOT / "results" / f"verification_{name}.json"
    write_json(path, envelope("verification", Section(content=plain(facts)), command=command))
    print(f"wrote {path.name}, {sum(report.seconds.values()):.0f} s of verification")
    return 0


if __name__ == "__main__":
    run_script(main)
