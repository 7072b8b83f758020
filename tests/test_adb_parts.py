"""The parts of measuring over adb that need no device: lists, tools, command lines, state, failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.profiling.adb.adb import Done, Listed, choose_device, find_adb, list_devices, parse_devices
from apps.profiling.adb.commands import Plan, explain, unknown_flags
from apps.profiling.adb.device_state import parse_device, parse_state, parse_thermalservice
from apps.profiling.adb.harness import profile_over_adb
from apps.profiling.adb.numerics import picture, stored_bytes
from apps.profiling.adb.planning import AdbOptions
from apps.profiling.adb.tools import forget_left_behind, left_behind, remember_left_behind, resolve_tool
from converters.artifact import TensorSpec
from edge_sr.errors import ConfigError, MissingToolError, RunnerError
from fakes import fake_artifact

DEVICES = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
A1B2C3               device usb:1-1 product:p model:Phone_9 device:d transport_id:1
D4E5F6               unauthorized usb:1-2 transport_id:2
0123456789ABCDEF     no permissions (user in plugdev group; are your udev rules wrong?); see [http://x]
192.168.1.7:5555     offline transport_id:4

"""


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "edge-sr" / "adb.json"


# ------------------------------------------------------------------------------------------------------------ devices
def test_the_list_of_devices_is_read_with_every_state() -> None:
    found = [(device.serial, device.state) for device in parse_devices(DEVICES)]
    assert found == [
        ("A1B2C3", "device"),
        ("D4E5F6", "unauthorized"),
        ("0123456789ABCDEF", "no permissions"),
        ("192.168.1.7:5555", "offline"),
    ]


@pytest.mark.parametrize(
    ("serial", "words"),
    [
        ("D4E5F6", "got unauthorized; unlock its screen and accept the question about USB debugging"),
        ("0123456789ABCDEF", "got no permissions; add this user to the group plugdev"),
        ("192.168.1.7:5555", "got offline; unplug and plug it in again"),
    ],
)
def test_a_device_that_is_not_ready_is_refused_with_its_cure(serial: str, words: str) -> None:
    with pytest.raises(RunnerError) as caught:
        choose_device(parse_devices(DEVICES), serial)
    assert words in str(caught.value)


def test_no_device_and_several_devices_are_told_apart() -> None:
    with pytest.raises(RunnerError, match="expected a device, got none"):
        choose_device((), None)
    with pytest.raises(ConfigError, match=r"got 4: A1B2C3 \(device\), D4E5F6 \(unauthorized\)"):
        choose_device(parse_devices(DEVICES), None)
    assert choose_device((Listed(serial="A", state="device"),), None).serial == "A"


def test_a_machine_without_adb_is_told_where_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    with pytest.raises(MissingToolError, match="expected the program adb, got none on PATH; install Android's"):
        find_adb()
    sdk = tmp_path / "sdk" / "platform-tools"
    sdk.mkdir(parents=True)
    (sdk / "adb").write_text("#!/bin/sh\n")
    (sdk / "adb").chmod(0o755)
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    assert find_adb() == str(sdk / "adb")


def test_an_adb_that_fails_or_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "adb"
    program.write_text("#!/bin/sh\necho 'adb: failed to check server version: protocol fault' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(
        RunnerError, match="got adb: failed to check server version: protocol fault; try adb kill-server"
    ):
        list_devices(str(program))
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr("apps.profiling.adb.adb.CALL_SECONDS", 0.2)
    with pytest.raises(RunnerError, match="expected adb devices to end within 0 s, got no end"):
        list_devices(str(program))


