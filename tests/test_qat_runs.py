"""What quantization-aware training survives: interrupts, full disks, damaged files, a second process; and the clock."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from full_disk import full_disk
from torch import Tensor, nn

import apps.training
from apps.training import train_quantized
from edge_sr.checkpoints import save_checkpoint
from edge_sr.errors import CheckpointError, ConfigError, DataError
from edge_sr.images import write_image
from edge_sr.networks import create_network
from edge_sr.signals import ended_like_interrupted
from edge_sr.training.run_folder import RunLock
from edge_sr.training.snapshots import load_snapshot, previous_snapshot
from quantization import QATConfig, QuantizedNetwork, calibrate, load_quantized, prepare, search_ranges, train_qat
from quantization.qat import QATRecord
from quantization.qat_trainer import Trainer

CONFIG = QATConfig(steps=6, warmup_steps=1, validate_every=2, snapshot_every=2, ema_decay=0.5)


@pytest.fixture(scope="module")
def deployed() -> nn.Module:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=2)
    nn.init.normal_(network.up.weight, std=0.02)
    return network.deployed()


HeldOut = list[tuple[np.ndarray, np.ndarray]]
Fresh = Callable[[], QuantizedNetwork]


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    rng = np.random.default_rng(2)
    return [(rng.integers(0, 256, (12, 12, 3), np.uint8), rng.integers(0, 256, (24, 24, 3), np.uint8))]


@pytest.fixture
def fresh(deployed: nn.Module) -> Fresh:
    def make() -> QuantizedNetwork:
        network = prepare(deployed, "w8a8")
        calibrate(network, [lr for lr, _ in itertools.islice(crops(0), 2)])
        return network

    return make


def crops(first: int) -> Iterator[tuple[Tensor, None]]:
    for step in itertools.count(first):
        yield torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(step)), None


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def step_of(snapshot: Path) -> int:
    state = load_snapshot(snapshot, "cpu", steps=100)
    assert state is not None
    return int(state["step"])


@pytest.mark.parametrize(
    ("within", "call", "step", "sent"),
    [
        ("_loss", 3, 3, [signal.SIGINT]),
        ("_validate", 2, 4, [signal.SIGINT]),
        ("_loss", 6, 6, [signal.SIGINT]),
        ("_loss", 3, 3, [signal.SIGTERM, signal.SIGTERM]),  # as timeout(1) sends them
    ],
)
def test_ctrl_c_in_the_middle_of_a_step_loses_nothing(
    deployed: nn.Module,
    held_out: HeldOut,
    fresh: Fresh,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    within: str,
    call: int,
    step: int,
    sent: list[signal.Signals],
) -> None:
    """Where the optimizer is behind the loss, and where averaged weights stand in for the trained ones."""
    whole, cut, resumed, snapshot = fresh(), fresh(), fresh(), tmp_path / "qat.pt"
    expected = train_qat(whole, deployed, crops, CONFIG, held_out=held_out)
    calls, real = itertools.count(1), getattr(Trainer, within)

    def interrupted(*arguments: object) -> object:
        if next(calls) == call:
            for number in sent:
                os.kill(os.getpid(), number)
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, within, interrupted)
        with pytest.raises(KeyboardInterrupt), ended_like_interrupted():
            train_qat(cut, deployed, crops, CONFIG, held_out=held_out, snapshot=snapshot)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert step_of(snapshot) == step
    assert train_qat(resumed, deployed, crops, CONFIG, held_out=held_out, snapshot=snapshot) == expected
    assert equal(resumed, whole)


def test_a_second_ctrl_c_does_not_wait_and_leaves_the_last_snapshot(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = itertools.count(1), Trainer._loss

    def interrupted(*arguments: Any) -> Tensor:
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(Trainer, "_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_qat(fresh(), deployed, crops, CONFIG, held_out=held_out, snapshot=tmp_path / "qat.pt")
    assert step_of(tmp_path / "qat.pt") == 2


def interrupt_at(step: int) -> Callable[[QATRecord], None]:
    def interrupt(record: QATRecord) -> None:
        if record.step == step:
            raise KeyboardInterrupt

    return interrupt


def test_a_damaged_snapshot_costs_the_steps_since_the_one_before(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tmp_path: Path
) -> None:
    whole, resumed, snapshot, said = fresh(), fresh(), tmp_path / "qat.pt", list[str]()
    expected = train_qat(whole, deployed, crops, CONFIG, held_out=held_out)
    with pytest.raises(KeyboardInterrupt):
        train_qat(fresh(), deployed, crops, CONFIG, held_out=held_out, snapshot=snapshot, progress=interrupt_at(5))
    content = bytearray(snapshot.read_bytes())
    content[len(content) // 2] ^= 4
    snapshot.write_bytes(content)
    firsts: list[int] = []

    def from_step(first: int) -> Iterator[tuple[Tensor, None]]:
        firsts.append(first)
        return crops(first)

    result = train_qat(resumed, deployed, from_step, CONFIG, held_out=held_out, snapshot=snapshot, warn=said.append)
    assert firsts == [4]
    assert len(said) == 1
    assert "damaged" in said[0]
    assert result == expected
    assert equal(resumed, whole)


def test_a_log_is_mended_when_a_run_goes_on_and_begun_anew_by_a_new_one(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tmp_path: Path
) -> None:
    log, snapshot, said = tmp_path / "qat.jsonl", tmp_path / "qat.pt", list[str]()

    def train(progress: Callable[[QATRecord], None] | None = None, keep: bool = True) -> list[int]:
        train_qat(
            fresh(),
            deployed,
            crops,
            CONFIG,
            held_out=held_out,
            log=log,
            snapshot=snapshot if keep else None,
            progress=progress,
            warn=said.append,
        )
        return [json.loads(line)["step"] for line in log.read_text().splitlines()]

    with pytest.raises(KeyboardInterrupt):
        train(interrupt_at(4))
    with log.open("a") as file:
        file.write('{"step": 6, "loss": 0}\n{"step": 5, "lo')
    assert train() == [2, 4, 6]
    assert said == [f"removed 1 damaged lines from {log}"]
    assert train(keep=False) == [2, 4, 6]


def test_a_full_disk_is_one_line_and_does_not_end_a_complete_training(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tmp_path: Path
) -> None:
    snapshot, log, said = tmp_path / "qat.pt", tmp_path / "qat.jsonl", list[str]()
    with full_disk(1000), pytest.raises(CheckpointError, match=r"expected to write .*qat\.pt.*make room") as caught:
        train_qat(fresh(), deployed, crops, CONFIG, held_out=held_out, snapshot=snapshot)
    assert "\n" not in str(caught.value)
    with full_disk(10), pytest.raises(CheckpointError, match=r"expected to write .*qat\.jsonl.*make room") as caught:
        train_qat(fresh(), deployed, crops, CONFIG, held_out=held_out, log=log)
    assert "\n" not in str(caught.value)
    short = QATConfig(steps=3)  # its only snapshot is that of the complete training
    with full_disk(1000):
        result = train_qat(fresh(), deployed, crops, short, held_out=held_out, snapshot=snapshot, warn=said.append)
    assert result.steps == 3
    assert len(said) == 1
    assert "make room" in said[0]


# -------------------------------------------------------------------------------------------------------- by the clock
@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Iterator[tuple[Tensor, None]]]:
    """Crops of which each takes a tenth of a second, on a clock of the test's own."""
    now = [0.0]
    monkeypatch.setattr("quantization.clock.time", SimpleNamespace(monotonic=lambda: now[0]))
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr("quantization.qat_trainer.time", clock)

    def slow(first: int) -> Iterator[tuple[Tensor, None]]:
        for batch in crops(first):
            now[0] += 0.1
            yield batch

    return slow


