"""A stream that is closed, narrow, full or read by nobody gives no traceback, and the work is done all the same."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest

import apps.progress
from apps.progress import LogLines
from edge_sr.quiet import quiet_native

# What a command does: results are printed, a line on stderr, and a file is written last.
_COMMAND = """
import sys
from pathlib import Path
from apps.progress import LogLines
from apps.streams import prepare_streams, say_aside
from apps.terminal import add_row, new_table, say, show
prepare_streams()
with Path(sys.argv[1]).open("w") as file:
    for number in range(int(sys.argv[2])):
        table = new_table("name")
        add_row(table, "é → \\udcff")
        show(table)
        say(f"line {number} – \\udcff")
        LogLines(sys.stderr)(f"progress {number} é", 1, 1)
        say_aside(f"aside {number} é")
    file.write("whole")
"""


def _run(
    tmp_path: Path, shell: str, *, lines: int = 1, environment: dict[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[bytes], str]:
    """``shell`` has ``$RUN`` for the command; returns how it ended, and what the command's file holds."""
    script, file = tmp_path / "command.py", tmp_path / "file"
    script.write_text(_COMMAND, encoding="utf-8")
    run = f"'{sys.executable}' '{script}' '{file}' {lines}"
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **(environment or {})}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell.replace("$RUN", run)], capture_output=True, check=False, env=variables
    )
    return done, file.read_text()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_leads_nowhere(tmp_path: Path, redirection: str) -> None:
    done, file = _run(tmp_path, f"$RUN {redirection}")
    assert (done.returncode, file) == (0, "whole")  # no line of a stream went into the file either
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_an_encoding_lacks_is_spelled(tmp_path: Path, encoding: str) -> None:
    done, file = _run(tmp_path, "$RUN", environment={"PYTHONIOENCODING": encoding})
    assert (done.returncode, file) == (0, "whole")
    line = "line 0 – \\udcff\n".encode(encoding, "backslashreplace")
    assert line in done.stdout
    assert "progress 0 é".encode(encoding, "backslashreplace") in done.stderr


def test_a_locale_without_an_encoding_is_no_error(tmp_path: Path) -> None:
    done, file = _run(tmp_path, "$RUN", environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert (done.returncode, file) == (0, "whole")


@pytest.mark.parametrize("pipe", ["| head -n 1", "2>&1 >/dev/null | head -n 1", "2>&1 | head -n 1"])
def test_a_reader_that_goes_away_does_not_end_the_work(tmp_path: Path, pipe: str) -> None:
    done, file = _run(tmp_path, f"$RUN {pipe}", lines=300)
    assert (done.returncode, file) == (0, "whole")
    assert len(done.stdout.splitlines()) == 1
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_the_time_left_is_reckoned_from_what_was_done_since_the_first_report(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    report = LogLines(stream)
    report("run", 500, 1000)  # a run taken up again: nothing is known yet of its speed
    for seconds, done in ((31, 500), (62, 500.5), (93, 510), (300, 1000)):
        now = 1000.0 + seconds
        report("run", done, 1000)
    assert stream.getvalue().splitlines() == [
        "run: 500/1000 (31 s)",
        "run: 500/1000 (62 s, 17.2 h left)",
        "run: 510/1000 (93 s, 76 min left)",
        "run: 1000/1000 (300 s)",
    ]


def test_what_is_quiet_is_quiet_under_a_progress_bar_too(capfd: pytest.CaptureFixture[str]) -> None:
    bar = io.StringIO()  # as a bar puts itself in the place of sys.stderr
    with redirect_stderr(bar):
        with quiet_native():
            logging.getLogger("toolchain").warning("noise of Python")
            os.write(2, b"noise of C++")
        print("a line", file=sys.stderr)
    assert bar.getvalue() == "a line\n"
    assert "noise" not in capfd.readouterr().err


@pytest.mark.parametrize("width", [80, 120])
def test_counts_and_times_of_a_bar_stay_whole_in_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with apps.progress._bars(stream) as report:
        report("Hexagon v73+, emulated: idsa_net_mobile_x4_w8a8_qnn_64x64 on samples", 2.5, 5, "a detail " * 9)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    (line, *_) = [text for text in re.split(r"[\r\n]+", shown) if "2/5" in text]
    assert re.search(r"Hexagon v73\+, .*… .* 2/5 0:00:00 -:--:-- *$", line), line
    assert len(line) <= width
