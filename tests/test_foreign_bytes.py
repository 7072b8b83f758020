"""Whatever bytes a reader is handed, it gives a value or one line of error.

A new reader is one line of :data:`READERS`. Each is tried on its sample, on damaged copies of it, and on anything.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import foreign_samples as samples
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_browser_parts import hello_fields, result_fields

from apps.lint.reader import read_operators
from apps.profiling.adb import device_state, parsers
from apps.profiling.adb.adb import last_line, parse_devices
from apps.profiling.adb.commands import unknown_flags
from apps.profiling.browser.schema import Hello, PostedResult, parse
from apps.results import check_json_target
from apps.verification.gate_view import check_junit_target
from converters.ahead_of_time import compiled_delegation, read_bytecode
from converters.coreml_evaluator import Evaluator
from converters.coreml_package import PROGRAM, WEIGHTS
from converters.graphs import canonical_sha256, read_graph
from converters.inspect_tflite import inspect_tflite
from converters.mil_reader import MilPackage
from edge_sr.checkpoints import load_checkpoint
from edge_sr.errors import ArtifactError, EdgeSRError
from edge_sr.images import read_image
from edge_sr.training.config import load_config
from edge_sr.training.crop_pool import CropPool
from edge_sr.training.run_folder import read_json_object
from edge_sr.training.snapshots import load_snapshot
from quantization.state import load_quantized

LOGS = Path(__file__).parent / "adb_fixtures" / "logs"
# What people and machines put where a number, a name or a length is expected.
HOSTILE = (
    *(b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff", b"\x01", b"9" * 5000, b"1e999", b"-1", b"nan", b"0"),
    *(
        b"[" * 100_000,
        b"{" * 3000,
        b'"',
        b"\n",
        b"\r\n@@end\n",
        b"\x1b[31m",
        b"\xe2\x80\xae",
        b"\xed\xb0\x80",
        b" ",
        b"=",
    ),
)
Edit = tuple[str, float, int, bytes]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of foreign bytes.

    Attributes:
        sample: makes a whole file, in a folder of its own where it needs one.
        read: is given the bytes, and a folder whose file "x" holds them.
        examples: to try; few where one takes long.
    """

    sample: Callable[[Path], bytes]
    read: Callable[[Path, bytes], object]
    examples: int = 60


def _text(name: str, *reads: Callable[[str], object]) -> Reader:
    """Of what a device prints; everything in it is read independently."""

    def read(_: Path, content: bytes) -> None:
        for each in reads:
            try:
                each(content.decode(errors="replace"))
            except EdgeSRError as error:
                _assert_one_line(error)

    return Reader(sample=lambda _: (LOGS / name).read_bytes() if "\n" not in name else name.encode(), read=read)


def _coreml(folder: Path, place: str, content: bytes) -> None:
    package = folder / "package"
    samples.coreml_program(package)
    (package / place).write_bytes(content)
    errors = []
    for read in (lambda: read_operators(package, "coreml"), lambda: Evaluator(package)):
        try:
            read()
        except EdgeSRError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _digest(path: Path, target: str) -> str:
    return canonical_sha256(read_graph(path, target), target=target)


def _graph(target: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, _: bytes) -> None:
        _digest(folder / "x", target)
        read_operators(folder / "x", target)

    return read


def _pool(folder: Path, content: bytes) -> CropPool:
    (folder / "index.json").write_bytes(content)
    (folder / "hr.bin").write_bytes(bytes(3 * 4 * 4))
    return CropPool(folder)


def _evidence(parse_pid: int | None = None) -> Callable[[str], object]:
    return lambda text: parsers.executor_timing(parsers.parse_executor_runner(text, pid=parse_pid), warmup_runs=1)


_DEVICE = """@@props
[ro.product.model]: [Pixel]
[ro.product.cpu.abilist]: [arm64-v8a]
@@system
android
@@cores
0 1800000
7 2850000
@@end
"""
_STATE = """@@battery
  level: 80
  scale: 100
  temperature: 251
  status: 3
@@thermal
Thermal Status: 1
Current temperatures from HAL:
	Temperature{mValue=31.5, mType=3, mName=skin, mStatus=0}
Current cooling devices from HAL:
@@low_power
0
@@cores
0 schedutil 1800000
1 schedutil -
@@end
"""
_TOML = """model = "idsa_net_mobile"
scale = 4
lr = 0.002
compile = false
network = { channels = 8 }
[[phases]]
steps = 10
batch = 2
patch = 16
"""