BY_CLOCK = QATConfig(steps=10_000, warmup_steps=0, final_ratio=0.1, learning_rate=1e-3, snapshot_every=1)


def test_training_by_the_clock_ends_in_time_with_its_rate_and_validations_spread_over_it(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tick: Any
) -> None:
    records: list[QATRecord] = []
    result = train_qat(fresh(), deployed, tick, BY_CLOCK, held_out=held_out, seconds=4.05, progress=records.append)
    # 40 steps take 4.0 s; the 41st is over after 4.1 s and ends the training.
    assert result.steps == len(records) == 41
    assert [record.step for record in records if record.psnr_y_db is not None] == [6, 11, 16, 21, 26, 31, 36, 41]
    for record in (records[0], records[20], records[40]):
        done = 0.1 * (record.step - 1) / 4.05
        expected = 1e-3 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * done)))
        assert record.learning_rate == pytest.approx(expected)
    assert records[20].steps in (40, 41)
    assert records[-1].steps == 41


def test_measuring_the_start_takes_of_the_time_and_not_of_the_schedule(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quantization.qat_trainer as inside

    def slow(*arguments: Any) -> float:
        next(clock)  # a tenth of a second
        return measured(*arguments)

    clock, measured = tick(0), inside.measure
    monkeypatch.setattr(inside, "measure", slow)
    rates: list[float] = []
    result = train_qat(
        fresh(),
        deployed,
        tick,
        BY_CLOCK,
        held_out=held_out,
        seconds=1.0,
        progress=lambda record: rates.append(record.learning_rate),
    )
    # Teacher, start and the last validation take 0.3 s of it; of the other 0.7 s validations take as long as steps.
    assert result.steps in (4, 5)
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < 3e-4


def test_a_run_by_the_clock_goes_on_with_the_time_it_had_left(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tick: Any, tmp_path: Path
) -> None:
    snapshot, records = tmp_path / "qat.pt", list[QATRecord]()
    with pytest.raises(KeyboardInterrupt):
        train_qat(
            fresh(),
            deployed,
            tick,
            BY_CLOCK,
            held_out=held_out,
            seconds=4.05,
            snapshot=snapshot,
            progress=interrupt_at(30),
        )
    result = train_qat(
        fresh(),
        deployed,
        tick,
        BY_CLOCK,
        held_out=held_out,
        seconds=4.05,
        snapshot=snapshot,
        progress=records.append,
    )
    assert result.steps == 41
    assert [record.step for record in records] == list(range(31, 42))


def test_steps_bound_a_run_by_the_clock_and_no_time_leaves_the_start(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tick: Any
) -> None:
    assert train_qat(fresh(), deployed, tick, CONFIG, held_out=held_out, seconds=1e6).steps == 6
    network = fresh()
    result = train_qat(network, deployed, tick, CONFIG, held_out=held_out, seconds=-1.0)
    assert (result.steps, result.best_step, result.psnr_y_db) == (0, 0, result.start_psnr_y_db)
    assert equal(network, fresh())
    with pytest.raises(ConfigError, match="expected 6 batches, got 2"):
        train_qat(fresh(), deployed, list(itertools.islice(crops(0), 2)), CONFIG, held_out=held_out, seconds=1e6)


def test_processes_share_the_first_ones_clock(
    deployed: nn.Module, held_out: HeldOut, fresh: Fresh, tick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    told: list[float] = []
    real = dist.broadcast

    def broadcast(tensor: Tensor, source: int) -> None:
        real(tensor, source)
        told.append(float(tensor))
        if len(told) == 6:  # before the first step, and after each of five
            tensor.fill_(1.0)  # the first process's clock is ahead of this one's

    monkeypatch.setattr(dist, "broadcast", broadcast)
    try:
        assert train_qat(fresh(), deployed, tick, BY_CLOCK, held_out=held_out, seconds=4.05).steps == 5
    finally:
        dist.destroy_process_group()


# ------------------------------------------------------------------------------------------------------------- devices
def test_every_tensor_is_made_where_the_network_is(
    deployed: nn.Module, held_out: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's default device holds no values here: one tensor made there, and the next sum with it fails."""
    batches, step = list(itertools.islice(crops(0), 4)), torch.optim.Adam.step

    def on_cpu(*arguments: Any, **settings: Any) -> Any:
        with torch.device("cpu"):  # its step counters are its own matter
            return step(*arguments, **settings)

    monkeypatch.setattr(torch.optim.Adam, "step", on_cpu)
    config = QATConfig(steps=4, hr_weight=0.5, validate_every=2, clip_norm=1.0)
    with torch.device("meta"):
        network = prepare(deployed, "w8a8")
        calibrate(network, [lr for lr, _ in batches])
        search_ranges(network, deployed, [batches[0][0]])
        with_hr = [(lr, lr.repeat_interleave(2, 2).repeat_interleave(2, 3)) for lr, _ in batches]
        for bf16 in (False, True):
            settings = QATConfig(**{**config.__dict__, "bf16": bf16})
            train_qat(network, deployed, with_hr, settings, held_out=held_out, seconds=1e6)
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}


# ------------------------------------------------------------------------------------------------------ train_quantized
@pytest.fixture(scope="module")
def quantize(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., apps.training.QATReport]:
    """Trains a tiny network on three tiny photos."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    save_checkpoint(folder / "float.safetensors", create_network("idsa_net_mobile", 2, channels=8, blocks=1), {})
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in ("one", "two", "three"):
        write_image(folder / "photos" / f"{name}.png", rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))

    def run(out: Path, **changes: Any) -> apps.training.QATReport:
        settings: dict[str, Any] = {"config": CONFIG, "batch": 1, "patch": 16, "hold_out": 1}
        settings |= {"checkpoint": folder / "float.safetensors", "data": folder / "photos", "cache": folder / "cache"}
        return train_quantized(out, **{**settings, **changes})

    return run


def test_a_complete_run_leaves_its_checkpoint_and_its_log(quantize: Any, tmp_path: Path) -> None:
    report = quantize(tmp_path / "new" / "w8a8.safetensors")
    assert report.steps == 6
    assert sorted(path.name for path in report.checkpoint.parent.iterdir()) == ["w8a8.log.jsonl", "w8a8.safetensors"]


@pytest.mark.parametrize(("said", "expected"), [({"hold_out": 3}, 3), ({"hold_out": "many"}, 20), (None, 20)])
def test_quantized_training_keeps_out_as_many_photos_as_the_float_run(
    said: dict[str, Any] | None, expected: int, quantize: Any, tmp_path: Path
) -> None:
    """Others would let it choose by photos that the float network was trained on."""
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=1)
    save_checkpoint(tmp_path / "float.safetensors", network, {} if said is None else {"training_config": said})
    with pytest.raises(DataError, match=f"hold {expected} out, got 3"):
        quantize(tmp_path / "out.safetensors", checkpoint=tmp_path / "float.safetensors", hold_out=None)


def test_a_result_that_cannot_be_written_loses_no_step(
    quantize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole, steps = tmp_path / "w8a8.safetensors", tmp_path / "whole.safetensors", list[str]()
    quantize(whole)

    def full(*_: object) -> None:
        raise CheckpointError("expected to write it, got: No space left on device; choose another place")

    with monkeypatch.context() as patched:
        patched.setattr(apps.training, "save_quantized", full)
        with pytest.raises(CheckpointError, match="No space left"):
            quantize(out)
    snapshot = tmp_path / "w8a8.safetensors.snapshot"
    assert step_of(snapshot) == 6
    assert previous_snapshot(snapshot).exists()
    quantize(out, progress=lambda what, *_: steps.append(what))
    assert "calibrate" in steps
    assert "qat" not in steps
    assert out.read_bytes() == whole.read_bytes()
    assert not snapshot.exists()
    assert not previous_snapshot(snapshot).exists()


def test_a_place_that_cannot_be_written_or_is_taken_is_found_before_anything_else(
    quantize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("photos were packed")

    monkeypatch.setattr(apps.training, "open_pool", never)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "w8a8.safetensors", tmp_path / "folder", Path("/proc/none/w8a8.safetensors")):
        with pytest.raises(CheckpointError, match="expected a file name that can be written"):
            quantize(out, overwrite=True)
    with (
        RunLock(tmp_path, "w8a8.safetensors.lock"),
        pytest.raises(ConfigError, match=f"process {os.getpid()}"),
    ):
        quantize(tmp_path / "w8a8.safetensors")
    with pytest.raises(ConfigError, match="minutes must be above 0, got 0"):
        quantize(tmp_path / "w8a8.safetensors", minutes=0)


def test_minutes_bound_the_whole_run_and_are_kept_in_the_checkpoint(quantize: Any, tmp_path: Path) -> None:
    report = quantize(tmp_path / "w8a8.safetensors", minutes=1e-6)
    assert (report.steps, report.psnr_y_db) == (0, report.start_psnr_y_db)
    assert load_quantized(report.checkpoint).metadata["qat_minutes"] == 1e-6
