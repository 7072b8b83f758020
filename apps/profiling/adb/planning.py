"""Which measurements there will be: one row per artifact, backend, thread count and pinning, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from apps.profiling.adb.commands import BACKENDS
from apps.profiling.adb.device_state import DeviceInfo
from apps.profiling.adb.results import AdbRow, DeviceNumerics
from apps.profiling.adb.session import DEVICE_DIR
from apps.profiling.adb.tools import TOOL_OF_TARGET, Tool
from converters.artifact import Artifact
from edge_sr.choices import expect_choice
from edge_sr.errors import ConfigError

RUNTIMES = {"tflite": "LiteRT (benchmark_model)", "executorch": "ExecuTorch (executor_runner)"}
NO_ANDROID = "cannot run there: Core ML is Apple's; use --device apple"


@dataclass(frozen=True, kw_only=True)
class AdbOptions:
    """How to measure.

    Attributes:
        threads: CPU thread counts, each measured.
        backends: of TFLite artifacts (``xnnpack``, ``gpu``, ``nnapi``); an ExecuTorch program has its own inside.
        pinning: whether to pin to the big cores: both by default, where the device has cores of several speeds.
        runs, max_seconds: timed runs per measurement, fewer where they take longer than that.
        cool_down_s, cool_below_c: wait this long at most before each measurement for the device to be this cool (skin
            sensor, else battery).
        device_dir: where programs may be put and run on the device.
    """

    threads: tuple[int, ...] = (1,)
    backends: tuple[str, ...] = ("xnnpack",)
    pinning: tuple[bool, ...] = (True, False)
    runs: int = 50
    max_seconds: float = 20.0
    cool_down_s: float = 120.0
    cool_below_c: float = 36.0
    device_dir: str = DEVICE_DIR

    def __post_init__(self) -> None:
        if not self.threads or min(self.threads) < 1:
            raise ConfigError(f"threads must be at least 1, got {list(self.threads)}, use --threads 1")
        for name in self.backends or ("none",):
            expect_choice("backend", name, BACKENDS)
        if not self.pinning:
            raise ConfigError("expected pinned, unpinned or both, got neither")
        if self.runs < 1 or self.max_seconds <= 0:
            raise ConfigError(f"runs and seconds must be positive, got {self.runs} runs in {self.max_seconds} s")
        if self.cool_down_s < 0:
            raise ConfigError(f"cool-down must not be negative, got {self.cool_down_s} s")
        if not self.device_dir.startswith("/"):
            raise ConfigError(f"expected an absolute folder on the device, got {self.device_dir!r}")


def plan_rows(artifact: Artifact, *, tools: dict[str, Tool], info: DeviceInfo, options: AdbOptions) -> list[AdbRow]:
    """The rows of one artifact, without any figure yet. A Core ML artifact has one, with the reason."""
    meta = artifact.meta
    blank = AdbRow(
        artifact_path=artifact.path,
        model=meta.model,
        scheme=meta.scheme,
        target=meta.target,
        tile=meta.tile,
        artifact_sha256=str(meta.to_json()["sha256"]),
        threads=options.threads[0],
        backend="none",
        pinned=False,
        runtime=RUNTIMES.get(meta.target, "Core ML"),
        runtime_version="unknown",
    )
    if meta.target not in TOOL_OF_TARGET:
        return [replace(blank, reason=NO_ANDROID, numerics=DeviceNumerics(reason=NO_ANDROID))]
    tool = tools[TOOL_OF_TARGET[meta.target]]
    # Neither tool prints its version: the hash of its file is what tells one from another.
    blank = replace(blank, tool=tool, runtime_version=f"not printed; tool {tool.sha256[:12]}")
    backends = options.backends if meta.target == "tflite" else ("xnnpack",)
    return [
        row
        for backend in dict.fromkeys(backends)
        for threads in dict.fromkeys(options.threads)
        for row in _pinnings(replace(blank, backend=backend, threads=threads), info, options.pinning)
    ]


def _pinnings(row: AdbRow, info: DeviceInfo, pinning: tuple[bool, ...]) -> list[AdbRow]:
    mask, why = info.big_cores_mask(row.threads)
    if mask is None:
        return [replace(row, notes=(why,) if True in pinning else ())]
    return [
        replace(row, pinned=True, taskset_mask=mask, notes=(why,)) if pinned else row
        for pinned in dict.fromkeys(pinning)
    ]
