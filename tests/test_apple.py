"""Core ML on Apple's devices: refused at once elsewhere; on macOS with stand-ins of coremltools' own signatures."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from apps.profiling import apple, apple_toolkit
from apps.profiling.adb.numerics import sample_tile
from apps.profiling.adb_view import print_apple
from apps.profiling.apple import profile_on_apple
from edge_sr.errors import ConfigError, MissingToolError, RunnerError
from fakes import fake_artifact

PICTURE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------- other systems
@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")
@pytest.mark.parametrize(("place", "needs"), [("mac", "a Mac"), ("iphone", "a Mac with Xcode and the iPhone")])
def test_other_systems_are_told_what_it_needs_at_once(tmp_path: Path, place: str, needs: str) -> None:
    start = time.perf_counter()
    with pytest.raises(RunnerError, match=f"^--device apple needs {needs}.*, got Linux; copy the artifact") as caught:
        profile_on_apple([tmp_path / "nothing is read"], place=place)
    assert time.perf_counter() - start < 1.0
    assert "\n" not in str(caught.value)


def test_a_mac_without_xcode_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(apple.shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match="got no xcrun; run xcode-select --install"):
        profile_on_apple([tmp_path])


# --------------------------------------------------------------------------------------- stand-ins of coremltools' API
class MLCPUComputeDevice:
    """Named as coremltools' own: the plan goes by the name."""


class MLNeuralEngineComputeDevice:
    """See :class:`MLCPUComputeDevice`."""


class FakePlan:
    """Three operations on the Neural Engine (90% of the cost), one on the CPU, one constant."""

    def __init__(self) -> None:
        names = ("conv", "conv", "add", "split", "const")
        operations = [SimpleNamespace(operator_name=name) for name in names]
        main = SimpleNamespace(block=SimpleNamespace(operations=operations))
        self.model_structure = SimpleNamespace(program=SimpleNamespace(functions={"main": main}))

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
        if operation.operator_name == "const":
            return None
        kind = MLCPUComputeDevice if operation.operator_name == "split" else MLNeuralEngineComputeDevice
        return SimpleNamespace(preferred_compute_device=kind(), supported_compute_devices=[])

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
        return SimpleNamespace(weight={"conv": 0.4, "add": 0.1, "split": 0.1}[operation.operator_name])


class FakeWrapper:
    """What :class:`MLModelAsyncWrapper` gives for a model."""

    picture: np.ndarray[Any, Any] = PICTURE
    unloaded = 0

    @staticmethod
    def from_spec_or_path(
        spec_or_path: Any,
        weights_dir: str,
        compute_units: Any = None,
        function_name: str | None = None,
        optimization_hints: dict[str, Any] | None = None,
        device: Any = None,
    ) -> FakeWrapper:
        return FakeWrapper()

    async def load(self) -> None:
        await asyncio.sleep(0)

    async def predict(self, inputs: dict[str, Any], state: Any = None) -> dict[str, Any]:
        assert np.array_equal(np.asarray(inputs["x"]), sample_tile((16, 16)))
        return {"y": Image.fromarray(self.picture)}

    async def retrieve_compute_plan(self) -> FakePlan:
        return FakePlan()

    async def unload(self) -> None:
        FakeWrapper.unloaded += 1


class FakeBenchmarker:
    """What :class:`MLModelBenchmarker` measures; the loop of each call is noted."""

    loops: ClassVar[list[Any]] = []
    fails_on: str | None = None

    def __init__(self, model: Any, device: Any = None) -> None:
        self.model = model

    async def benchmark_load(self, iterations: int = 1) -> Any:
        FakeBenchmarker.loops.append(asyncio.get_running_loop())
        return SimpleNamespace(samples=[90.0, 12.0, 11.0][:iterations])

    async def benchmark_predict(
        self, inputs: dict[str, Any] | None = None, iterations: int = 1, warmup: bool = False
    ) -> Any:
        assert inputs, "pictures are never generated"
        assert warmup
        if self.model.compute_unit == self.fails_on:
            raise RuntimeError("Error computing\nNN outputs")
        return SimpleNamespace(samples=[float(run + 1) for run in range(iterations)])


