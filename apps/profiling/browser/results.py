"""What a browser's measurements are: the device, one row per artifact and configuration, and what was not measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.profiling.browser.litertjs import RUNTIME, VERSION
from apps.profiling.sampled import SampleStatistics
from apps.results import plain
from converters.artifact import Artifact
from edge_sr.errors import ConfigError

THERMAL_STATE = "not available in browsers"
BACKENDS = ("wasm", "webgpu")
PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """How a browser runs an artifact: in WebAssembly with a number of threads, or on the GPU in a precision."""

    backend: str
    threads: int = 1
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"expected a backend of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}, use --threads 1")
        if (self.precision in PRECISIONS) != (self.backend == "webgpu"):
            raise ConfigError(f"a precision of {', '.join(PRECISIONS)} belongs to webgpu, got {self.precision!r}")

    @property
    def key(self) -> str:
        """A name that can stand in a URL, such as ``wasm-2`` or ``webgpu-fp16``."""
        return f"wasm-{self.threads}" if self.backend == "wasm" else f"webgpu-{self.precision}"

    @property
    def label(self) -> str:
        """For people."""
        if self.backend == "webgpu":
            return f"WebGPU, {self.precision}"
        return f"WebAssembly, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class BrowserTiming(SampleStatistics):
    """Latency in one configuration, from a worker of its own.

    All times are milliseconds of the browser's clock. A sample is the mean of ``runs_per_sample`` runs in a row, so
    many that the clock's resolution is at most 5% of their sum: picture in (uint8), picture out (uint8), conversions
    and, on a GPU, reading back included. ``load_ms`` is compiling the model, ``runtime_load_ms`` loading LiteRT.js
    before that (the network included), ``first_ms`` the first run. ``fully_accelerated`` says whether the GPU took
    every operator; None in WebAssembly.
    """

    threads: int
    load_ms: float
    runtime_load_ms: float
    first_ms: float
    warmup_runs: int
    runs_per_sample: int
    samples_ms: tuple[float, ...]
    clock_resolution_ms: float
    runtime: str
    runtime_version: str
    runtime_build: str
    fully_accelerated: bool | None = None

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ConfigError("expected at least one sample, got none, raise the number of runs")

    def to_json(self) -> dict[str, Any]:
        names = ("count", "median_ms", "iqr_ms", "iqr_percent", "p95_ms", "noisy", "median_interval_ms", "settled")
        return plain({**{name: getattr(self, name) for name in names}, **asdict(self)})  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class BrowserNumerics:
    """The browser's output of one tile against this machine's, same file.

    ``agrees`` is what decides: a latency of a wrong picture is none. ``max_difference_levels`` are 8-bit levels,
    ``psnr_db`` is inf where nothing differs; both are None where nothing could be compared.
    """

    reference: str
    agrees: bool
    summary: str
    bit_equal: bool = False
    within_1e_6: bool = False
    max_difference_levels: float | None = None
    psnr_db: float | None = None

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class BrowserDevice:
    """The browser and the device it runs on, as far as it tells.

    Attributes:
        title: what results are shown under. A browser on this machine is called so, headless ones too.
        kind: ``phone``, ``computer``, ``this host`` or ``headless on this host``; ``emulator`` where it shows.
        address: where the page was opened from.
        facts: everything the browser told: user agent, client hints, processors, memory, isolation, clock, GPU.
        hints: what keeps it from measuring more, with the cure.
    """

    title: str
    kind: str
    browser: str
    address: str
    facts: dict[str, Any]
    hints: tuple[str, ...] = ()
    thermal_state: str = THERMAL_STATE

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class BrowserRow:
    """One artifact in one configuration; ``timing`` is None where ``reason`` says why.

    ``file`` is the artifact's file that ran (None where none can), ``notes`` what a reader of the number should know.
    """

    artifact_path: Path
    model: str
    scale: int
    scheme: str
    target: str
    tile: tuple[int, int]
    overlap: int
    file: str | None
    configuration: Configuration
    runtime: str
    runtime_version: str
    timing: BrowserTiming | None = None
    numerics: BrowserNumerics | None = None
    notes: tuple[str, ...] = ()
    reason: str | None = None
    failed: bool = False

    @property
    def label(self) -> str:
        return self.artifact_path.name

    @property
    def threads(self) -> int:
        return self.configuration.threads

    def to_json(self) -> dict[str, Any]:
        names = ("model", "scale", "scheme", "target", "tile", "overlap", "file", "runtime", "runtime_version")
        fields = {name: getattr(self, name) for name in (*names, "threads", "notes", "reason", "failed")}
        precision = self.configuration.precision
        backend = self.configuration.backend if precision is None else f"{self.configuration.backend} {precision}"
        results = {
            "timing": None if self.timing is None else self.timing.to_json(),
            "numerics": None if self.numerics is None else self.numerics.to_json(),
        }
        return plain(  # type: ignore[no-any-return]
            {"artifact_name": self.label, "device": "browser", "backend": backend, **fields, **results}
        )


def empty_row(
    artifact: Artifact, file: str | None, configuration: Configuration, *, reason: str | None = None
) -> BrowserRow:
    """The row of an artifact with nothing measured yet."""
    meta = artifact.meta
    return BrowserRow(
        artifact_path=artifact.path,
        model=meta.model,
        scale=meta.scale,
        scheme=meta.scheme,
        target=meta.target,
        tile=meta.tile,
        overlap=meta.overlap,
        file=file,
        configuration=configuration,
        runtime=RUNTIME,
        runtime_version=VERSION,
        reason=reason,
    )


@dataclass(frozen=True, kw_only=True)
class BrowserReport:
    """All measurements of one browser.

    ``ended`` says how it came to an end: ``complete``, ``timeout``, ``interrupted`` or ``closed`` (the browser that was
    started here went away). ``device`` is None where no browser came.
    """

    device: BrowserDevice | None
    rows: tuple[BrowserRow, ...]
    ended: str

    @property
    def complete(self) -> bool:
        return self.ended == "complete"

    def to_json(self) -> dict[str, Any]:
        return {
            "device": "browser",
            "device_info": None if self.device is None else self.device.to_json(),
            "ended": self.ended,
            "rows": [row.to_json() for row in self.rows],
        }
