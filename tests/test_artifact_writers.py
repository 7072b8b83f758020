"""Several processes at one artifact, and processes that are killed: nothing is lost and readers always find one."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from processes import all_at_once, process

from converters.artifact import META_FILE, fingerprint, load_artifact, record_measured, write_artifact
from edge_sr.errors import ArtifactError
from fakes import fake_artifact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fake_artifact(tmp_path)


def beside(path: Path) -> list[str]:
    """Everything that stands where the artifact stands, and in it."""
    return sorted(str(found.relative_to(path.parent)) for found in path.parent.rglob("*"))


RECORD = """
import sys
from pathlib import Path
from converters.artifact import load_artifact, record_measured
artifact = load_artifact(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    record_measured(artifact, {f"{sys.argv[2]} {number}": {"psnr_y_db": number}})
    load_artifact(artifact.path)
"""


def test_what_several_processes_record_at_once_is_all_there(path: Path) -> None:
    before = beside(path)
    all_at_once(RECORD, [(path, str(process)) for process in range(4)])
    expected = {f"{process} {number}": {"psnr_y_db": number} for process in range(4) for number in range(25)}
    assert load_artifact(path).meta.measured == expected
    assert beside(path) == before


def test_results_are_recorded_in_the_artifact_that_was_measured_or_nowhere(path: Path, tmp_path: Path) -> None:
    measured = load_artifact(path)
    write_artifact(path, meta=measured.meta, source=path, overwrite=True)
    record_measured(measured, {"latency_ms": 1.0})  # the same files, exported again
    source = tmp_path / "source"
    (source / "model.bin").write_bytes(b"another model")
    newer = replace(measured.meta, files=fingerprint(source, ["model.bin"]))
    write_artifact(path, meta=newer, source=source, overwrite=True)
    with pytest.raises(ArtifactError, match="got another one: measure again"):
        record_measured(measured, {"latency_ms": 2.0})
    assert load_artifact(path).meta.measured == {}


def test_a_shared_store_is_not_written_through_a_link(path: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (path / META_FILE).rename(blob)
    (path / META_FILE).symlink_to(blob)
    kept = blob.read_bytes()
    record_measured(load_artifact(path), {"latency_ms": 1.0})
    assert blob.read_bytes() == kept
    assert load_artifact(path).meta.measured == {"latency_ms": 1.0}


def test_recording_in_an_artifact_that_is_gone_is_one_line(path: Path, tmp_path: Path) -> None:
    artifact = load_artifact(path)
    path.rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match=r"cannot write .*artifact\.json: No such file"):
        record_measured(artifact, {"latency_ms": 1.0})


EXPORT = """
import sys
from pathlib import Path
from converters.artifact import load_artifact, write_artifact
from edge_sr.errors import ArtifactError
source, target = map(Path, sys.argv[1:])
meta = load_artifact(source).meta
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    try:
        write_artifact(target / str(number), meta=meta, source=source)
    except ArtifactError as error:
        assert "got existing" in str(error), error
    else:
        print(number)
"""


def test_of_several_exports_to_one_free_place_one_succeeds(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    wins = all_at_once(EXPORT, [(path, target)] * 3)
    assert sorted(int(number) for won in wins for number in won.split()) == list(range(20))
    assert sorted(found.name for found in target.iterdir()) == sorted(map(str, range(20)))
    assert all(load_artifact(found).meta.scale == 4 for found in target.iterdir())


OVERWRITE = """
import sys
from dataclasses import replace
from pathlib import Path
from converters.artifact import fingerprint, load_artifact, write_artifact
path, source = map(Path, sys.argv[1:])
meta = load_artifact(path).meta
source.mkdir(parents=True)
print("ready", flush=True)
number = 0
while True:
    number += 1
    (source / "model.bin").write_bytes(b"model %d" % number)
    newer = replace(meta, files=fingerprint(source, ["model.bin"]))
    write_artifact(path, meta=newer, source=source, overwrite=True)
"""


def test_readers_always_find_an_artifact_while_another_process_overwrites_it(path: Path, tmp_path: Path) -> None:
    found: set[str] = set()
    with process(OVERWRITE, path, tmp_path / "fresh") as writer:
        while len(found) < 50:
            found.add(load_artifact(path).meta.files["model.bin"].sha256)
            assert writer.poll() is None


def test_a_process_killed_while_it_overwrites_leaves_an_artifact(path: Path, tmp_path: Path) -> None:
    before = beside(path)
    for number in range(5):
        with process(OVERWRITE, path, tmp_path / "fresh" / str(number)) as writer:
            for _ in range(3 * number):
                load_artifact(path)
            writer.kill()
            writer.wait()
            load_artifact(path)
    last = load_artifact(path)
    write_artifact(path, meta=last.meta, source=path, overwrite=True)
    assert [name for name in beside(path) if not name.startswith("fresh")] == before


KILLED_AFTER_THE_EXCHANGE = """
import os, signal, sys
from pathlib import Path
from converters.artifact import load_artifact, write_artifact
from edge_sr import atomic_folder
exchanged = atomic_folder._exchanged
def die_after(one, other):
    assert exchanged(one, other)
    os.kill(os.getpid(), signal.SIGKILL)
atomic_folder._exchanged = die_after
artifact = load_artifact(Path(sys.argv[1]))
print("ready", flush=True)
write_artifact(artifact.path, meta=artifact.meta, source=artifact.path, overwrite=True)
"""


def test_a_kill_after_the_exchange_leaves_the_new_one_and_the_old_goes_with_the_next_write(path: Path) -> None:
    before = beside(path)
    identity = path.stat().st_ino
    with process(KILLED_AFTER_THE_EXCHANGE, path) as child:
        assert child.wait(60) == -signal.SIGKILL
    artifact = load_artifact(path)
    assert path.stat().st_ino != identity
    assert len(beside(path)) > len(before)
    write_artifact(path, meta=artifact.meta, source=path, overwrite=True)
    assert beside(path) == before


@pytest.mark.parametrize("name", ["x" * 255, "超解像" * 26])
def test_an_artifact_can_have_every_name_that_the_file_system_takes(path: Path, name: str) -> None:
    meta = load_artifact(path).meta
    for overwrite in (False, True):
        write_artifact(path.with_name(name), meta=meta, source=path, overwrite=overwrite)
    record_measured(load_artifact(path.with_name(name)), {"latency_ms": 1.0})
    assert load_artifact(path.with_name(name)).meta.measured == {"latency_ms": 1.0}


def test_a_link_to_an_artifact_is_not_overwritten(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    meta = load_artifact(path).meta
    for overwrite, words in ((False, "got existing"), (True, "remove it by hand")):
        with pytest.raises(ArtifactError, match=words):
            write_artifact(link, meta=meta, source=path, overwrite=overwrite)
    assert link.is_symlink()