class FakeModel:
    """What of :class:`MLModel` is used."""

    weights_dir, function_name, optimization_hints = "weights", None, None

    def __init__(self, model: str, skip_model_load: bool = False, compute_units: Any = None) -> None:
        self.compute_unit = compute_units

    def get_spec(self) -> str:
        return "spec"


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes itself for a Mac, with the stand-ins in coremltools' place."""
    coremltools = pytest.importorskip("coremltools", reason="coremltools is not installed")
    from coremltools.models.ml_program.experimental import async_wrapper, perf_utils

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(apple.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "xcrun" else None)
    monkeypatch.setattr(coremltools.models, "MLModel", FakeModel)
    monkeypatch.setattr(coremltools, "ComputeUnit", SimpleNamespace(**{unit: unit for unit in apple.COMPUTE_UNITS}))
    monkeypatch.setattr(async_wrapper, "MLModelAsyncWrapper", FakeWrapper)
    monkeypatch.setattr(perf_utils, "MLModelBenchmarker", FakeBenchmarker)
    monkeypatch.setattr(FakeBenchmarker, "loops", [])
    reference = SimpleNamespace(run=lambda tile: PICTURE)
    monkeypatch.setattr(apple, "open_runner", lambda artifact, *, runtime: reference)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return fake_artifact(tmp_path, "coreml")