# -------------------------------------------------------------------------------------------------------------- tools
def elf(machine: int) -> bytes:
    """The first bytes of a 64-bit little-endian ELF file for a processor."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little") + bytes(44)


def test_a_tool_is_remembered_after_it_was_given_once(tmp_path: Path, settings: Path) -> None:
    path = tmp_path / "benchmark_model"
    path.write_bytes(elf(0xB7))
    with pytest.raises(MissingToolError, match=r"got none yet; download .* give it once with --benchmark-model PATH"):
        resolve_tool("benchmark_model", None)
    given = resolve_tool("benchmark_model", path)
    assert resolve_tool("benchmark_model", None) == given
    assert given.abi == "arm64-v8a"
    assert settings.is_file()
    path.unlink()
    with pytest.raises(MissingToolError, match="as before, got no file"):
        resolve_tool("benchmark_model", None)


def test_a_damaged_settings_file_only_forgets(tmp_path: Path, settings: Path) -> None:
    settings.parent.mkdir(parents=True)
    settings.write_text("{not json")
    (tmp_path / "tool").write_bytes(elf(0xB7))
    assert resolve_tool("executor_runner", tmp_path / "tool").path == tmp_path / "tool"
    assert resolve_tool("executor_runner", None).path == tmp_path / "tool"


@pytest.mark.parametrize(
    ("machine", "abis", "fits"),
    [
        (0xB7, ("arm64-v8a",), True),
        (0x28, ("arm64-v8a", "armeabi-v7a", "armeabi"), True),
        (0x28, ("arm64-v8a",), False),
        (0x3E, ("arm64-v8a",), False),
    ],
)
def test_a_tool_must_be_for_one_of_the_devices_abis(
    tmp_path: Path, machine: int, abis: tuple[str, ...], fits: bool
) -> None:
    (tmp_path / "tool").write_bytes(elf(machine))
    tool = resolve_tool("benchmark_model", tmp_path / "tool")
    if fits:
        tool.check_abi(abis, "a phone")
        return
    with pytest.raises(ConfigError, match="expected benchmark_model for arm64-v8a"):
        tool.check_abi(abis, "a phone")


def test_folders_left_behind_are_remembered_per_device_until_they_are_gone() -> None:
    remember_left_behind("A", "/data/local/tmp/edge-sr-1")
    remember_left_behind("A", "/data/local/tmp/edge-sr-2")
    assert left_behind("A") == ("/data/local/tmp/edge-sr-1", "/data/local/tmp/edge-sr-2")
    assert left_behind("B") == ()
    forget_left_behind("A")
    assert left_behind("A") == ()


def test_a_missing_tool_is_told_before_any_device_is_asked(tmp_path: Path) -> None:
    adb = tmp_path / "adb"
    adb.write_text(f"#!/bin/sh\n: >{tmp_path}/asked\n")
    adb.chmod(0o755)
    with pytest.raises(MissingToolError, match="expected the path of benchmark_model"):
        profile_over_adb([fake_artifact(tmp_path)], adb=adb)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": (0,)}, "threads must be at least 1"),
        ({"backends": ("npu",)}, "backend must be one of xnnpack, gpu, nnapi, got 'npu'"),
        ({"pinning": ()}, "expected pinned, unpinned or both"),
        ({"runs": 0}, "runs and seconds must be positive"),
        ({"cool_down_s": -1.0}, "cool-down must not be negative"),
        ({"device_dir": "tmp"}, "expected an absolute folder"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdbOptions(**options)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- commands
SPEC = TensorSpec(name="in:0", dtype="float32", layout="NCHW", shape=(1, 3, 2, 2), value_range=(0, 1))


def test_the_timed_call_asks_for_the_backend_by_name_and_feeds_the_tile() -> None:
    plan = Plan(tool="benchmark_model", model="m", threads=2, backend="gpu", runs=50, max_seconds=20.0, input_spec=SPEC)
    words = plan.arguments()
    assert {"--graph=m", "--num_threads=2", "--num_runs=50", "--max_secs=20", "--use_gpu=true"} <= set(words)
    # A colon separates name and file, so a name that holds one is replaced: the tool goes by position.
    assert {"--input_layer=input", "--input_layer_shape=1,3,2,2", "--input_layer_value_files=input:input.bin"} <= set(
        words
    )
    assert not any(word.startswith("--output_filepath") for word in words)


def test_executor_runner_gets_its_warm_up_as_further_executions() -> None:
    plan = Plan(tool="executor_runner", model="m", threads=4, backend="xnnpack", runs=50, max_seconds=20.0)
    assert plan.arguments() == ("--model_path=m", "--num_executions=53", "--cpu_threads=4")


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (137, "", "killed (exit 137), mostly for lack of memory"),
        (126, "sh: ./t: not executable: 64-bit ELF file", "a program for another processor"),
        (126, "/system/bin/sh: ./t: can't execute: Permission denied", "permission denied"),
        (127, "sh: taskset: inaccessible or not found", "no taskset to pin it with"),
        (127, "sh: ./t: No such file or directory", "nothing that can be started"),
        (1, 'CANNOT LINK EXECUTABLE "./t": library "libc++_shared.so" not found', "a missing library"),
        (1, "ERROR: unknown command line flag 'cpu_threads'", "a build that does not know a flag"),
        (134, "Aborted", "a crash (SIGABRT)"),
        (3, "some\nreason\n\n", "exit 3: reason"),
    ],
)
def test_each_failure_of_a_tool_has_its_own_line(status: int, text: str, words: str) -> None:
    line = explain(Done(status=status, out="", err=text), "t", "Phone 9")
    assert line.startswith("expected t to run on Phone 9, got ")
    assert words in line
    assert "\n" not in line


def test_flags_that_a_tool_does_not_know_are_named() -> None:
    assert unknown_flags("WARN: Unconsumed cmdline flags: --use_gpu=true --output_filepath=o") == (
        "use_gpu",
        "output_filepath",
    )
    assert unknown_flags("ERROR: unknown command line flag 'inputs'") == ("inputs",)
    assert unknown_flags("INFO: Use gpu: [1]") == ()


# -------------------------------------------------------------------------------------------------------------- state
def test_only_current_temperatures_count_and_sensors_without_a_value_do_not() -> None:
    # A Samsung of Android 11 numbers its sensors in its own way (3 is the battery there) but names them.
    text = """Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=84.2, mType=3, mName=SKIN, mStatus=0}
