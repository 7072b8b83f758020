"""A full verification on the terminal, and as a page with its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apps.destinations import check_folder
from apps.pages import write_page
from apps.results import envelope, write_json
from apps.terminal import say
from apps.verification.agreement_view import draw_agreement, print_agreement
from apps.verification.arm_view import print_arm
from apps.verification.colour_card_view import colour_sheet, print_colour_card
from apps.verification.full import FullReport
from apps.verification.gate import failures
from apps.verification.gate_view import print_gate
from apps.verification.seams_view import print_seams, seam_chart, seam_panels
from apps.verification.waterfall_view import draw_waterfall, draw_worst_tiles, print_waterfall
from converters.coreml_evaluator import NOTE as EVALUATOR_NOTE
from edge_sr.errors import ConfigError
from edge_sr.foreign_files import parse_json

KIND = "verify-full"
PAGE, DATA = "report.html", "report.json"


def print_full(report: FullReport) -> None:
    """The gate first, then every part as its own tables."""
    print_gate(report.checks)
    for line in report.verify.notices:
        say(f"note: {line}")
    print_waterfall(report.waterfall)
    for matrix in report.agreement:
        print_agreement(matrix)
    for certificate in report.seams:
        print_seams(certificate)
    for card in report.colour_cards:
        print_colour_card(card)
    if report.arm:
        print_arm(report.arm)


def claim_folder(out: Path) -> None:
    """Make the folder of the report, unless something in it would be destroyed.

    Raises:
        ConfigError: a file of that name, a report in it that is not ours, or a place that cannot be written.
    """
    check_folder(out, "--out")
    if (out / PAGE).exists() and not _is_own(out / DATA):
        raise ConfigError(f"expected a new folder or one of an earlier report, got {out} with a {PAGE} of its own")
    out.mkdir(parents=True, exist_ok=True)


def write_full(out: Path, report: FullReport, *, command: str) -> Path:
    """Write ``report.html`` and ``report.json`` into a folder that :func:`claim_folder` has made.

    Returns:
        the page's path.
    """
    facts: dict[str, Any] = {
        "checks": {
            "failed": failures(report.checks),
            "skipped": [check for check in report.checks if check.status == "skipped"],
            "passed": [check for check in report.checks if check.status == "passed"],
        },
        "notices": report.verify.notices,
        "waterfall_rows": report.waterfall.rows,
        "waterfalls": [
            (f"{row.label} on {row.set_name}", chart)
            for row in report.waterfall.rows
            if (chart := draw_waterfall(row)) is not None
        ],
        "worst_tiles": draw_worst_tiles(report.waterfall.rows),
        "agreement": [(matrix, draw_agreement(matrix)) for matrix in report.agreement],
        "seams": [(certificate, seam_chart(certificate), seam_panels(certificate)) for certificate in report.seams],
        "colour_cards": [(card, colour_sheet(card)) for card in report.colour_cards],
        "arm": report.arm,
        "seconds": report.seconds,
        "evaluator_note": EVALUATOR_NOTE,
    }
    write_json(out / DATA, envelope(KIND, report, command=command.split()))
    return write_page(out / PAGE, "verification.html.j2", title="Verification", command=command, facts=facts)


def _is_own(path: Path) -> bool:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == f"edge-sr/{KIND}"
