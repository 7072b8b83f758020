"""The gate: promises are judged by arithmetic, and CI systems can read what it says."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.verification.gate import (
    GateCheck,
    GateLimits,
    check_rows,
    count_statuses,
    enforce,
    failure_lines,
    failures,
    passed_line,
)
from apps.verification.gate_view import (
    GITHUB_ANNOTATIONS,
    SUMMARY_LIMIT_BYTES,
    append_step_summary,
    github_annotations,
    markdown_summary,
    print_gate,
    write_junit,
)
from apps.verification.rows import VerifyRow
from edge_sr.errors import ConfigError, GateError
from edge_sr.evaluation import ImageScore, SetScore


def _score(*psnr_db: float) -> SetScore:
    images = tuple(ImageScore(name=f"img{i}", psnr_y_db=value, ssim=0.9) for i, value in enumerate(psnr_db))
    return SetScore(set_name="Set5", scale=4, images=images)


def _row(name: str = "net", *, whole: SetScore, artifact: SetScore | None, **changes: object) -> VerifyRow:
    row = VerifyRow(
        artifact_path=Path("out") / name,
        model="net",
        scheme="w8a8",
        target="tflite",
        runtime="tflite",
        tile=(16, 16),
        overlap=4,
        float_whole=whole,
        float_tiled=whole,
        artifact=artifact,
        reason=None if artifact is not None else "needs macOS",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def _check(**changes: object) -> GateCheck:
    fields = {"name": "mean drop", "artifact": "net", "set_name": "Set5", "status": "failed", "message": "too much"}
    return GateCheck(**(fields | changes))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- judging
def test_mean_and_worst_image_are_judged_apart() -> None:
    # Drops of 0.25 and -0.125 dB: 0.0625 dB in the mean, 0.25 dB on the first image. All exact in binary.
    row = _row(whole=_score(30.0, 32.0), artifact=_score(29.75, 32.125))
    by_name = {c.name: c for c in check_rows([row], GateLimits(max_drop_db=0.0625, max_image_drop_db=0.2))}
    assert (by_name["mean drop"].status, by_name["mean drop"].measured) == ("passed", 0.0625)
    assert (by_name["worst image"].status, by_name["worst image"].measured) == ("failed", 0.25)
    assert "at most 0.2 dB, got 0.250 dB on img0" in by_name["worst image"].message
    assert count_statuses(by_name.values()) == {"passed": 2, "failed": 1, "skipped": 0}


def test_a_failing_mean_names_artifact_set_and_both_parts_of_the_drop() -> None:
    row = _row(whole=_score(30.0), artifact=_score(29.75), float_tiled=_score(29.875))
    (line,) = failure_lines(check_rows([row], GateLimits(max_drop_db=0.2)))
    for word in ("net", "Set5", "0.2 dB", "0.250 dB", "tiling +0.125", "quantization +0.125"):
        assert word in line


def test_least_psnr_is_judged_on_the_artifacts_own_mean() -> None:
    row = _row(whole=_score(40.0, 40.0), artifact=_score(29.0, 30.0))
    assert failures(check_rows([row], GateLimits(min_psnr_y_db=29.5))) == ()
    (line,) = failure_lines(check_rows([row], GateLimits(min_psnr_y_db=29.75)))
    assert line == "net on Set5: expected a mean PSNR of at least 29.75 dB, got 29.500 dB"


def test_a_passed_check_says_what_was_found_and_no_check_names_its_subject_itself() -> None:
    row = _row(whole=_score(30.0), artifact=_score(29.75))
    held = check_rows([row], GateLimits(max_drop_db=0.5, max_image_drop_db=0.5, min_psnr_y_db=29.5))
    assert [check.message for check in held] == [
        "ran, PSNR 29.75 dB, drop +0.250 dB",
        "a drop of 0.250 dB (tiling 0.000, quantization +0.250), within 0.5 dB",
        "a drop of 0.250 dB on img0, within 0.5 dB",
        "a mean PSNR of 29.750 dB, at least 29.5 dB asked",
    ]
    broken = check_rows([row], GateLimits(max_drop_db=0.1, max_image_drop_db=0.1, min_psnr_y_db=31.0))
    for check in (*held, *broken):
        assert "net" not in check.message
        assert check.message.startswith("expected ") == (check.status == "failed")


def test_what_was_not_asked_is_not_judged() -> None:
    checks = check_rows([_row(whole=_score(40.0), artifact=_score(10.0))], GateLimits())
    assert [(check.name, check.status) for check in checks] == [("runs", "passed")]
    enforce(checks)


@pytest.mark.parametrize("limit", [GateLimits(max_drop_db=9e9), GateLimits(max_image_drop_db=9e9)])
def test_a_score_that_is_no_number_fails_every_limit(limit: GateLimits) -> None:
    row = _row(whole=_score(30.0, 30.0), artifact=_score(30.0, math.nan))
    (failure,) = failures(check_rows([row], limit))
    assert "got nan dB" in failure.message


def test_two_perfect_images_differ_by_nothing() -> None:
    row = _row(whole=_score(math.inf), artifact=_score(math.inf))
    assert failures(check_rows([row], GateLimits(max_drop_db=0.0, max_image_drop_db=0.0))) == ()


def test_an_artifact_that_broke_fails_and_one_that_cannot_run_here_is_skipped() -> None:
    broken = _row("broken", whole=_score(30.0), artifact=None, failed=True, reason="SIGABRT")
    elsewhere = _row("elsewhere", whole=_score(30.0), artifact=None)
    fine = _row("fine", whole=_score(30.0), artifact=_score(30.0))
    checks = check_rows([fine, elsewhere, broken], GateLimits(max_drop_db=0.1))
    assert failure_lines(checks) == ("broken on Set5: expected a score, got none: SIGABRT",)
    (skipped,) = (check for check in checks if check.status == "skipped")
    assert skipped.line == "elsewhere on Set5: needs macOS"


def test_a_gate_that_saw_nothing_fails() -> None:
    elsewhere = _row(whole=_score(30.0), artifact=None)
    (line,) = failure_lines(check_rows([elsewhere], GateLimits(max_drop_db=0.1)))
    assert "nothing to go by" in line
    assert failure_lines(check_rows([elsewhere], GateLimits())) == (), "nothing was asked"


def test_the_worst_failure_comes_first_and_exits_with_three() -> None:
    rows = [_row(f"net{i}", whole=_score(30.0), artifact=_score(30.0 - drop)) for i, drop in enumerate((0.5, 2.0, 1.0))]
    checks = (
        _check(artifact="levels", name="agreement", measured=9.0, limit=2.0, unit="levels"),
        *check_rows(rows, GateLimits(max_drop_db=0.25)),
        _check(artifact="crashed", measured=None),
    )
    assert [check.artifact for check in failures(checks)] == ["crashed", "net1", "net2", "net0", "levels"]
    with pytest.raises(GateError, match=r"^crashed on Set5: too much \(and 4 more\)$") as caught:
        enforce(checks)
    assert caught.value.exit_code == 3


def test_a_gate_that_holds_says_what_it_held_and_what_came_nearest() -> None:
    rows = [
        _row("a", whole=_score(30.0, 32.0), artifact=_score(29.75, 32.0)),
        _row("b", whole=_score(30.0), artifact=_score(30.0)),
        _row("c", whole=_score(30.0), artifact=None),
    ]
    checks = check_rows(rows, GateLimits(max_drop_db=0.5, min_psnr_y_db=29.0))
    # Margins: a 0.5 - 0.125 and 30.875 - 29; b 0.5 and 1.
    assert passed_line(checks) == (
        "gate passed: 6 checks held (runs, mean drop, mean PSNR), 1 skipped; "
        "nearest to its limit: mean drop of a on Set5, 0.125 of 0.5 dB"
    )
    assert passed_line([_check(status="passed")]) == "gate passed: 1 check held (mean drop)"


def test_artifacts_of_one_name_are_told_apart_by_their_folders() -> None:
    one, two = (_row(whole=_score(30.0), artifact=_score(30.0), artifact_path=Path(p) / "net") for p in ("a", "b"))
    assert [check.artifact for check in check_rows([one, two], GateLimits())] == ["a/net", "b/net"]


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.05", True])
def test_a_limit_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="must be a number of dB"):
        GateLimits(max_image_drop_db=value)  # type: ignore[arg-type]


def test_checks_become_plain_json() -> None:
    content = _check(measured=math.inf, limit=1.0).to_json()
    assert (content["measured"], content["limit"], content["set_name"]) == ("inf", 1.0, "Set5")


# --------------------------------------------------------------------------------------------------------------- JUnit
NASTY = 'a<b>&"c"\x00\x1b[31m]]> \ud800 ü模 \u202e'
CASE_CHILDREN = {"skipped", "failure", "error", "system-out", "system-err"}


def _assert_junit(root: ET.Element) -> None:
    """The rules of the schema that the xUnit plugin of Jenkins checks, and what GitLab reads, by hand."""
    assert root.tag == "testsuites"
    assert {child.tag for child in root} <= {"testsuite"}
    for suite in root:
        assert set(suite.attrib) <= {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"}
        assert suite.attrib["name"]
        cases = suite.findall("testcase")
        assert len(cases) == len(list(suite)) == int(suite.attrib["tests"])
        for kind, tag in (("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            assert int(suite.attrib[kind]) == sum(case.find(tag) is not None for case in cases)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
        for case in cases:
            assert case.attrib["name"]
            assert case.attrib["classname"]
            assert set(case.attrib) <= {"name", "classname", "time", "file"}
            assert {child.tag for child in case} <= CASE_CHILDREN
            for failure in case.findall("failure"):
                assert failure.attrib["message"]
                assert failure.attrib["type"]
                assert failure.text


def test_junit_has_a_suite_per_artifact_and_a_case_per_check(tmp_path: Path) -> None:
    checks = [
        _check(artifact="net.v2", message="expected 1, got 2", seconds=1.5, file="a.json"),
        _check(artifact="other", status="skipped", message="needs macOS"),
        _check(artifact="net.v2", name="worst image", status="passed", message="fine", seconds=0.25),
    ]
    path = tmp_path / "gate.xml"
    write_junit(path, checks, created=datetime(2024, 2, 29, 12, 30, tzinfo=UTC))
    root = ET.parse(path).getroot()
    _assert_junit(root)
    assert root.attrib == {
        "name": "edge-sr verify", "tests": "3", "failures": "1", "errors": "0", "skipped": "1", "time": "1.750",
    }  # fmt: skip
    assert [suite.attrib["name"] for suite in root] == ["net.v2", "other"]
    assert root[0].attrib["timestamp"] == "2024-02-29T12:30:00"
    first, second = root[0]
    assert first.attrib == {"name": "mean drop on Set5", "classname": "net_v2", "time": "1.500", "file": "a.json"}
    failure = first.find("failure")
    assert failure is not None
    assert (failure.attrib["message"], failure.text) == ("expected 1, got 2", "expected 1, got 2")
    assert second.findtext("system-out") == "fine"
    (skipped,) = root[1].iter("skipped")
    assert skipped.attrib == {"message": "needs macOS"}
    assert "time" not in root[1].attrib, "no time was taken"


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40) | st.just(NASTY))
def test_any_text_stays_well_formed_and_readable(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("junit") / "gate.xml"
    write_junit(path, [_check(artifact=text, message=f"x{text}", name=f"x{text}", file=text)])
    root = ET.parse(path).getroot()
    _assert_junit(root)
    kept = "".join(c if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd"
                   for c in f"x{text}")  # fmt: skip
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.attrib["message"] == kept


def test_no_checks_are_still_a_junit_file(tmp_path: Path) -> None:
    write_junit(tmp_path / "gate.xml", [])
    root = ET.parse(tmp_path / "gate.xml").getroot()
    _assert_junit(root)
    assert root.attrib["tests"] == "0"


def test_an_earlier_junit_file_is_replaced_and_anything_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "gate.xml"
    write_junit(path, [_check()])
    write_junit(path, [])
    assert ET.parse(path).getroot().attrib["tests"] == "0"
    for content in ("precious", "<html></html>", ""):
        path.write_text(content)
        with pytest.raises(ConfigError, match="with other content"):
            write_junit(path, [])
        assert path.read_text() == content
    with pytest.raises(ConfigError, match="create it first"):
        write_junit(tmp_path / "no" / "gate.xml", [])
    with pytest.raises(ConfigError, match="got the folder"):
        write_junit(tmp_path, [])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["gate.xml"], "no temporary file is left"


# -------------------------------------------------------------------------------------------------------------- GitHub
def test_annotations_are_spelled_as_github_documents() -> None:
    check = _check(artifact="a,b:c", message="100% off\r\nsecond", file="x,y:z.json")
    assert github_annotations([check, _check(status="skipped", set_name=None, message="needs macOS")]) == [
        "::error file=x%2Cy%3Az.json,title=a%2Cb%3Ac on Set5%3A mean drop::100%25 off%0D%0Asecond",
        "::warning title=net%3A mean drop::needs macOS",
        "::notice title=Edge SR gate::0 passed, 1 failed, 1 skipped",
    ]


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30) | st.sampled_from(["\n::set-env name=A::b", "%0A::error::x", NASTY]))
def test_no_text_escapes_its_annotation(text: str) -> None:
    line, notice = github_annotations([_check(artifact=text, message=text)])
    assert not set(line) & {"\n", "\r", "\0", "\x1b"}
    line.encode()  # and it can be printed
    head, _, data = line[2:].partition("::")
    # Decoded as GitHub's runner does (%25 last), the title is what went in.
    title = head.removeprefix("error title=")
    for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        title, data = title.replace(code, character), data.replace(code, character)
    shown = "".join(character if character.isprintable() else "" for character in text)
    assert "".join(c for c in title if c.isprintable() and c != "\ufffd").startswith(shown.replace("\ufffd", ""))
    assert notice.startswith("::notice ")


def test_more_annotations_than_github_shows_end_with_a_count() -> None:
    lines = github_annotations([_check(artifact=f"net{i}", measured=float(i), limit=0.0) for i in range(25)])
    errors = [line for line in lines if line.startswith("::error")]
    assert len(errors) == GITHUB_ANNOTATIONS
    assert "net24 on Set5" in errors[0], "the worst is shown"
    assert "and 16 more" in errors[-1]


def test_markdown_shows_failures_first_and_folds_the_passed_away() -> None:
    checks = [
        _check(status="passed", artifact="good", message="fine"),
        _check(artifact="bad|<b>\n`x`", measured=0.5, limit=0.25, message="too_much"),
    ]
    text = markdown_summary(checks)
    assert text.startswith("## Edge SR gate failed\n\n1 passed, 1 failed\n")
    assert r"| ❌ | bad\|\<b\> \`x\` | Set5 | mean drop | 0.500 dB | 0.25 dB | too\_much |" in text
    assert text.index("bad") < text.index("<details><summary>1 passed</summary>") < text.index("good")


def test_a_huge_summary_is_cut_where_github_would_refuse_it() -> None:
    text = markdown_summary([_check(artifact=f"net{i}", message="é" * 300) for i in range(3000)])
    assert SUMMARY_LIMIT_BYTES * 0.9 < len(text.encode()) <= SUMMARY_LIMIT_BYTES
    assert re.search(r"and \d+ more", text)


def test_step_summaries_are_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("another step\n")
    append_step_summary(path, "ours")
    assert path.read_text() == "another step\nours\n"
    with pytest.raises(ConfigError, match="GITHUB_STEP_SUMMARY"):
        append_step_summary(tmp_path / "no" / "summary.md", "ours")


def test_the_table_lists_failures_first_and_cannot_be_styled_by_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_gate([_check(status="passed", artifact="good"), _check(artifact="[red]bad\x1b[0m")])
    shown = capsys.readouterr().out
    assert shown.index("[red]bad") < shown.index("good")
    assert "\x1b" not in shown