def _big_cores(text: str) -> object:
    device = device_state.parse_device(text, "serial")
    return device.big_cores_mask(4), device.title, device.to_json()


READERS: dict[str, Reader] = {
    "png": Reader(sample=lambda f: samples.picture(f / "a.png"), read=lambda f, _: read_image(f / "x")),
    "jpeg": Reader(sample=lambda f: samples.picture(f / "a.jpg"), read=lambda f, _: read_image(f / "x")),
    "tiff": Reader(sample=lambda f: samples.picture(f / "a.tif"), read=lambda f, _: read_image(f / "x")),
    "webp": Reader(sample=lambda f: samples.picture(f / "a.webp"), read=lambda f, _: read_image(f / "x")),
    "gif": Reader(sample=lambda f: samples.picture(f / "a.gif"), read=lambda f, _: read_image(f / "x")),
    "bmp": Reader(sample=lambda f: samples.picture(f / "a.bmp"), read=lambda f, _: read_image(f / "x")),
    "checkpoint": Reader(sample=lambda f: samples.checkpoint(f / "a"), read=lambda f, _: load_checkpoint(f / "x")),
    "quantized checkpoint": Reader(
        sample=lambda f: samples.quantized_checkpoint(f / "a"), read=lambda f, _: load_quantized(f / "x"), examples=20
    ),
    "snapshot": Reader(
        sample=lambda f: samples.snapshot(f / "a"), read=lambda f, _: load_snapshot(f / "x", "cpu", steps=9)
    ),
    "tflite": Reader(sample=lambda f: samples.tflite(f / "a"), read=_graph("tflite"), examples=150),
    "tflite summary": Reader(sample=lambda f: samples.tflite(f / "a"), read=lambda f, _: inspect_tflite(f / "x")),
    "pte": Reader(sample=lambda _: samples.pte(), read=_graph("executorch"), examples=150),
    "onnx": Reader(sample=lambda _: samples.onnx_file(), read=lambda f, _: _digest(f / "x", "qnn"), examples=150),
    "compiled tflite": Reader(
        sample=lambda f: samples.compiled_tflite(f / "a"), read=lambda f, _: read_bytecode(f / "x"), examples=150
    ),
    "partitions": Reader(
        sample=lambda f: samples.compiled_tflite(f / "a"), read=lambda f, _: compiled_delegation(f / "x")
    ),
    "mlmodel": Reader(
        sample=lambda f: samples.coreml_program(f / "a"), read=lambda f, c: _coreml(f, PROGRAM, c), examples=150
    ),
    "weight.bin": Reader(sample=lambda _: samples.coreml_weights(), read=lambda f, c: _coreml(f, WEIGHTS, c)),
    "device": _text(_DEVICE, _big_cores, last_line),
    "device's state": _text(_STATE, lambda text: device_state.parse_state(text).to_json()),
    "adb devices": _text("List of devices attached\nserial\tdevice usb:1-1\n", parse_devices),
    "benchmark_model": _text("benchmark_model_2019.txt", parsers.parse_benchmark_model, parsers.parse_delegation),
    "benchmark_model on a GPU": _text("benchmark_model_2_4_gpu.txt", parsers.parse_delegation, unknown_flags),
    "executor_runner": _text("executor_runner_1_3.txt", _evidence()),
    "executor_runner in logcat": _text("executor_runner_logcat.txt", _evidence(parse_pid=4711)),
    "browser's hello": Reader(
        sample=lambda _: json.dumps(hello_fields()).encode(), read=lambda _, content: parse(Hello, content)
    ),
    "browser's result": Reader(
        sample=lambda _: json.dumps(result_fields()).encode(), read=lambda _, content: parse(PostedResult, content)
    ),
    "training configuration": Reader(sample=lambda _: _TOML.encode(), read=lambda f, _: load_config(f / "x")),
    "packed pool": Reader(sample=lambda _: samples.pool_index(), read=_pool),
    "run's JSON": Reader(sample=lambda _: b'{"a": 1}', read=lambda f, _: read_json_object(f / "x")),
    "earlier --json": Reader(sample=lambda _: b'{"kind": "edge-sr/x"}', read=lambda f, _: check_json_target(f / "x")),
    "earlier --junit": Reader(
        sample=lambda _: b"<testsuites><testsuite/></testsuites>", read=lambda f, _: check_junit_target(f / "x")
    ),
}