Current temperatures from HAL:
\tTemperature{mValue=44.0, mType=1, mName=TYPE_CPU, mStatus=0}
\tTemperature{mValue=34.4, mType=3, mName=TYPE_BATTERY, mStatus=0}
\tTemperature{mValue=35.3, mType=4, mName=TYPE_SKIN, mStatus=0}
\tTemperature{mValue=-99.9, mType=6, mName=TYPE_POWER_AMPLIFIER, mStatus=0}
\tTemperature{mValue=NaN, mType=9, mName=NPU, mStatus=0}
Current cooling devices from HAL:
"""
    status, temperatures, skin = parse_thermalservice(text)
    assert (status, skin) == ("moderate", 35.3)
    assert temperatures == {"TYPE_CPU": 44.0, "TYPE_BATTERY": 34.4, "TYPE_SKIN": 35.3}


def test_a_device_that_tells_nothing_has_a_state_of_nones() -> None:
    state = parse_state("@@battery\n@@thermal\n@@low_power\n@@cores\n@@end\n")
    assert (state.battery_percent, state.battery_c, state.charging, state.thermal_status) == (None,) * 4
    assert state.warmth == (None, None)
    assert state.governor == "not readable"


def test_battery_temperature_stands_in_for_a_skin_sensor() -> None:
    battery = "  status: 3\n  level: 41\n  scale: 50\n  temperature: 318\n"
    state = parse_state(f"@@battery\n{battery}@@thermal\n@@low_power\n1\n@@cores\n@@end\n")
    assert state.warmth == ("battery", 31.8)
    assert (state.battery_percent, state.charging, state.low_power) == (82, False, True)


def device_text(props: dict[str, str], cores: str = "0 1000\n", system: str = "android\n") -> str:
    listed = "".join(f"[{name}]: [{value}]\n" for name, value in props.items())
    return f"@@props\n{listed}@@system\n{system}@@cores\n{cores}@@end\n"


@pytest.mark.parametrize(
    ("props", "serial", "system", "emulator"),
    [
        ({"ro.product.model": "Phone 9"}, "A1", "android\n", None),
        ({"ro.kernel.qemu": "1"}, "A1", "android\n", "ro.kernel.qemu=1"),
        ({"ro.boot.qemu": "1"}, "A1", "android\n", "ro.boot.qemu=1"),
        ({"ro.hardware": "ranchu"}, "A1", "android\n", "ro.hardware=ranchu"),
        ({"ro.hardware": "goldfish"}, "A1", "android\n", "ro.hardware=goldfish"),
        ({"ro.product.model": "sdk_gphone64_arm64"}, "A1", "android\n", "ro.product.model=sdk_gphone64_arm64"),
        ({}, "emulator-5554", "android\n", "serial emulator-5554"),
        ({"ro.product.model": "Phone 9"}, "A1", "", "no Android system there"),
    ],
)
def test_an_emulator_is_never_shown_as_a_phone(
    props: dict[str, str], serial: str, system: str, emulator: str | None
) -> None:
    info = parse_device(device_text(props, system=system), serial)
    assert info.emulator == emulator
    assert info.kind == ("phone" if emulator is None else "emulator")
    assert info.title.startswith("emulator (") == (emulator is not None)


@pytest.mark.parametrize(
    ("cores", "threads", "mask"),
    [
        ("0 1800\n1 1800\n2 1800\n3 1800\n4 2400\n5 2400\n6 2400\n7 2400\n", 1, "f0"),
        ("0 1800\n1 1800\n2 1800\n3 1800\n4 2400\n5 2400\n6 2400\n7 3000\n", 1, "80"),
        ("0 1800\n1 1800\n2 1800\n3 1800\n4 2400\n5 2400\n6 2400\n7 3000\n", 2, "f0"),
        ("0 3000\n1 3000\n2 1800\n3 1800\n10 1800\n", 2, "3"),
        ("0 2000\n1 2000\n", 1, None),
        ("0 -\n1 -\n", 1, None),
    ],
)
def test_the_mask_is_of_the_fastest_clusters_that_hold_the_threads(cores: str, threads: int, mask: str | None) -> None:
    info = parse_device(device_text({}, cores=cores), "A1")
    assert info.big_cores_mask(threads)[0] == mask


# ----------------------------------------------------------------------------------------------------------- numerics
@pytest.mark.parametrize(
    ("dtype", "value_range", "layout", "first"),
    [
        ("uint8", (0, 255), "NHWC", [0, 1, 255]),
        ("int8", (-128, 127), "NHWC", [-128, -127, 127]),
        ("float32", (0, 1), "NCHW", [0.0, 1 / 255, 1.0]),
    ],
)
def test_a_picture_survives_the_way_to_tensor_bytes_and_back(
    dtype: str, value_range: tuple[float, float], layout: str, first: list[float]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 3), dtype=np.uint8)
    image[0, 0] = (0, 1, 255)
    shape = (1, 2, 4, 3) if layout == "NHWC" else (1, 3, 2, 4)
    spec = TensorSpec(name="x", dtype=dtype, layout=layout, shape=shape, value_range=value_range)
    data = stored_bytes(image, spec)
    values = np.frombuffer(data, dtype=dtype).reshape(shape)[0]
    channels = values[0, 0] if layout == "NHWC" else values[:, 0, 0]
    assert channels.tolist() == pytest.approx(first)
    assert np.array_equal(picture(data, spec), image)


def test_nan_and_cut_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="got NaN or infinity"):
        picture(np.full(12, np.nan, np.float32).tobytes(), SPEC)
    with pytest.raises(ValueError, match="expected 48 bytes of output, got 47"):
        picture(bytes(47), SPEC)
