"""coremltools' benchmarker and compute plan, on this Mac or on an iPhone connected to it; macOS only.

Written against coremltools 9.0, whose signatures the tests check; no Mac was at hand, so nobody has run it on one yet.
"""

from __future__ import annotations

import asyncio
import math
import platform
import shutil
import subprocess
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from apps.profiling.apple_results import ComputePlan, DeviceShare
from converters.artifact import Artifact
from converters.coreml_toolchain import import_coremltools
from edge_sr.errors import ConfigError, MissingToolError, RunnerError, cause_of
from edge_sr.foreign_text import visible

Image = NDArray[np.uint8]

LOADS = 3
_CALL_SECONDS = 600.0
# Xcode builds and signs an app for the phone the first time.
_PREPARE_SECONDS = 1800.0
_DEVICE_NAMES = {
    "MLCPUComputeDevice": "CPU",
    "MLGPUComputeDevice": "GPU",
    "MLNeuralEngineComputeDevice": "Neural Engine",
}
T = TypeVar("T")


class Toolkit:
    """coremltools' measuring classes, and the Mac or iPhone that they measure on. A context manager.

    One event loop serves all calls: coremltools ties its connection to an iPhone to the loop that made it.

    Attributes:
        device, os: what is measured on, for people.
        remote: the iPhone, None on the Mac itself.
    """

    def __init__(self, place: str, *, development_team: str | None = None, device_name: str | None = None) -> None:
        self.coremltools = import_coremltools()
        try:
            from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper
            from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
        except ImportError as error:
            raise MissingToolError(
                f"expected coremltools 9 or later, got {error}; pip install -U coremltools"
            ) from None
        self._benchmarker: Any = MLModelBenchmarker
        self._wrapper: Any = MLModelAsyncWrapper
        self._loop = asyncio.Runner()
        self.remote: Any = None
        self.device = f"{sysctl('hw.model')}, {sysctl('machdep.cpu.brand_string')}"
        self.os = f"macOS {platform.mac_ver()[0]}"
        if place == "iphone":
            try:
                self._prepare_iphone(development_team, device_name)
            except BaseException:
                self._loop.close()
                raise

    def __enter__(self) -> Toolkit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.close()

    def open(self, artifact: Artifact, unit: str) -> Any:
        """coremltools' MLModel for one compute unit.

        Raises:
            RunnerError: Core ML cannot load the package.
        """
        try:
            return self.coremltools.models.MLModel(
                str(artifact.main_path),
                # An iPhone's model is loaded there; here only its description is needed.
                skip_model_load=self.remote is not None,
                compute_units=getattr(self.coremltools.ComputeUnit, unit),
            )
        except Exception as error:
            raise RunnerError(f"expected Core ML to load {artifact.main_path}, got {cause_of(error)}") from error

    def benchmark(self, model: Any, inputs: dict[str, Any], runs: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Load the model :data:`LOADS` times and predict ``runs`` times after one that is not timed.

        Returns:
            loads and predictions, in milliseconds.
        Raises:
            RunnerError: Core ML failed, or did not end in time.
        """
        return self._run(self._benchmark(model, inputs, runs), "Core ML's benchmarker", _CALL_SECONDS)

    def inspect(
        self, model: Any, inputs: dict[str, Any], output: str
    ) -> tuple[ComputePlan | RunnerError, Image | RunnerError]:
        """Core ML's plan of the model where it is measured, and the picture that it makes of ``inputs`` there.

        Each is an error, one line, where Core ML does not give it.
        """
        try:
            plan, value = self._run(self._inspect(model, inputs, output), "inspecting the model", _CALL_SECONDS)
        except RunnerError as error:
            return error, error
        return plan, value

    async def _inspect(
        self, model: Any, inputs: dict[str, Any], output: str
    ) -> tuple[ComputePlan | RunnerError, Image | RunnerError]:
        # As the benchmarker opens it; on an iPhone too.
        loaded = self._wrapper.from_spec_or_path(
            spec_or_path=model.get_spec(),
            weights_dir=model.weights_dir,
            compute_units=model.compute_unit,
            function_name=model.function_name,
            optimization_hints=model.optimization_hints,
            device=self.remote,
        )
        await loaded.load()
        try:
            plan: ComputePlan | RunnerError
            image: Image | RunnerError
            try:
                plan = summarize_plan(await loaded.retrieve_compute_plan())
            except Exception as error:  # noqa: BLE001  (the picture may come all the same)
                plan = RunnerError(f"expected a compute plan from Core ML, got {cause_of(error)}")
            try:
                image = as_picture((await loaded.predict(inputs))[output])
            except Exception as error:  # noqa: BLE001  (the plan stands without it)
                image = RunnerError(f"expected a picture from Core ML, got {cause_of(error)}")
            return plan, image
        finally:
            await loaded.unload()

    async def _benchmark(
        self, model: Any, inputs: dict[str, Any], runs: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        benchmarker = self._benchmarker(model=model, device=self.remote)
        load = await benchmarker.benchmark_load(iterations=LOADS)
        # Always with inputs: it cannot make pictures itself (coremltools 9.0).
        predict = await benchmarker.benchmark_predict(inputs=inputs, iterations=runs, warmup=True)
        return _times(load.samples, "loads"), _times(predict.samples, "predictions")

    def _prepare_iphone(self, development_team: str | None, name: str | None) -> None:
        from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device, DeviceType

        devices = list(Device.get_connected_devices(DeviceType.IPHONE))
        if not devices:
            raise RunnerError(
                "expected a connected iPhone, got none; connect it by cable, unlock it, trust this Mac and turn on its "
                "developer mode"
            )
        chosen = [device for device in devices if name in (None, device.name, device.identifier, device.udid)]
        if len(chosen) != 1:
            names = ", ".join(str(device.name) for device in devices)
            raise ConfigError(f"expected one iPhone, got {len(chosen)} that fit of {names}; name it with --serial")
        work = chosen[0].prepare_for_model_debugging(
            credentials=AppSigningCredentials(development_team=development_team)
        )
        self.remote = self._run(work, "preparing the iPhone", _PREPARE_SECONDS)
        self.device = f"{self.remote.name} (iPhone)"
        self.os = f"iOS {self.remote.os_version} ({self.remote.os_build_number})"

    def _run(self, work: Coroutine[Any, Any, T], what: str, limit_s: float) -> T:
        async def limited() -> T:
            return await asyncio.wait_for(work, limit_s)

        try:
            return self._loop.run(limited())
        except TimeoutError:
            raise RunnerError(
                f"expected {what} to end within {limit_s:.0f} s, got no end; see that the device is unlocked"
            ) from None
        except Exception as error:
            raise RunnerError(f"expected {what} to work, got {cause_of(error)}") from error


def summarize_plan(plan: Any) -> ComputePlan:
    """coremltools' MLComputePlan of an ML program as counts and shares of the estimated cost.

    Raises:
        RunnerError: it holds no operation.
    """
    program = plan.model_structure.program
    operations = [] if program is None else list(program.functions["main"].block.operations)
    found: list[tuple[str, str, float | None]] = []
    for operation in operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:
            continue  # constants run nowhere
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        kind = type(usage.preferred_compute_device).__name__
        weight = None if cost is None else float(cost.weight)
        found.append((_DEVICE_NAMES.get(kind, kind), str(operation.operator_name), weight))
    if not found:
        raise RunnerError("no operation that runs on any device")
    return ComputePlan(shares={name: _share(name, found) for name in dict.fromkeys(place for place, _, _ in found)})


def as_picture(value: Any) -> Image:
    """Core ML's picture (a Pillow image here, an array from an iPhone) as (height, width, 3) uint8 RGB.

    Raises:
        RunnerError: it is neither.
    """
    array = np.asarray(value.convert("RGB") if hasattr(value, "convert") else value)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise RunnerError(f"an array of shape {array.shape} {array.dtype}")
    return array


def _share(device: str, found: Sequence[tuple[str, str, float | None]]) -> DeviceShare:
    own = [(name, weight) for place, name, weight in found if place == device]
    names = [name for name, _ in own]
    weights = [weight for _, weight in own if weight is not None]
    return DeviceShare(
        operations=len(own),
        cost_percent=100.0 * math.fsum(weights) if weights else None,
        by_name={name: names.count(name) for name in sorted(set(names))},
    )


def thermal_state() -> str | None:
    """What this Mac says of its own throttling, in its own words; None where it says nothing."""
    program = shutil.which("pmset")
    if program is None:
        return None
    done = subprocess.run(
        [program, "-g", "therm"], capture_output=True, text=True, errors="replace", timeout=10, check=False
    )
    return " ".join(done.stdout.split())[:200] or None


def sysctl(name: str) -> str:
    """A value of this Mac's kernel, such as its model."""
    program = shutil.which("sysctl")
    if program is None:
        return "unknown"
    done = subprocess.run(
        [program, "-n", name], capture_output=True, text=True, errors="replace", timeout=5, check=False
    )
    return done.stdout.strip() or "unknown"


def _times(samples: Any, what: str) -> tuple[float, ...]:
    """Samples as Core ML's benchmarker gives them, in milliseconds."""
    times = tuple(float(sample) for sample in samples)
    if not times or not all(math.isfinite(time) and time >= 0 for time in times):
        raise RunnerError(f"expected times of {what} from Core ML's benchmarker, got {visible(times, limit=100)}")
    return times
