"""The gate's checks for people and for CI: a table, JUnit XML, GitHub annotations, a Markdown summary."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from apps.destinations import check_destination, write_bytes
from apps.terminal import add_row, new_table, show, styled
from apps.verification.gate import GateCheck, Status, count_statuses, failures
from edge_sr.errors import ConfigError
from edge_sr.foreign_text import one_line

# GitHub shows ten annotations of each kind per step and drops the rest without a word.
GITHUB_ANNOTATIONS = 10
# GitHub refuses a step summary of more than 1 MiB as a whole.
SUMMARY_LIMIT_BYTES = 1024 * 1024
_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
_MARKS: dict[Status, str] = {"passed": "✅", "failed": "❌", "skipped": "⏭️"}
# What XML 1.0 cannot hold, not even escaped; and what would move a terminal's cursor or end an annotation's line.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def print_gate(checks: Sequence[GateCheck]) -> None:
    """What failed, worst first, then what was skipped and what passed, as a table on stdout."""
    table = new_table(
        "gate", "artifact", "set", "check", "measured", "limit", "why", right=(4, 5), names=(1,), prose=(6,)
    )
    for check in _ordered(checks):
        # Of a passed check with two numbers, these say all.
        note = "" if check.margin is not None else check.message
        cells = [check.artifact, check.set_name or "", check.name, *_numbers(check), note]
        add_row(table, styled(check.status, _STYLES[check.status]), *map(one_line, cells))
    show(table)


# --------------------------------------------------------------------------------------------------------------- JUnit
def write_junit(
    path: Path, checks: Sequence[GateCheck], *, name: str = "edge-sr verify", created: datetime | None = None
) -> None:
    """Write JUnit XML as Jenkins and GitLab read it: a suite per artifact, a test case per check.

    A failure's line stands in ``message``, which Jenkins shows, and as text, which GitLab shows. The file appears whole
    or not at all; an existing JUnit file is replaced. See :func:`check_junit_target`.

    Args:
        path: the file.
        checks: all of them, in the order to be kept within each artifact.
        name: of the whole run.
        created: when, for the suites; default now.
    Raises:
        ConfigError: the folder is missing, the file exists and is no JUnit XML, or it cannot be written.
    """
    check_junit_target(path)
    stamp = (created or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    root = ET.Element("testsuites", _totals(name, checks))
    for artifact in dict.fromkeys(check.artifact for check in checks):
        own = [check for check in checks if check.artifact == artifact]
        suite = ET.SubElement(root, "testsuite", {**_totals(artifact or name, own), "timestamp": stamp})
        for check in own:
            _add_case(suite, check, name)
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    try:
        write_bytes(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode())
    except OSError as error:
        raise ConfigError(f"expected to write {path}, got {error.strerror}, choose another place") from None


def check_junit_target(path: Path) -> None:
    """Refuse, before any work is done, a path that would destroy something else than an earlier JUnit file.

    Raises:
        ConfigError: the folder is missing, the path exists and holds something else, or it cannot be written.
    """
    check_destination(path, "--junit", is_own=_is_junit)


def _is_junit(path: Path) -> bool:
    try:
        _, root = next(ET.iterparse(path, events=("start",)))
    except (OSError, ET.ParseError, StopIteration):
        return False
    return isinstance(root, ET.Element) and root.tag in ("testsuites", "testsuite")


def _totals(name: str, checks: Sequence[GateCheck]) -> dict[str, str]:
    counts = count_statuses(checks)
    totals = {"name": _xml(name), "tests": str(len(checks)), "failures": str(counts["failed"]), "errors": "0"}
    totals["skipped"] = str(counts["skipped"])
    known = [check.seconds for check in checks if check.seconds is not None]
    # No time is written where none was taken: a zero would be read as a measurement.
    return totals | ({"time": f"{sum(known):.3f}"} if known else {})


def _add_case(suite: ET.Element, check: GateCheck, name: str) -> None:
    title = check.name if check.set_name is None else f"{check.name} on {check.set_name}"
    # Jenkins takes what stands before the last dot of a class name for its package.
    case = ET.SubElement(
        suite, "testcase", {"classname": _xml((check.artifact or name).replace(".", "_")), "name": _xml(title)}
    )
    if check.seconds is not None:
        case.set("time", f"{check.seconds:.3f}")
    if check.file is not None:
        case.set("file", _xml(check.file))
    if check.status == "failed":
        failure = ET.SubElement(case, "failure", {"message": _xml(check.message), "type": "gate"})
        failure.text = _xml(check.message)
    elif check.status == "skipped":
        ET.SubElement(case, "skipped", {"message": _xml(check.message)}).text = _xml(check.message)
    else:
        ET.SubElement(case, "system-out").text = _xml(check.message)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


# -------------------------------------------------------------------------------------------------------------- GitHub
def github_annotations(checks: Sequence[GateCheck]) -> list[str]:
    """Workflow commands, one a line, to be printed on stdout: errors worst first, warnings for skips, one summary.

    GitHub shows ten of a kind; where there are more, the tenth says how many are left out.
    """
    failed = [_annotation("error", check) for check in failures(checks)]
    skipped = [_annotation("warning", check) for check in checks if check.status == "skipped"]
    counts = count_statuses(checks)
    summary = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    notice = f"::notice title={_property('Edge SR gate')}::{_data(summary)}"
    return [*_shown("error", failed), *_shown("warning", skipped), notice]


def _shown(kind: str, lines: list[str]) -> list[str]:
    if len(lines) <= GITHUB_ANNOTATIONS:
        return lines
    kept = lines[: GITHUB_ANNOTATIONS - 1]
    rest = f"and {len(lines) - len(kept)} more; the step summary and the log list them all"
    return [*kept, f"::{kind} title={_property('Edge SR gate')}::{_data(rest)}"]


def _annotation(kind: str, check: GateCheck) -> str:
    title = ": ".join(part for part in (check.subject, check.name) if part)
    file = "" if check.file is None else f"file={_property(check.file)},"
    return f"::{kind} {file}title={_property(title)}::{_data(check.message)}"


def _data(text: str) -> str:
    """Escaped as the text of a workflow command; percent first, or it would escape the escapes."""
    text = _CONTROL.sub(lambda found: found.group() if found.group() in "\r\n" else "\ufffd", text)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


# ------------------------------------------------------------------------------------------------------------ Markdown
def markdown_summary(checks: Sequence[GateCheck], *, title: str = "Edge SR gate") -> str:
    """A summary for ``$GITHUB_STEP_SUMMARY``: the verdict, what failed and was skipped, the rest folded away.

    At most 1 MiB, which is what GitHub takes; rows that do not fit are counted instead.
    """
    counts = count_statuses(checks)
    verdict = "failed" if counts["failed"] else "passed" if counts["passed"] else "saw nothing"
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no checks"
    head = f"## {_cell(title)} {verdict}\n\n{said}\n"
    notable = [check for check in _ordered(checks) if check.status != "passed"]
    passed = [check for check in checks if check.status == "passed"]
    room = SUMMARY_LIMIT_BYTES - len(head.encode()) - 4096
    loud = _markdown_table(notable, room)
    quiet = _markdown_table(passed, room - len(loud.encode()))
    folded = f"\n<details><summary>{len(passed)} passed</summary>\n\n{quiet}\n</details>\n" if passed else ""
    return head + (f"\n{loud}" if notable else "") + folded


def append_step_summary(path: Path, text: str) -> None:
    """Append Markdown to the file that ``$GITHUB_STEP_SUMMARY`` names; steps share it, so it is never replaced.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        raise ConfigError(f"expected to append to {path}, got {error.strerror}, check GITHUB_STEP_SUMMARY") from None


def _markdown_table(checks: Sequence[GateCheck], room_bytes: int) -> str:
    lines = ["|  | artifact | set | check | measured | limit | |", "|---|---|---|---|---:|---:|---|"]
    room_bytes -= sum(len(line) + 1 for line in lines)
    for index, check in enumerate(checks):
        cells = [check.artifact, check.set_name or "", check.name, *_numbers(check), check.message]
        line = f"| {_MARKS[check.status]} | " + " | ".join(_cell(cell) for cell in cells) + " |"
        room_bytes -= len(line.encode()) + 1
        if room_bytes < 0:
            return "\n".join(lines) + f"\n\n… and {len(checks) - index} more\n"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", one_line(text)).replace("&", "&amp;")


def _numbers(check: GateCheck) -> tuple[str, str]:
    measured = "" if check.measured is None else f"{check.measured:.3f} {check.unit}".strip()
    return measured, "" if check.limit is None else f"{check.limit:g} {check.unit}".strip()


def _ordered(checks: Sequence[GateCheck]) -> list[GateCheck]:
    """Failures worst first, then skipped, then passed."""
    rest = [check for status in ("skipped", "passed") for check in checks if check.status == status]
    return [*failures(checks), *rest]