def _assert_one_line(error: EdgeSRError) -> None:
    message = str(error)
    assert message.isprintable(), message
    assert 0 < len(message) <= 4000


def _damaged(content: bytes, edits: list[Edit]) -> bytes:
    changed = bytearray(content)
    for kind, share, length, inserted in edits:
        at = int(share * len(changed))
        match kind:
            case "bit" if at < len(changed):
                changed[at] ^= 1 << (length % 8)
            case "over":
                changed[at : at + len(inserted)] = inserted
            case "in":
                changed[at:at] = inserted
            case "out":
                del changed[at : at + length]
            case "twice":
                changed[at:at] = changed[at : at + length]
            case "cut":
                del changed[at:]
    return bytes(changed)


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["bit", "bit", "over", "in", "out", "twice", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 64),
        st.sampled_from(HOSTILE),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", READERS)
def test_any_bytes_give_a_value_or_one_line(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    (tmp_path / "made").mkdir()
    whole = reader.sample(tmp_path / "made")
    ends = {"read": 0, "refused": 0}

    def read(content: bytes) -> None:
        (tmp_path / "x").write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of damaged files; they are no way out of a reader
                reader.read(tmp_path, content)
            ends["read"] += 1
        except EdgeSRError as error:
            _assert_one_line(error)
            ends["refused"] += 1

    read(whole)
    assert ends == {"read": 1, "refused": 0}, "the sample itself is sound"

    @settings(
        max_examples=reader.examples, derandomize=True, deadline=None, database=None, suppress_health_check=HealthCheck
    )
    @given(content=st.binary(max_size=64) | EDITS.map(lambda edits: _damaged(whole, edits)))
    def attack(content: bytes) -> None:
        read(content)

    attack()


def test_a_type_that_has_no_name_is_one_line(tmp_path: Path) -> None:
    samples.coreml_program(tmp_path)
    spec = MilPackage(tmp_path).spec
    (add,) = (op for op in spec.mlProgram.functions["main"].block_specializations["CoreML7"].operations if op.inputs)
    add.outputs[0].type.tensorType.dataType = 53
    (tmp_path / PROGRAM).write_bytes(spec.SerializeToString())
    for read in (lambda: read_graph(tmp_path, "coreml"), lambda: read_operators(tmp_path, "coreml")):
        with pytest.raises(ArtifactError, match=r"damaged one .*53"):
            read()


def test_a_device_of_absurd_numbers_keeps_what_is_sound() -> None:
    text = _DEVICE.replace("7 2850000", f"{10**9} 2850000\n3 {'9' * 5000}\n7 ²").replace("@@props", "@@other")
    device = device_state.parse_device(text, "serial")
    assert [(core.index, core.max_khz) for core in device.cores] == [(0, 1_800_000), (3, None), (7, None)]
    assert device.model == "unknown"
    state = device_state.parse_state(
        _STATE.replace("Thermal Status: 1", f"Thermal Status: {'1' * 5000}").replace("level: 80", "level: 8000")
    )
    assert (state.thermal_status, state.battery_percent, state.battery_c) == (None, None, 25.1)
    assert state.temperatures_c == {"skin": 31.5}


@pytest.mark.parametrize("value", ["1e999", "-3", "nan" * 3, "9" * 400])
def test_a_time_that_is_none_is_refused(value: str) -> None:
    log = f"Iteration 1 of 1: {value} ms"
    with pytest.raises(EdgeSRError, match="expected") as caught:
        parsers.executor_timing(parsers.parse_executor_runner(log), warmup_runs=0)
    _assert_one_line(caught.value)
