"""Measuring over a real adb and a real adbd; only the phone's own commands and the two tools are stand-ins."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adb_fixtures import rig as device_rig
from adb_fixtures.rig import HERE, SERIAL, Rig

from apps.profiling.adb import measuring
from apps.profiling.adb.harness import profile_over_adb
from apps.profiling.adb.numerics import sample_tile
from apps.profiling.adb.planning import AdbOptions
from apps.profiling.adb.results import AdbReport, PrintedStatistics, SampledTiming
from apps.profiling.adb_view import print_adb
from edge_sr.errors import ConfigError, RunnerError
from fakes import FAKE_TILE, fake_artifact

_MISSING = device_rig.missing()
pytestmark = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))

TOOLS = HERE / "tools"
# What the stand-in network makes of a tile: four times its size, 64 x 64 x 3 = 12288 values.
PICTURE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("adb"))
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


@pytest.fixture
def phone(daemon: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rig]:
    """The daemon as a fresh phone; a host reference that is known; a settings file of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for path in daemon.state.iterdir():
        path.unlink()
    daemon.props.write_text((HERE / "phone.props").read_text())
    (daemon.state / "expected-input").write_bytes(sample_tile(FAKE_TILE).tobytes())
    (daemon.state / "output").write_bytes(PICTURE.tobytes())
    monkeypatch.setattr(measuring, "reference_output", lambda artifact: (PICTURE, "stand-in on this machine"))
    yield daemon
    assert daemon.files() == "", "something was left on the device"


@pytest.fixture
def tflite(tmp_path: Path) -> Path:
    return fake_artifact(tmp_path)


def measure(rig: Rig, *artifacts: Path, options: AdbOptions | None = None, serial: str | None = SERIAL) -> AdbReport:
    options = replace(options or AdbOptions(runs=20), device_dir=str(rig.device_dir))
    return profile_over_adb(
        artifacts,
        serial=serial,
        options=options,
        adb=rig.program,
        benchmark_model=TOOLS / "benchmark_model",
        executor_runner=TOOLS / "executor_runner",
    )


def test_a_measurement_names_device_state_pinning_and_what_fell_back(phone: Rig, tflite: Path) -> None:
    report = measure(phone, tflite)
    pinned, unpinned = report.rows
    assert (pinned.pinned, pinned.taskset_mask, unpinned.pinned, unpinned.taskset_mask) == (True, "80", False, None)
    assert (phone.state / "masks").read_text() == "80\n"
    assert isinstance(pinned.timing, PrintedStatistics)
    assert pinned.timing.count == 20
    assert pinned.timing.median_ms == pytest.approx(20.08)
    assert pinned.delegation is not None
    assert pinned.delegation.fallback == "12 of 431 nodes run outside of XNNPACK (419 inside, 2 partitions)"
    assert pinned.before is not None
    assert pinned.after is not None
    assert (pinned.before.battery_c, pinned.before.battery_percent, pinned.before.charging) == (30.1, 82, True)
    assert (pinned.before.skin_c, pinned.before.governor, pinned.after.skin_c) == (33.25, "schedutil, walt", 33.25)
    assert report.device.soc == "QTI SM8650"
    assert pinned.reason is None


def test_threads_beyond_the_fastest_cluster_are_pinned_to_the_next_one_too(phone: Rig, tflite: Path) -> None:
    report = measure(phone, tflite, options=AdbOptions(threads=(1, 4), pinning=(True,)))
    assert [row.taskset_mask for row in report.rows] == ["80", "f0"]


