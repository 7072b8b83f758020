"""Files and folders appear whole or not at all, with several processes at once and with processes that are killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import process

from edge_sr import atomic_folder
from edge_sr.atomic import ASIDE, atomic_path, folder_lock, made_folder, scratch_folder
from edge_sr.atomic_folder import place_folder, place_new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("name", ["x" * 255, "超" * 80 + ".png", "a\nb", ".hidden", "-o", "𐍈" * 63])
def test_every_name_that_the_file_system_takes_can_be_written(tmp_path: Path, name: str) -> None:
    for content in (b"first", b"second"):
        with atomic_path(tmp_path / name) as temporary:
            assert not temporary.exists()
            temporary.write_bytes(content)
        assert (tmp_path / name).read_bytes() == content
    assert names(tmp_path) == [name]


def test_nothing_is_seen_before_the_block_ends_and_nothing_is_left_where_it_raises(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"new")
            assert target.read_bytes() == b"old"
            raise RuntimeError("half written")

    with pytest.raises(RuntimeError, match="half"):
        write_half()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_the_file_it_leads_to_is_written(tmp_path: Path, exists: bool) -> None:
    real = tmp_path / "disk" / "photo.png"
    real.parent.mkdir()
    if exists:
        real.write_bytes(b"old")
    (tmp_path / "middle").symlink_to(real)
    link = tmp_path / "link.png"
    link.symlink_to("middle")
    with atomic_path(link) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent.parent == real.parent, "a rename must not cross file systems"
    assert link.is_symlink()
    assert not real.is_symlink()
    assert real.read_bytes() == b"new"
    assert names(tmp_path) == ["disk", "link.png", "middle"]


def test_a_link_to_itself_a_pipe_and_a_device_are_refused_and_stay(tmp_path: Path) -> None:
    loop, pipe = tmp_path / "loop", tmp_path / "pipe"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for target in (loop, pipe, Path(os.devnull)):
        with pytest.raises(OSError, match="expected a file") as caught, atomic_path(target):
            pytest.fail("nothing can be written there")
        assert caught.value.filename == str(target)
    assert loop.is_symlink()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["loop", "pipe"]


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


HALF = """
import sys
from pathlib import Path
from edge_sr.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_with_the_next_write_and_a_living_ones_stays(tmp_path: Path) -> None:
    with process(HALF, tmp_path / "one") as living:
        with process(HALF, tmp_path / "two") as killed:
            killed.kill()
            killed.wait()
        assert len(names(tmp_path)) == 2
        with atomic_path(tmp_path / "three") as temporary:
            temporary.write_bytes(b"whole")
        assert len(names(tmp_path)) == 2, "the living one's folder and the file"
        living.communicate(timeout=60)
    assert names(tmp_path) == ["one", "three"]
    assert (tmp_path / "one").read_bytes() == b"half", "its own block ended well"


def test_folders_of_other_names_and_links_are_no_leftovers(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "photo").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    for name in (".edge-sr", ".edge-sr-0123456789ABCDEF", ".git", "edge-sr-0123456789ab"):
        (out / name).mkdir()
    (out / ".edge-sr-0123456789ab").symlink_to(elsewhere)
    (out / ".edge-sr-0123456789ac").write_bytes(b"a file")
    before = names(out)
    with scratch_folder(out):
        pass
    assert names(out) == before
    assert names(elsewhere) == ["photo"]


# ------------------------------------------------------------------------------------------------------------- folders
def folder_of(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "content").write_text(content)
    return path


def test_a_new_folder_takes_a_free_name_only(tmp_path: Path) -> None:
    target = tmp_path / "target"
    place_new_folder(folder_of(tmp_path / "one", "1"), target)
    with pytest.raises(FileExistsError, match="it exists"):
        place_new_folder(folder_of(tmp_path / "two", "2"), target)
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="it exists"):
        place_new_folder(tmp_path / "two", tmp_path / "file")
    assert (target / "content").read_text() == "1"
    assert (tmp_path / "file").read_bytes() == b"precious"
    with pytest.raises(FileNotFoundError):
        place_new_folder(tmp_path / "none", tmp_path / "free")


Exchange = Callable[[pytest.MonkeyPatch], None]


def as_the_system_does(patch: pytest.MonkeyPatch) -> None:
    pass


def without_a_call(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(atomic_folder, "_system_call", lambda: None)


def file_system_that_cannot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(atomic_folder, "_RENAME_EXCHANGE", 1 << 30)  # EINVAL, as file systems without it say
    patch.setattr(atomic_folder, "_RENAME_SWAP", 1 << 30)


@pytest.mark.parametrize("system", [as_the_system_does, without_a_call, file_system_that_cannot])
def test_a_folder_takes_the_name_of_another_and_nothing_else_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: Exchange
) -> None:
    system(monkeypatch)
    target = tmp_path / "target"
    for content in ("first", "second", "third"):
        with scratch_folder(tmp_path) as scratch:
            place_folder(folder_of(scratch / "new", content), target)
        assert (target / "content").read_text() == content
        assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("kind", ["file", "link to a file", "dangling link"])
