"""Ctrl-C and SIGTERM, whenever they come: one line, the right status, no file half written and no child left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from edge_sr import signals
from edge_sr.signals import ended_like_interrupted, interrupted_status
from edge_sr.training.interrupts import interrupts_between_steps

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
both = pytest.mark.parametrize("number", STATUS)


@contextmanager
def started(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process in a session of its own, all of which is gone at the end."""
    with subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def left_of(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


# -------------------------------------------------------------------------------------------------- whole command lines
# Tells when the first module behind the entry is looked for, and goes on.
IN_AN_IMPORT = """
import sys
class Teller:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            print("ready", flush=True)
sys.meta_path.insert(0, Teller())
import apps.__main__
sys.exit(apps.__main__.main(["models"]))
"""


@both
@pytest.mark.parametrize("delay_s", [0.0, 0.1])
@pytest.mark.parametrize("module", ["apps.cli", "typer"])
def test_a_signal_while_modules_are_imported_is_one_line(number: signal.Signals, delay_s: float, module: str) -> None:
    with started("-c", IN_AN_IMPORT, module) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert errors.count("\n") == 1, errors
    assert errors.startswith("error: interrupted")
    assert process.returncode == STATUS[number]


@pytest.mark.slow
def test_a_command_at_work_ends_with_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for seed in range(24):
        pixels = np.random.default_rng(seed).integers(0, 256, (208, 208, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{seed}.png")
    words = ("-m", "apps", "train", "--data", photos, "--out", run, "--cache", tmp_path / "cache", "--steps", "100000")
    with started(*words) as process:
        while not (run / "config.json").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        for _ in range(2):  # as timeout(1) sends them
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert f"interrupted; the same command goes on from {run}" in errors
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".edge-sr-") or path.name == "lock"]
    assert left_of(process.pid) == []


CHILD = """
import sys
from converters.isolation import Child
from edge_sr.atomic import atomic_path
from edge_sr.signals import ended_like_interrupted, interrupted_status
from pathlib import Path
try:
    with ended_like_interrupted(), atomic_path(Path(sys.argv[1])) as temporary, Child(what="a child") as child:
        temporary.write_bytes(b"half")
        child.ask({"do": "call", "function": "converters.isolation_child:ping", "arguments": {}}, timeout_s=60)
        print(child._process.pid, flush=True)
        child.ask({"do": "call", "function": "signal:pause", "arguments": {}}, timeout_s=300)
except KeyboardInterrupt:
    sys.exit(interrupted_status())
"""


def test_a_child_at_work_ends_with_its_parent_and_what_was_half_written_goes(tmp_path: Path) -> None:
    with started("-c", CHILD, tmp_path / "file") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert psutil.pid_exists(child)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert not psutil.pid_exists(child)
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import time
from apps.scripting import run_script
def main():
    print("ready", flush=True)
    time.sleep(300)
run_script(main)
"""


@both
def test_a_script_ends_with_one_line_and_the_signals_status(number: signal.Signals) -> None:
    with started("-c", SCRIPT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (STATUS[number], "interrupted\n")


# ------------------------------------------------------------------------------------------------------------- handlers
@contextmanager
def handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STATUS}
    try:
        yield
    finally:
        assert {number: signal.getsignal(number) for number in STATUS} == before


def test_sigterm_raises_where_the_block_is_and_the_status_remembers_it() -> None:
    def wait() -> None:
        with ended_like_interrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with handlers_kept(), pytest.raises(KeyboardInterrupt):
        wait()
    assert interrupted_status() == 143
    with ended_like_interrupted():
        assert interrupted_status() == 130, "another run of the same process"


def test_two_that_come_together_are_one_and_a_later_one_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock[0])
    with handlers_kept(), ended_like_interrupted():
        for later, raises in ((0.0, True), (0.3, False), (5.0, True)):
            clock[0] += later
            raised = False
            try:
                signals.interrupt(signal.SIGTERM, None)
            except KeyboardInterrupt:
                raised = True
            assert raised is raises, later


@both
def test_neither_comes_in_the_middle_of_a_step(number: signal.Signals) -> None:
    steps: list[str] = []

    def train() -> None:
        with interrupts_between_steps() as interrupt_if_asked:
            for _ in range(2):
                steps.append("begun")
                os.kill(os.getpid(), number)
                time.sleep(0.01)
                steps.append("done")
                interrupt_if_asked()

    with handlers_kept(), ended_like_interrupted(), pytest.raises(KeyboardInterrupt):
        train()
    assert steps == ["begun", "done"]
    assert interrupted_status() == STATUS[number]


def test_a_handler_of_someone_elses_stays_theirs() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with handlers_kept(), ended_like_interrupted(), interrupts_between_steps():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


FORK = """
import json, os, signal, time
from edge_sr.signals import ended_like_interrupted
with ended_like_interrupted():
    child = os.fork()
    if child == 0:
        time.sleep(300)
        os._exit(1)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


def test_a_forked_child_ends_by_sigterm_as_its_parent_wants() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=True)
    assert (json.loads(done.stdout), done.stderr) == (-signal.SIGTERM, "")
