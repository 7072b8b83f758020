"""Files that commands write are tried before the work; results are shown first; pipes stay what they are."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
from full_disk import full_disk

import apps.results
from apps.cli import main
from apps.destinations import check_destination, check_folder, is_stdout, write_bytes
from edge_sr.errors import ConfigError

# The kernel takes no files here, from anyone: root's permissions do not help, as on a read-only disk.
NOWHERE = Path("/proc")

pytestmark = pytest.mark.skipif(not NOWHERE.is_dir(), reason="needs a folder that nobody can write to")


# -------------------------------------------------------------------------------------------------------------- trials
def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    check_destination(tmp_path / "new", "--json")
    check_destination(tmp_path / "old", "--json", is_own=lambda path: True)
    check_folder(tmp_path / "deep" / "er", "--out")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


def test_a_place_that_cannot_be_written_is_named_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    wrong = {
        NOWHERE / "x": "expected to write --json /proc/x, got",
        tmp_path: "got the folder",
        tmp_path / "no" / "x": "create it first",
        tmp_path / "file": "with other content",
    }
    for path, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            check_destination(path, "--json", is_own=lambda path: False)
    for folder, message in (
        (NOWHERE / "x" / "y", "expected to write --out"),
        (tmp_path / "file" / "x", "got the file"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_folder(folder, "--out")


def test_a_full_disk_is_met_before_the_work(tmp_path: Path) -> None:
    with full_disk(1024), pytest.raises(ConfigError, match="make room"):
        check_destination(tmp_path / "x", "--json")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_neither_opened_on_trial_nor_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_destination(pipe, "--json", is_own=lambda path: pytest.fail("a pipe was read"))
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"result")
    reader.join(timeout=30)
    assert got == [b"result"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# ------------------------------------------------------------------------------------------------------ standard output
@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_result_on_stdout_stands_there_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    assert main(["models", "--json", name]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["kind"] == "edge-sr/models"
    assert "idsa_net_mobile" in err
    assert sys.stdout is before
    assert not Path("-").exists()


def test_only_names_of_stdout_mean_it() -> None:
    assert all(map(is_stdout, map(Path, ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"))))
    assert not any(map(is_stdout, map(Path, ("./x", "-x", "/dev/null", "/dev/stderr"))))


# ------------------------------------------------------------------------------------------------------------ commands
COMMANDS = {
    "export": ["export", "--out", "OUT"],
    "verify": ["verify", "ABSENT"],
    "profile": ["profile", "ABSENT"],
    "layers": ["layers", "ABSENT"],
    "roofline": ["roofline", "ABSENT"],
    "plan": ["plan", "ABSENT", "--image", "8x8"],
    "demo": ["demo", "--out", "OUT"],
    "train": ["train", "--out", "OUT", "--data", "ABSENT"],
    "qat": ["qat", "--checkpoint", "ABSENT", "--out", "OUT"],
    "sensitivity": ["sensitivity", "--data", "ABSENT"],
    "lint": ["lint", "ABSENT"],
    "diff": ["diff", "ABSENT", "ABSENT"],
    "history": ["history"],
    "compare": ["compare", "a", "b"],
    "models": ["models"],
    "doctor": ["doctor"],
}
OPTIONS = [(name, "--json", "x.json") for name in COMMANDS]
OPTIONS += [(name, "--figure", "x.png") for name in ("layers", "roofline", "lint", "history", "compare")]
OPTIONS += [("verify", "--junit", "x.xml"), ("history", "--export", "x.jsonl")]
OPTIONS += [(name, "--history", "x.sqlite3") for name in ("verify", "profile")]


@pytest.mark.parametrize(("command", "option", "name"), OPTIONS)
def test_every_file_is_tried_before_the_work(
    command: str, option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"OUT": str(tmp_path / "out"), "ABSENT": str(tmp_path / "absent")}
    words = [places.get(word, word) for word in COMMANDS[command]]
    assert main([*words, option, str(NOWHERE / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: expected to write {option} /proc/{name}, got")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["export", "demo", "train", "qat", "sensitivity", "verify"])
def test_every_folder_is_tried_before_the_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "export": ["export"],
        "demo": ["demo"],
        "train": ["train", "--data", str(tmp_path / "absent")],
        "qat": ["qat", "--checkpoint", str(tmp_path / "absent")],
        "sensitivity": ["sensitivity", "--data", str(tmp_path / "absent")],
        "verify": ["verify", str(tmp_path / "absent"), "--full"],
    }[command]
    assert main([*words, "--out", str(NOWHERE / "x" / "y")]) == 2
    assert "error: expected to write --out /proc/x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [("layers", "--figure", "x.png"), ("verify", "--junit", "x.xml"), ("history", "--export", "x.jsonl")],
)
def test_a_file_of_somebody_else_is_kept(
    command: str, option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine\n")
    words = [word.replace("ABSENT", str(tmp_path / "absent")) for word in COMMANDS[command]]
    assert main([*words, option, str(tmp_path / name)]) == 2
    assert f"an earlier result for {option}" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine\n"


def test_a_result_that_cannot_be_written_in_the_end_has_been_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(apps.results, "write_json", full)
    assert main(["models", "--json", str(tmp_path / "x.json")]) == 2
    out, err = capsys.readouterr()
    assert "idsa_net_mobile" in out
    assert "No space left" in err
