"""verify --full: every part on real artifacts of a tiny network, one gate over all, a page, and what CI reads."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from devtools import chromium_page

from apps.cli import main
from apps.exporting import export_artifacts
from apps.profiling.browser.chromium import find_chromium
from apps.verification import full
from apps.verification.colour_card import ColourLimits
from apps.verification.full import FullReport, verify_fully
from apps.verification.full_view import claim_folder, print_full, write_full
from apps.verification.gate import GateLimits
from edge_sr.checkpoints import save_checkpoint
from edge_sr.errors import ConfigError, MissingToolError, RunnerError
from edge_sr.images import write_image
from edge_sr.networks import create_network

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is missing")
pytest.importorskip("litert_torch", reason="litert-torch is missing")
pytest.importorskip("coremltools", reason="coremltools is missing")

TILE = (32, 32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=4), {})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture, larger than a tile: smooth, so that neighbouring levels mean something."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    rows, columns = np.mgrid[0:140, 0:150]
    waves = [127 + 100 * np.sin(rows / (9 + 3 * c)) * np.cos(columns / (7 + 2 * c)) for c in range(3)]
    write_image(folder / "waves.png", np.stack(waves, axis=2).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def artifacts(checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    report = export_artifacts(
        scale=2,
        schemes=("w8a8",),
        targets=("tflite", "coreml"),
        tile=TILE,
        out_dir=tmp_path_factory.mktemp("artifacts"),
        checkpoint=checkpoint,
        calibration=photos,
    )
    assert not report.failures
    return report.paths


@pytest.fixture(scope="module")
def report(artifacts: tuple[Path, ...], checkpoint: Path, photos: Path) -> FullReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full, "why_no_arm", lambda: "expected an emulated ARM system, got none")
        return verify_fully(
            artifacts,
            data=photos,
            limits=GateLimits(max_drop_db=60.0),
            checkpoints=[checkpoint],
            calibration=photos,
        )


def test_every_part_speaks_of_every_artifact(report: FullReport, artifacts: tuple[Path, ...]) -> None:
    names = [path.name for path in artifacts]
    assert [row.artifact_path.name for row in report.verify.rows] == names
    assert [row.artifact_path.name for row in report.waterfall.rows] == names
    assert [certificate.artifact for certificate in report.seams] == names
    assert [card.artifact for card in report.colour_cards] == names
    (matrix,) = report.agreement
    assert {entry.artifact_name for entry in matrix.participants} == {None, *names}
    assert set(report.seconds) == {"accuracy", "waterfall", "agreement", "seams", "colour card", "ARM numerics"}


def test_steps_of_the_waterfall_add_up_to_the_gates_drop(report: FullReport) -> None:
    for row, verified in zip(report.waterfall.rows, report.verify.rows, strict=True):
        assert row.tiling_drop_db is not None
        assert row.quantization_drop_db is not None
        assert row.conversion_drop_db is not None
        steps = row.tiling_drop_db + row.quantization_drop_db + row.conversion_drop_db
        assert steps == pytest.approx(verified.drop_db, abs=1e-9)


def test_checks_that_passed_say_what_was_found_and_name_no_artifact_twice(report: FullReport) -> None:
    passed = [check for check in report.checks if check.status == "passed"]
    assert {"agreement in tflite", "seams", "colour card", "mean drop", "runs"} <= {check.name for check in passed}
    for check in passed:
        assert "expected" not in check.message
    for check in report.checks:
        assert check.line.count(check.artifact) == 1 or not check.artifact
    (card,) = {check.message for check in passed if check.name == "colour card"} or {""}
    assert card.startswith("27 charts within their limits, flats and ramps within ")


def test_missing_emulator_is_a_skipped_check_and_no_green_one(report: FullReport) -> None:
    checks = [check for check in report.checks if check.name == "ARM numerics"]
    assert [(check.status, "no emulated" in check.message or "got none" in check.message) for check in checks] == [
        ("skipped", True)
    ]


def test_part_that_fails_is_a_failed_check_and_costs_that_part_only(
    artifacts: tuple[Path, ...], checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RunnerError("expected a run, got SIGSEGV")

    for part in ("certify_seams", "measure_agreement", "measure_waterfall"):
        monkeypatch.setattr(full, part, refuse)
    monkeypatch.setattr(full, "why_no_arm", lambda: "missing")
    found = verify_fully(artifacts[:1], data=photos, checkpoints=[checkpoint], calibration=photos)
    failed = {check.name for check in found.checks if check.status == "failed"}
    assert {"seams", "agreement", "waterfall"} <= failed
    assert len(found.colour_cards) == 1
    assert len(found.verify.rows) == 1


def test_page_and_json_hold_the_gate_and_every_part(
    report: FullReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim_folder(tmp_path)
    page = write_full(tmp_path, report, command="edge-sr verify --full").read_text()
    for word in (
        "Gate",
        "Where the PSNR goes",
        "Agreement",
        "Seams",
        "Colours",
        "ARM numerics",
        "edge-sr verify --full",
    ):
        assert word in page
    # Per card 27 charts of four pictures, and a worst tile of five per artifact.
    assert page.count("data:image/png;base64,") >= len(report.colour_cards) * 27 * 4 + len(report.waterfall.rows) * 5
    assert re.findall(r"""(?:src|href)=["'](?!data:image/)""", page) == []
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["kind"] == "edge-sr/verify-full"
    assert len(saved["checks"]) == len(report.checks)
    claim_folder(tmp_path)  # a report of our own may be replaced
    print_full(report)
    assert report.verify.rows[0].label in capsys.readouterr().out


