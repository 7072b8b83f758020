"""Isolation: whatever a child process dies of is one line here, and this process lives on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from converters import isolation
from converters.artifact import Artifact, ArtifactMeta, Delegation, IoVariant, TensorSpec, fingerprint, write_artifact
from converters.isolation import Child, IsolatedRunner, run_in_child
from converters.lowering import LoweringJob
from converters.runners import open_runner
from converters.to_executorch import lower
from edge_sr.errors import ArtifactError, ConfigError, RunnerError, ShapeError
from edge_sr.runner import TorchRunner

TILE = (16, 24)
PING = "converters.isolation_child:ping"


class Doubling(nn.Module):
    """One convolution and a pixel shuffle, the least that enlarges a picture."""

    model_name, scale, tile_multiple, context = "doubling", 2, 1, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pixel_shuffle(self.up(x), 2)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pytest.importorskip("executorch", reason="executorch is not installed")
    work_dir = tmp_path_factory.mktemp("isolation")
    network = Doubling().eval().requires_grad_(False)
    lower(LoweringJob(network=network, scheme="fp32", model="doubling", scale=2, tile=TILE, work_dir=work_dir))
    return (work_dir / "model.pte").read_bytes()


def artifact_of(content: bytes, path: Path, *, target: str = "executorch") -> Artifact:
    """An artifact whose hashes are right, whatever its program is."""
    source = path / "source"
    source.mkdir(parents=True)
    (source / "model.pte").write_bytes(content)
    plane = {"dtype": "float32", "layout": "NCHW", "value_range": (0.0, 1.0)}
    meta = ArtifactMeta(
        model="doubling",
        scale=2,
        scheme="fp32",
        target=target,
        tile=TILE,
        overlap=1,
        main_file="model.pte",
        io={
            "model.pte": IoVariant(
                input=TensorSpec(name="input", shape=(1, 3, *TILE), **plane),  # type: ignore[arg-type]
                output=TensorSpec(name="output", shape=(1, 3, 2 * TILE[0], 2 * TILE[1]), **plane),  # type: ignore[arg-type]
            )
        },
        files=fingerprint(source, ["model.pte"]),
        tool_versions={},
        checkpoint_sha256="ab" * 32,
        delegation=Delegation(delegates=1),
    )
    return write_artifact(path / "artifact", meta=meta, source=source)


def damaged(program: bytes) -> dict[str, bytes]:
    """What happens to files; the random ones keep the identifier that the runner looks for first."""
    noise = np.random.default_rng(0).bytes(len(program))
    middle = len(program) // 3
    return {
        "emptied": b"",
        "truncated to half": program[: len(program) // 2],
        "random bytes": noise,
        "random bytes behind a true header": program[:8] + noise[8:],
        "random bytes in the middle": program[:middle] + noise[middle : 2 * middle] + program[2 * middle :],
    }


def one_line(error: pytest.ExceptionInfo[RunnerError]) -> bool:
    text = str(error.value)
    return text.startswith("expected ") and "\n" not in text


def test_an_isolated_runner_gives_the_networks_pixels(program: bytes, tmp_path: Path) -> None:
    lr = np.random.default_rng(1).integers(0, 256, (*TILE, 3), dtype=np.uint8)
    with open_runner(artifact_of(program, tmp_path), isolated=True) as runner:  # type: ignore[attr-defined]
        assert (runner.name, runner.scale, runner.tile) == ("executorch", 2, TILE)
        assert np.array_equal(runner.run(lr), TorchRunner(Doubling()).run(lr))
        with pytest.raises(ShapeError, match="expected a tile of 24 wide, 16 high"):
            runner.run(lr[1:])
        assert np.array_equal(runner.run(lr), TorchRunner(Doubling()).run(lr))


@pytest.mark.parametrize(
    "damage",
    [
        "emptied",
        "truncated to half",
        "random bytes",
        "random bytes behind a true header",
        "random bytes in the middle",
    ],
)
def test_a_damaged_program_is_one_runner_error_and_this_process_lives(
    program: bytes, tmp_path: Path, damage: str
) -> None:
    artifact = artifact_of(damaged(program)[damage], tmp_path)
    with pytest.raises(RunnerError) as caught, IsolatedRunner(artifact) as runner:
        runner.run(np.zeros((*TILE, 3), dtype=np.uint8))
    assert one_line(caught)
    assert str(artifact.main_path) in str(caught.value)


def test_a_file_that_changed_since_it_was_checked_is_not_opened(program: bytes, tmp_path: Path) -> None:
    artifact = artifact_of(program, tmp_path)
    artifact.main_path.write_bytes(program[:-1] + b"\x00\x00")
    with pytest.raises(ArtifactError, match="expected"):
        IsolatedRunner(artifact)


def test_a_killed_runner_says_so_and_stays_ended(program: bytes, tmp_path: Path) -> None:
    runner = IsolatedRunner(artifact_of(program, tmp_path))
    runner._child._process.kill()
    lr = np.zeros((*TILE, 3), dtype=np.uint8)
    with pytest.raises(RunnerError, match=r"got SIGKILL in its process.*; something ended it, for lack of memory"):
        runner.run(lr)
    with pytest.raises(RunnerError, match="got an ended one"):
        runner.run(lr)


def test_a_function_answers_from_another_process() -> None:
    value = {"text": "ä", "list": [1, 2.5, None]}
    assert run_in_child(PING, {"value": value}) == value
    assert run_in_child("os:getpid", {}) != os.getpid()


def test_an_abort_names_the_signal_and_the_last_words() -> None:
    with pytest.raises(RunnerError) as caught:
        run_in_child("os:abort", {})
    assert one_line(caught)
    assert "got SIGABRT in its process" in str(caught.value)


def test_last_words_are_the_last_line_of_standard_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dying_words.py").write_text(
        "import os, sys\n"
        "def say_and_die():\n"
        "    print('first line')\n"
        "    print('the very end', file=sys.stderr, flush=True)\n"
        "    os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunnerError, match="got exit status 7 in its process after 'the very end'"):
        run_in_child("dying_words:say_and_die", {})


def test_what_a_child_prints_does_not_disturb_its_answers() -> None:
    # By the shell, so past Python's own standard output.
    assert run_in_child("os:system", {"command": "echo hello"}) == 0


def test_a_timeout_ends_the_child() -> None:
    start = time.monotonic()
    with Child(what="a nap") as child, pytest.raises(RunnerError, match=r"to answer within 0\.2 s") as caught:
        child.ask({"do": "call", "function": "signal:pause", "arguments": {}}, timeout_s=0.2)
    assert one_line(caught)
    assert child._process.poll() == -signal.SIGKILL
    assert time.monotonic() - start < 30


def test_errors_keep_their_class_and_line() -> None:
    with pytest.raises(ConfigError, match="target must be one of"):
        run_in_child("converters.targets:get_target", {"name": "abacus"})
    with pytest.raises(RunnerError, match="expected call to work, got ModuleNotFoundError"):
        run_in_child("no_such_module_anywhere:f", {})


def test_no_child_outlives_its_runner(program: bytes, tmp_path: Path) -> None:
    runner = IsolatedRunner(artifact_of(program, tmp_path))
    pid = runner._child._process.pid
    assert psutil.pid_exists(pid)
    del runner
    assert not psutil.pid_exists(pid)


def test_half_a_message_is_the_end_not_a_hang(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    with path.open("wb") as stream:
        isolation.send(stream, {"a": 1}, b"xyz")
    whole = path.read_bytes()
    answers: list[Any] = []
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with path.open("rb") as stream:
            answers.append(isolation.receive(stream))
    assert answers[:-1] == [None] * len(whole)
    assert answers[-1] == ({"a": 1}, b"xyz")