@pytest.mark.usefixtures("mac")
def test_every_compute_unit_gets_its_samples_plan_and_comparison(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = profile_on_apple([package], runs=5)
    print_apple(report)
    assert "Neural Engine 3 ops (90% of cost), CPU 1 ops (10% of cost)" in " ".join(capsys.readouterr().out.split())
    assert [row.compute_unit for row in report.rows] == ["ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"]
    row = report.rows[0]
    assert row.timing is not None
    assert row.timing.samples_ms == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert (row.timing.median_ms, row.timing.load_ms, row.load_samples_ms) == (3.0, 11.0, (90.0, 12.0, 11.0))
    assert row.plan is not None
    engine, cpu = row.plan.shares["Neural Engine"], row.plan.shares["CPU"]
    assert (engine.operations, engine.by_name) == (3, {"add": 1, "conv": 2})
    assert engine.cost_percent == pytest.approx(90.0)
    assert (cpu.operations, cpu.cost_percent) == (1, pytest.approx(10.0))
    assert (row.numerics.agrees, row.numerics.max_difference) == (True, 0)
    assert report.to_json()["rows"][0]["timing"]["kind"] == "samples"


@pytest.mark.usefixtures("mac")
def test_one_event_loop_serves_all_calls(package: Path) -> None:
    profile_on_apple([package], runs=1)
    assert len(FakeBenchmarker.loops) == 4
    assert len(set(map(id, FakeBenchmarker.loops))) == 1


@pytest.mark.usefixtures("mac")
def test_a_unit_that_fails_is_one_line_and_the_others_are_measured(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBenchmarker, "fails_on", "CPU_AND_GPU")
    rows = profile_on_apple([package], runs=1).rows
    assert [row.failed for row in rows] == [False, False, True, False]
    assert rows[2].reason == "expected Core ML's benchmarker to work, got RuntimeError: Error computing NN outputs"


@pytest.mark.usefixtures("mac")
def test_a_device_that_computes_something_else_does_not_agree(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeWrapper, "picture", 255 - PICTURE)
    row = profile_on_apple([package], compute_units=["CPU_AND_NE"], runs=1).rows[0]
    assert row.numerics.agrees is False
    monkeypatch.setattr(FakeWrapper, "picture", PICTURE[:32])
    row = profile_on_apple([package], compute_units=["CPU_AND_NE"], runs=1).rows[0]
    assert row.numerics.reason == "expected a picture of (64, 64, 3), got (32, 64, 3)"


@pytest.mark.usefixtures("mac")
def test_other_targets_get_a_row_with_the_reason(tmp_path: Path) -> None:
    row = profile_on_apple([fake_artifact(tmp_path, "tflite")]).rows[0]
    assert (row.timing, row.reason, row.failed) == (None, "a tflite artifact, not Core ML's", False)


@pytest.mark.usefixtures("mac")
def test_options_out_of_range_are_refused(package: Path) -> None:
    with pytest.raises(ConfigError, match="compute unit must be one of ALL"):
        profile_on_apple([package], compute_units=["NPU"])
    with pytest.raises(ConfigError, match="runs must be positive"):
        profile_on_apple([package], runs=0)
    with pytest.raises(ConfigError, match="give --team ID"):
        profile_on_apple([package], place="iphone")
    with pytest.raises(ConfigError, match="place must be one of mac, iphone"):
        profile_on_apple([package], place="watch")


class FakeIPhone:
    """What of coremltools' Device is used."""

    def __init__(self, name: str) -> None:
        self.name, self.identifier, self.udid = name, f"id {name}", f"udid {name}"
        self.os_version, self.os_build_number = "18.1", "22B83"

    async def prepare_for_model_debugging(
        self, credentials: Any = None, working_directory: Any = None, clean: bool = False
    ) -> FakeIPhone:
        assert credentials.development_team == "TEAM"
        return self


@pytest.mark.usefixtures("mac")
def test_an_iphone_is_chosen_prepared_and_named_in_every_row(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coremltools.models.ml_program.experimental.remote_device import Device

    phones: list[FakeIPhone] = []
    monkeypatch.setattr(Device, "get_connected_devices", staticmethod(lambda device_type: phones))

    def measure(name: str | None = None) -> Any:
        return profile_on_apple([package], place="iphone", runs=1, development_team="TEAM", device_name=name)

    with pytest.raises(RunnerError, match="expected a connected iPhone, got none"):
        measure()
    phones[:] = [FakeIPhone("first"), FakeIPhone("second")]
    with pytest.raises(ConfigError, match="got 2 that fit of first, second; name it with --serial"):
        measure()
    report = measure("second")
    assert (report.device, report.os) == ("second (iPhone)", "iOS 18.1 (22B83)")
    assert {row.device for row in report.rows} == {"second (iPhone)"}


def test_a_call_that_never_ends_is_ended(mac: None, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(self: FakeBenchmarker, iterations: int = 1) -> Any:
        await asyncio.sleep(3600)

    monkeypatch.setattr(FakeBenchmarker, "benchmark_load", forever)
    monkeypatch.setattr(apple_toolkit, "_CALL_SECONDS", 0.05)
    row = profile_on_apple([package], compute_units=["ALL"], runs=1).rows[0]
    assert row.reason is not None
    assert "got no end" in row.reason


# ------------------------------------------------------------------------------------- the stand-ins are like the real
def test_the_stand_ins_have_the_signatures_of_the_installed_coremltools() -> None:
    coremltools = pytest.importorskip("coremltools", reason="coremltools is not installed")
    from coremltools.models.compute_plan import MLComputePlan
    from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device, DeviceType

    pairs = [
        (FakeBenchmarker.__init__, MLModelBenchmarker.__init__),
        (FakeBenchmarker.benchmark_load, MLModelBenchmarker.benchmark_load),
        (FakeBenchmarker.benchmark_predict, MLModelBenchmarker.benchmark_predict),
        (FakeWrapper.from_spec_or_path, MLModelAsyncWrapper.from_spec_or_path),
        (FakeWrapper.load, MLModelAsyncWrapper.load),
        (FakeWrapper.predict, MLModelAsyncWrapper.predict),
        (FakeWrapper.retrieve_compute_plan, MLModelAsyncWrapper.retrieve_compute_plan),
        (FakeWrapper.unload, MLModelAsyncWrapper.unload),
        (FakeIPhone.prepare_for_model_debugging, Device.prepare_for_model_debugging),
        (
            FakePlan.get_compute_device_usage_for_mlprogram_operation,
            MLComputePlan.get_compute_device_usage_for_mlprogram_operation,
        ),
        (FakePlan.get_estimated_cost_for_mlprogram_operation, MLComputePlan.get_estimated_cost_for_mlprogram_operation),
    ]
    for fake, real in pairs:
        assert list(inspect.signature(fake).parameters) == list(inspect.signature(real).parameters), real
        assert inspect.iscoroutinefunction(fake) == inspect.iscoroutinefunction(real), real
    model = inspect.signature(coremltools.models.MLModel.__init__).parameters
    assert {"model", "skip_model_load", "compute_units"} <= set(model)
    assert {unit.name for unit in coremltools.ComputeUnit} == set(apple.COMPUTE_UNITS)
    assert {"samples", "statistics"} == set(MLModelBenchmarker.Measurement.__dataclass_fields__)
    assert {"name", "identifier", "udid", "os_version", "os_build_number"} <= set(Device.__dataclass_fields__)
    assert "development_team" in AppSigningCredentials.__dataclass_fields__
    assert DeviceType.IPHONE.value == "iphone"
    source = inspect.getsource(coremltools.models.MLModel)
    for name in ("get_spec", "weights_dir", "compute_unit", "function_name", "optimization_hints"):
        assert name in source


def test_the_plan_goes_by_the_names_of_coremltools_devices() -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    from coremltools.models import compute_device

    for name in apple_toolkit._DEVICE_NAMES:
        assert isinstance(getattr(compute_device, name), type)
