"""Snapshots and the run's folder: what damage, a full disk, a second process or a wrong place do to a run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import full_disk

from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.training.run_folder import RunLock, check_writable, read_json_object, repaired_log
from edge_sr.training.snapshots import (
    checked_step,
    load_snapshot,
    previous_snapshot,
    remove_snapshots,
    save_snapshot,
)


def state(step: Any) -> dict[str, Any]:
    return {"step": step, "weights": torch.arange(6.0) + (step if type(step) is int and step < 100 else 0)}


def load(path: Path, said: list[str] | None = None, steps: int = 100) -> dict[str, Any] | None:
    lines: list[str] = [] if said is None else said
    loaded = load_snapshot(path, "cpu", steps=steps, warn=lines.append)
    assert said is not None or lines == []
    return loaded


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def one_line(caught: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.pt"


def test_a_snapshot_comes_back_and_the_one_before_is_kept(path: Path) -> None:
    assert load(path) is None
    for step in (1, 2, 3):
        save_snapshot(path, state(step))
    loaded = load(path)
    assert loaded is not None
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"], torch.arange(6.0) + 3)
    assert sorted(file.name for file in path.parent.iterdir()) == ["snapshot.previous.pt", "snapshot.pt"]
    before = load(previous_snapshot(path))
    assert before is not None
    assert before["step"] == 2
    remove_snapshots(path)
    assert not list(path.parent.iterdir())


def test_one_flipped_bit_anywhere_is_found(path: Path) -> None:
    save_snapshot(path, {"step": 1})
    whole = path.read_bytes()
    for position in range(len(whole)):
        flip(path, position, bit=position % 8)
        with pytest.raises(CheckpointError, match="expected a whole snapshot"):
            load(path)
        path.write_bytes(whole)
    for length in (0, 1, 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)


@pytest.mark.parametrize("fault", ["flipped", "empty", "missing", "folder"])
def test_the_snapshot_before_is_taken_where_the_last_is_unusable_and_that_is_said(path: Path, fault: str) -> None:
    save_snapshot(path, state(1))
    save_snapshot(path, state(2))
    if fault == "flipped":
        flip(path, 500)
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if fault == "folder":
            path.mkdir()
    said: list[str] = []
    loaded = load(path, said)
    assert loaded is not None
    assert loaded["step"] == 1
    (line,) = said
    assert str(path) in line
    assert "going on from the one before" in line
    assert "\n" not in line


def test_a_damaged_snapshot_never_pushes_out_the_whole_one_before_it(path: Path) -> None:
    save_snapshot(path, state(1))
    save_snapshot(path, state(2))
    flip(path, 500)
    save_snapshot(path, state(3))
    flip(path, 500)
    loaded = load(path, [])
    assert loaded is not None
    assert loaded["step"] == 1


def test_two_damaged_snapshots_are_one_line_that_names_both(path: Path) -> None:
    save_snapshot(path, state(1))
    save_snapshot(path, state(2))
    flip(path, 500)
    flip(previous_snapshot(path), 500)
    with pytest.raises(CheckpointError, match=r"snapshot\.pt is damaged.*snapshot\.previous\.pt is damaged") as caught:
        load(path)
    assert one_line(caught)


def test_a_snapshot_without_a_checksum_is_refused(path: Path) -> None:
    torch.save(state(1), path)
    with pytest.raises(CheckpointError, match=r"no checksum \(an older version wrote it\); delete to start") as caught:
        load(path)
    assert one_line(caught)


def test_a_snapshot_of_something_else_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_snapshot(path, {"step": 1, "path": path})  # a class, which weights_only does not unpickle
    with pytest.raises(CheckpointError, match="expected a snapshot of this version") as caught:
        load(path)
    assert one_line(caught)
    monkeypatch.setattr(torch, "load", lambda *_, **__: [1])
    with pytest.raises(CheckpointError, match="named values, got list"):
        load(path)


@pytest.mark.parametrize("step", [-1, True, 1.0, "1", None, 101, 10**9, torch.tensor(1)])
def test_a_step_that_is_none_of_the_runs_is_refused(path: Path, step: Any) -> None:
    save_snapshot(path, state(step))
    with pytest.raises(CheckpointError, match=r"expected a snapshot at a step of 0\.\.100") as caught:
        load(path)
    assert one_line(caught)
    with pytest.raises(CheckpointError):
        checked_step({}, 100, path)
    assert [checked_step({"step": good}, 100, path) for good in (0, 100)] == [0, 100]


def test_a_full_disk_leaves_both_snapshots_and_nothing_else(path: Path) -> None:
    save_snapshot(path, state(1))
    save_snapshot(path, state(2))
    kept = [file.read_bytes() for file in (path, previous_snapshot(path))]
    with (
        full_disk(4096),
        pytest.raises(CheckpointError, match=r"expected to write .*snapshot\.pt.*make room") as caught,
    ):
        save_snapshot(path, {"step": 3, "weights": torch.zeros(10_000)})
    assert one_line(caught)
    assert [file.read_bytes() for file in (path, previous_snapshot(path))] == kept
    assert len(list(path.parent.iterdir())) == 2


def test_what_a_killed_process_left_half_written_is_removed(path: Path) -> None:
    left = path.parent / ".edge-sr-0a1b2c3d4e5f"
    left.mkdir()
    (left / path.name).write_bytes(b"half")
    save_snapshot(path, state(1))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_kill_between_the_two_renames_loses_no_snapshot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_snapshot(path, state(1))
    rename, done = os.replace, []

    def once(source: Path, target: Path) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", once)
        with pytest.raises(KeyboardInterrupt):
            save_snapshot(path, state(2))
    loaded = load(path, [])
    assert loaded is not None
    assert loaded["step"] == 1


LOCKED = """
import sys, time
from pathlib import Path
from edge_sr.training.run_folder import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_belongs_to_one_process_until_that_dies_however_it_dies(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", LOCKED, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match=rf"process {holder.pid} on ") as caught, RunLock(folder):
                pass
            assert one_line(caught)
        finally:
            holder.kill()
        holder.wait()
        assert (folder / "lock").exists()  # a killed process cleans nothing up
        with RunLock(folder):
            assert (folder / "lock").read_text().startswith(f"{os.getpid()} ")
    assert not (folder / "lock").exists()


def test_a_folder_is_claimed_once_within_one_process_too_and_free_after(tmp_path: Path) -> None:
    with (
        RunLock(tmp_path),
        RunLock(tmp_path, name="other.lock"),
        pytest.raises(ConfigError, match=str(os.getpid())),
        RunLock(tmp_path),
    ):
        pass
    with RunLock(tmp_path):
        pass


def test_a_lock_can_be_waited_for_and_that_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    first = RunLock(tmp_path)
    first.__enter__()

    def told(line: str) -> None:
        said.append(line)
        first.__exit__()

    with RunLock(tmp_path, wait=told):
        assert said == [f"waiting for process {os.getpid()} on {socket.gethostname()}, which works in {tmp_path}"]
        with pytest.raises(ConfigError), RunLock(tmp_path):
            pass


def test_a_lock_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder removes its file on leaving: a lock on that file would keep nobody out."""
    fcntl = pytest.importorskip("fcntl")
    real, removed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append((tmp_path / "lock").unlink())
        real(descriptor, operation)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock)
        lock = RunLock(tmp_path)
        lock.__enter__()
    with pytest.raises(ConfigError), RunLock(tmp_path):
        pass
    lock.__exit__()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(CheckpointError, match="expected to lock") as caught, RunLock(tmp_path):
        pass
    assert one_line(caught)
    with full_disk(0), pytest.raises(CheckpointError, match="expected to lock"), RunLock(tmp_path, "other"):
        pass
    with RunLock(tmp_path, "other"):
        pass


def test_a_log_keeps_whole_lines_up_to_the_snapshots_step(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    whole = b'{"step": 10, "psnr": 30.5}\n{"step":20}\n'
    damaged = [b'{"step": 15, "ps\n', b"\xff\xfe\x00\n", b"[1]\n", b"3\n", b'{"step": "4"}\n', b'{"step": true}\n']
    damaged += [b'{"psnr": 1}\n', b'{"step": -1}\n', b"[" * 100_000 + b"\n", b'{"step": 2']
    log.write_bytes(whole + b'{"step": 30}\n\n' + b"".join(damaged))
    assert repaired_log(log, 20) == ([{"step": 10, "psnr": 30.5}, {"step": 20}], len(damaged))
    assert log.read_bytes() == whole
    assert repaired_log(log, 20) == ([{"step": 10, "psnr": 30.5}, {"step": 20}], 0)
    assert repaired_log(tmp_path / "none", 20) == ([], 0)
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_last_line_without_its_newline_does_not_grow_together_with_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 10}')
    assert repaired_log(log, 20) == ([{"step": 10}], 0)
    assert log.read_text() == '{"step": 10}\n'


def test_a_log_that_cannot_be_read_or_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(CheckpointError, match="expected to mend") as caught:
        repaired_log(tmp_path / "log.jsonl", 3)
    assert one_line(caught)


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", folder=True)
    assert not list((tmp_path / "a" / "b").iterdir())
    file = tmp_path / "c" / "out.safetensors"
    check_writable(file)
    assert not list(file.parent.iterdir())
    file.write_text("kept")
    check_writable(file)
    assert file.read_text() == "kept"


def test_a_place_that_cannot_be_written_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    cases = [
        (tmp_path / "file", True),
        (tmp_path / "file" / "below", True),
        (tmp_path / "file" / "out.safetensors", False),
        (tmp_path / "folder", False),
        (Path("/proc/none/out.safetensors"), False),  # a file system that takes no files
        (Path("/proc/none"), True),
    ]
    for path, folder in cases:
        with pytest.raises(CheckpointError, match="expected a ") as caught:
            check_writable(path, folder=folder)
        assert one_line(caught)
        assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named_before_training(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        for path, folder in ((tmp_path, True), (tmp_path / "new", True), (tmp_path / "out.safetensors", False)):
            with pytest.raises(CheckpointError, match="Permission denied"):
                check_writable(path, folder=folder)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_found_before_training(tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(CheckpointError, match="can be written"):
        check_writable(tmp_path, folder=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_one_line_with_its_cure(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"expected a JSON object, got .*config\.json.*; ") as caught:
        read_json_object(path)
    assert one_line(caught)


def test_json_that_is_whole_comes_back_and_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_json_object(path)
    path.write_text('{"a": [1]}')
    assert read_json_object(path) == {"a": [1]}