def test_what_is_no_folder_is_not_replaced_by_one(tmp_path: Path, kind: str) -> None:
    target, fresh = tmp_path / "target", folder_of(tmp_path / "new", "new")
    (tmp_path / "file").write_bytes(b"precious")
    match kind:
        case "file":
            target.write_bytes(b"precious")
        case "link to a file":
            target.symlink_to(tmp_path / "file")
        case _:
            target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"directory|exists"):
        place_folder(fresh, target)
    assert (fresh / "content").read_text() == "new"
    assert target.is_symlink() or target.read_bytes() == b"precious"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="Windows cannot exchange two names")
def test_this_system_exchanges_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("two renames")

    monkeypatch.setattr(atomic_folder, "_move_aside", refuse)
    folder_of(tmp_path / "target", "old")
    place_folder(folder_of(tmp_path / "new", "new"), tmp_path / "target")
    assert (tmp_path / "target" / "content").read_text() == "new"
    assert (tmp_path / "new" / "content").read_text() == "old"


def test_where_the_second_rename_fails_the_old_folder_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_a_call(monkeypatch)
    target = folder_of(tmp_path / "target", "old")
    rename = Path.rename

    def refuse(source: Path, name: Path) -> Path:
        if source.name == "new":
            raise PermissionError(13, "Permission denied", str(source))
        return rename(source, name)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), scratch_folder(tmp_path) as scratch:
        place_folder(folder_of(scratch / "new", "new"), target)
    assert (target / "content").read_text() == "old"
    assert names(tmp_path) == ["target"]


KILLED_BETWEEN_TWO_RENAMES = """
import os, signal, sys
from pathlib import Path
from edge_sr import atomic_folder
from edge_sr.atomic import scratch_folder
parent = Path(sys.argv[1])
rename = Path.rename
def die_after(source, target):
    rename(source, target)
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = die_after
atomic_folder._system_call = lambda: None
with scratch_folder(parent) as scratch:
    (scratch / "new").mkdir()
    (scratch / "new" / "content").write_text("new")
    atomic_folder.place_folder(scratch / "new", parent / "target")
"""


@pytest.mark.parametrize("taken", [False, True])
def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path, taken: bool) -> None:
    folder_of(tmp_path / "target", "old")
    with process(KILLED_BETWEEN_TWO_RENAMES, tmp_path) as child:
        assert child.wait(60) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / ASIDE / "target" / "content").read_text() == "old"
    if taken:
        folder_of(tmp_path / "target", "newer")
    with scratch_folder(tmp_path):
        pass
    assert (tmp_path / "target" / "content").read_text() == ("newer" if taken else "old")
    assert names(tmp_path) == ["target"]


# --------------------------------------------------------------------------------------------------------------- locks
HOLD = """
import sys
from pathlib import Path
from edge_sr.atomic import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""

EXCHANGE = """
import sys
from pathlib import Path
from edge_sr.atomic_folder import place_folder
print("ready", flush=True)
place_folder(Path(sys.argv[1]), Path(sys.argv[2]))
print("done", flush=True)
"""


def test_an_exchange_waits_for_who_holds_the_folder_and_ends_with_him(tmp_path: Path) -> None:
    target, fresh = folder_of(tmp_path / "target", "old"), folder_of(tmp_path / "new", "new")
    with process(HOLD, target) as holder, process(EXCHANGE, fresh, target) as other:
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.5)
        assert (target / "content").read_text() == "old"
        holder.kill()
        assert other.wait(60) == 0
    assert (target / "content").read_text() == "new"


def test_a_lock_is_of_the_folder_that_has_the_name_now(tmp_path: Path) -> None:
    target, fresh = folder_of(tmp_path / "target", "old"), folder_of(tmp_path / "new", "new")
    with process(HOLD, target) as holder:
        target.rename(tmp_path / "gone")
        fresh.rename(target)
        with folder_lock(target):  # the holder has the other one, so nobody is waited for
            assert (target / "content").read_text() == "new"
        holder.communicate(timeout=60)
    assert names(target) == ["content"], "a lock leaves nothing"
    with pytest.raises(FileNotFoundError), folder_lock(tmp_path / "nowhere"):
        pytest.fail("there is nothing to lock")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_folder_made_for_work_that_failed_goes_unless_something_is_in_it(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), made_folder(tmp_path / "new" / "deep"):
        raise error
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("old", "empty"):
        with pytest.raises(error), made_folder(tmp_path / name):
            raise error
    assert names(tmp_path) == ["empty", "old"]
    assert names(tmp_path / "old") == ["file"]
    with made_folder(tmp_path / "whole"):
        pass
    assert (tmp_path / "whole").is_dir()