def test_the_daemon_on_this_machine_is_called_an_emulator(
    phone: Rig, tflite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = measure(phone, tflite, options=AdbOptions(pinning=(True,)))
    print_adb(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"device: emulator (no Android system there), calling itself Maker Phone 9 (serial {SERIAL})"
    assert any("mask 80" in line and "20.08" in line and "33.2 → 33.2" in line for line in lines)
    assert report.device.kind == "emulator"
    assert report.device.title.startswith("emulator (no Android system there)")
    assert report.to_json()["device_info"]["kind"] == "emulator"


def test_output_pulled_from_the_device_is_compared_value_by_value(phone: Rig, tflite: Path) -> None:
    assert measure(phone, tflite).rows[0].numerics.psnr_db == float("inf")
    changed = PICTURE.copy()
    changed[0, 0, 0] ^= 4  # one value of 12288, by 4 levels: 10 log10(255^2 / (16 / 12288)) = 76.99 dB
    (phone.state / "output").write_bytes(changed.tobytes())
    numerics = measure(phone, tflite).rows[0].numerics
    assert numerics.psnr_db == pytest.approx(76.99, abs=0.01)
    assert (numerics.max_difference, numerics.agrees) == (4, True)
    assert numerics.different_percent == pytest.approx(100 / 12288)
    (phone.state / "output").write_bytes(bytes(12288))
    assert measure(phone, tflite).rows[0].numerics.agrees is False


def test_an_older_tool_is_timed_and_its_numerics_said_to_be_unverified(phone: Rig, tflite: Path) -> None:
    (phone.state / "mode").write_text("old-flags")
    row = measure(phone, tflite).rows[0]
    assert row.timing is not None
    assert row.numerics.agrees is None
    assert row.numerics.reason == (
        "numerics not verified on device: this build of benchmark_model knows no --input_layer_value_files, "
        "--output_filepath"
    )
    timed = (phone.state / "calls").read_text().splitlines()[-1]
    assert "--input_layer" not in timed


def test_executor_runner_is_read_from_the_lines_of_its_own_process_in_logcat(phone: Rig, tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path, "executorch")
    row = measure(phone, artifact, options=AdbOptions(runs=12, pinning=(False,))).rows[0]
    assert isinstance(row.timing, SampledTiming)
    # Three warm-ups (31.5 to 33.5 ms) first; the other process's 99999 ms is not among them.
    assert row.timing.samples_ms == tuple(30.5 + run for run in range(4, 16))
    assert (row.timing.first_ms, row.timing.load_ms, row.timing.warmup_runs) == (31.5, 12.5, 3)
    assert row.numerics.agrees is True
    assert "-c" not in (phone.state / "logcat-calls").read_text().split(), "the user's log must not be cleared"


def test_core_ml_gets_a_row_with_the_reason(phone: Rig, tflite: Path, tmp_path: Path) -> None:
    report = measure(phone, fake_artifact(tmp_path, "coreml"), tflite)
    assert report.rows[0].reason == "cannot run there: Core ML is Apple's; use --device apple"
    assert report.rows[0].timing is None
    assert not report.rows[0].failed
    assert report.rows[1].timing is not None


def test_a_hot_device_is_waited_for(phone: Rig, tflite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.profiling.adb.session.POLL_SECONDS", 0.01)
    (phone.state / "skin").write_text("39")
    row = measure(phone, tflite, options=AdbOptions(cool_below_c=34.0, pinning=(False,))).rows[0]
    assert row.cool_down is not None
    assert (row.cool_down.reached, row.cool_down.sensor, row.cool_down.temperature_c) == (True, "skin", 33.25)
    (phone.state / "skin").write_text("60")
    row = measure(phone, tflite, options=AdbOptions(cool_below_c=34.0, cool_down_s=0.0, pinning=(False,))).rows[0]
    assert row.cool_down is not None
    assert not row.cool_down.reached
    assert "started warm: skin at 60.2 °C, above 34.0 °C or throttled" in row.notes


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("killed", "killed (exit 137), mostly for lack of memory"),
        ("wrong-abi", "a program for another processor (sh: ./benchmark_model: not executable: 64-bit ELF file)"),
        ("crash", "exit 1: ERROR: Failed to load model model.bin"),
    ],
)
def test_a_tool_that_fails_gives_one_line_and_the_other_artifact_is_measured(
    phone: Rig, tflite: Path, tmp_path: Path, mode: str, words: str
) -> None:
    (phone.state / "mode").write_text(mode)
    other = fake_artifact(tmp_path, "executorch")
    report = measure(phone, tflite, other, options=AdbOptions(pinning=(False,)))
    failed, good = report.rows
    assert failed.failed
    assert failed.reason is not None
    assert words in failed.reason
    assert "\n" not in failed.reason
    assert good.timing is not None


def test_a_full_storage_is_one_line(phone: Rig, tflite: Path, tmp_path: Path) -> None:
    big = tmp_path / "benchmark_model"
    big.write_bytes(b"\0" * 3_000_000)  # the disk there holds 1 MB
    with pytest.raises(RunnerError, match=r"^expected 3\.0 MB free on 127\.0\.0\.1:5555 .* got a full storage"):
        profile_over_adb(
            [tflite],
            serial=SERIAL,
            options=AdbOptions(device_dir=str(phone.device_dir)),
            adb=phone.program,
            benchmark_model=big,
        )


def test_a_tool_for_another_processor_is_refused_before_it_is_pushed(phone: Rig, tflite: Path, tmp_path: Path) -> None:
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(Path(os.path.realpath("/bin/sh")).read_bytes())
    with pytest.raises(ConfigError, match="expected benchmark_model for arm64-v8a"):
        profile_over_adb([tflite], serial=SERIAL, adb=phone.program, benchmark_model=tool)


def test_several_devices_without_a_serial_are_refused_by_name(phone: Rig, tflite: Path) -> None:
    # One daemon under two names; adb's server may find it a third time, as an emulator, if it looks late enough.
    second = SERIAL.replace("127.0.0.1", "localhost")
    assert "connected to" in phone.adb("connect", second)
    try:
        phone.adb("-s", second, "wait-for-device")
        with pytest.raises(ConfigError, match=rf"^expected one device, got [23]: .*{second}.*; choose with --serial$"):
            measure(phone, tflite, serial=None)
        with pytest.raises(ConfigError, match="expected the serial of a connected device, got 'nobody'"):
            measure(phone, tflite, serial="nobody")
    finally:
        phone.adb("disconnect", second)


def test_a_pulled_cable_keeps_what_was_measured_and_the_next_session_cleans_up(phone: Rig, tflite: Path) -> None:
    (phone.state / "mode").write_text("second-slow")
    unplug = threading.Thread(target=_when_running, args=(phone, phone.stop))
    unplug.start()
    report = measure(phone, tflite, options=AdbOptions(runs=20, threads=(1, 2), pinning=(False, True)))
    unplug.join()
    assert [row.timing is not None for row in report.rows] == [True, False, False, False]
    lost = report.rows[1].reason
    assert lost is not None
    assert lost.startswith(f"expected {SERIAL} to stay connected during benchmark_model, got ")
    assert report.rows[2].reason == f"not measured: {SERIAL} was lost before"
    assert report.left_behind is not None
    phone.start()
    assert phone.files() == Path(report.left_behind).name
    (phone.state / "mode").write_text("")
    assert measure(phone, tflite).left_behind is None


def test_ctrl_c_keeps_what_was_measured_and_leaves_nothing_behind(phone: Rig, tflite: Path) -> None:
    (phone.state / "mode").write_text("second-slow")
    interrupt = threading.Thread(target=_when_running, args=(phone, lambda: os.kill(os.getpid(), signal.SIGINT)))
    interrupt.start()
    report = measure(phone, tflite)
    interrupt.join()
    assert report.interrupted
    assert [row.timing is not None for row in report.rows] == [True, False]
    assert report.rows[1].reason == "not measured: interrupted"
    assert not report.rows[1].failed


def _when_running(rig: Rig, act: object) -> None:
    deadline = time.monotonic() + 20
    while not (rig.state / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert callable(act)
    act()