def test_a_failure_stands_once_on_the_page_and_once_on_the_terminal(
    report: FullReport, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # or long lines are broken
    strict = replace(report.colour_cards[0], limits=ColourLimits(textured_shift_levels=0.0))
    failing = replace(report, colour_cards=(strict,))
    broken = [check for check in failing.checks if check.name == "colour card"]
    assert [check.message for check in broken] == list(strict.failures)
    assert len(set(strict.failures)) == len(strict.failures) > 0
    page = html.unescape(write_full(tmp_path, failing, command="c").read_text())
    print_full(failing)
    printed = capsys.readouterr().out
    for check in broken:
        assert check.status == "failed"
        assert check.artifact not in check.message
        assert page.count(f">{check.message}<") == 1
        assert printed.count(f"  {check.message}") == 1, "a cell of its own"


def test_page_never_scrolls_sideways_on_a_phone(report: FullReport, tmp_path: Path) -> None:
    try:
        find_chromium()
    except MissingToolError as error:
        pytest.skip(f"Chromium is missing: {error}")
    path = write_full(tmp_path, report, command="edge-sr verify --full " + 10 * "path/of/an/artifact ")
    with chromium_page() as page:
        page.emulate(412, 915, dark=False)
        page.open(path.as_uri())
        page.wait_for("document.readyState === 'complete' && document.querySelector('.bars') !== null")
        page.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert page.ask("document.documentElement.scrollWidth") <= 412


def test_page_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ConfigError, match="of its own"):
        claim_folder(tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_broken_gate_exits_with_three_and_writes_junit(
    artifacts: tuple[Path, ...], checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = tmp_path / "verify.xml"
    words = ["verify", str(artifacts[0]), "--checkpoint", str(checkpoint), "--data", str(photos)]
    asked = ["--max-drop", "-50", "--junit", str(junit), "--annotations", "github"]
    assert main([*words, *asked]) == 3
    out = capsys.readouterr().out
    assert "::error title=" in out
    tree = ET.parse(junit).getroot()
    assert tree.get("failures") == "1"
    assert [case.get("name") for case in tree.iter("testcase") if case.find("failure") is not None] != []
    assert main(words) == 0


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_out_of_range_are_refused(jobs: int, artifacts: tuple[Path, ...]) -> None:
    with pytest.raises(ConfigError, match="jobs must be at least 1"):
        verify_fully(artifacts, jobs=jobs)
