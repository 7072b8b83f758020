"""The sections of results/devices_x4.json: what is measured for each, and the facts that are kept of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from apps.planning.planner import costs_of, plan_picture
from apps.profiling.browser.results import BrowserReport, BrowserRow, BrowserTiming
from apps.profiling.browser.session import BrowserOptions, profile_in_browser
from apps.profiling.host import profile_artifacts
from apps.profiling.layer_results import LayerProfile
from apps.profiling.layers import profile_layers
from apps.profiling.layers_view import dearest
from apps.profiling.roofline import measure_roofline
from apps.progress import Progress
from apps.results import ProfileReport, ProfileRow, Timing
from converters.artifact import Artifact
from edge_sr.errors import RunnerError
from scripts.device_subjects import DeviceSubject
from scripts.measure import RUNNABLE, SCHEMES

LAYERS_LISTED = 12
# The picture of the tile table, LR pixels: a photo of 12 megapixels comes out.
PICTURE = (750, 1000)
# Runtimes under the names that people know; others are called as they call themselves.
RUNTIME_NAMES = {"ai-edge-litert": "LiteRT", "executorch": "ExecuTorch"}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long each section measures; seconds are the most that one measurement takes."""

    threads: tuple[int, ...] = (1, 2)
    runs: int = 50
    max_seconds: float = 6.0
    roofline_rounds: int = 2
    roofline_seconds: float = 1.5
    peak_depths: tuple[int, int] = (4, 12)
    tile_sides: tuple[int, ...] = (32, 48, 64, 96, 128, 160, 192)
    tile_seconds: float = 3.0


QUICK = Effort(
    threads=(1,),
    runs=3,
    max_seconds=0.3,
    roofline_rounds=1,
    roofline_seconds=0.3,
    peak_depths=(1, 12),
    tile_sides=(16, 32),
    tile_seconds=0.3,
)
Subjects = Sequence[DeviceSubject]


# --------------------------------------------------------------------------------------------------- host and browser
def measure_host(subjects: Subjects, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Latency in this machine's runtimes, each artifact and number of threads in a process of its own."""
    artifacts = [artifact for subject in subjects for artifact in subject.artifacts(RUNNABLE)]
    report = profile_artifacts(
        [artifact.path for artifact in artifacts],
        threads=effort.threads,
        runs=effort.runs,
        max_seconds=effort.max_seconds,
        progress=progress,
    )
    return {"device": "host", "kind": "this host", "rows": paired([_host_row(row, artifacts) for row in report.rows])}


def _host_row(row: ProfileRow, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    delegates = {artifact.path: artifact.meta.delegation.delegates for artifact in artifacts}[row.artifact_path]
    timing = row.timing
    return {
        **_identity(row),
        "runtime": None if timing is None else timing.runtime,
        "runtime_version": None if timing is None else timing.runtime_version,
        "backend": "CPU, XNNPACK" if delegates else "CPU",
        "threads": row.threads,
        "timing": None if timing is None else timing_facts(timing),
        "reason": row.reason,
    }


def measure_browser(subjects: Subjects, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Latency in headless Chromium on this machine, in WebAssembly with one thread and with as many as help."""
    artifacts = [artifact for subject in subjects for artifact in subject.artifacts(("tflite",))]
    options = BrowserOptions(
        open_page=False, headless=True, backends=("wasm",), runs=effort.runs, max_seconds=effort.max_seconds
    )
    report = profile_in_browser([artifact.path for artifact in artifacts], options=options, progress=progress)
    return browser_section(report)


def browser_section(report: BrowserReport) -> dict[str, Any]:
    """A finished headless session, its rows in pairs.

    Raises:
        RunnerError: the session ended early, or ran somewhere else than in a headless browser of this machine.
    """
    device = report.device
    if device is None or not report.complete:
        raise RunnerError(f"expected a headless browser to measure everything, got {report.ended}; run it again")
    if device.kind != "headless on this host":
        raise RunnerError(f"expected a headless browser on this machine, got {device.title}; close other browsers")
    rows = [
        {
            **_identity(row),
            "runtime": row.runtime,
            "runtime_version": row.runtime_version,
            "backend": "WebAssembly" if row.configuration.backend == "wasm" else row.configuration.label,
            "threads": row.threads,
            "timing": None if row.timing is None else timing_facts(row.timing),
            "picture": None if row.numerics is None else row.numerics.summary,
            "reason": row.reason,
        }
        for row in report.rows
    ]
    told = ("user_agent", "hardware_concurrency", "cross_origin_isolated", "clock_resolution_ms")
    return {
        "device": device.title,
        "kind": device.kind,
        "browser": device.browser,
        "facts": {name: device.facts[name] for name in told},
        "rows": paired(rows),
    }


def _identity(row: ProfileRow | BrowserRow) -> dict[str, Any]:
    return {"model": row.model, "scale": row.scale, "target": row.target, "tile": row.tile, "scheme": row.scheme}


def timing_facts(timing: Timing | BrowserTiming) -> dict[str, Any]:
    """What a result keeps of a timing: no samples, but how certain and how steady their median is."""
    names = ("median_ms", "quartiles_ms", "median_interval_ms", "iqr_percent", "p95_ms", "count", "noisy", "settled")
    found = {name: getattr(timing, name) for name in (*names, "load_ms", "first_ms")}
    if isinstance(timing, Timing):
        return {**found, "peak_rss_bytes": timing.peak_rss_bytes, "base_rss_bytes": timing.base_rss_bytes}
    return {**found, "runs_per_sample": timing.runs_per_sample, "runtime_build": timing.runtime_build}


def paired(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Float and int8 of one network in one runtime side by side, with how many times as fast int8 is.

    Args:
        rows: one artifact with one number of threads each, with ``timing`` (or None) and ``reason``.
    """
    inner = ("scheme", "timing", "picture", "reason")
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["model"], row["target"], row["tile"], row["threads"])
        line = lines.setdefault(key, {name: value for name, value in row.items() if name not in inner})
        # A row without timing cannot tell what would have run it.
        for name in ("runtime", "runtime_version"):
            line[name] = line[name] or row[name]
        line[row["scheme"]] = {name: row[name] for name in inner[1:] if name in row}
    for line in lines.values():
        slow, fast = ((line.get(scheme) or {}).get("timing") for scheme in SCHEMES)
        name = line["runtime"] or line["target"]
        line["title"] = " ".join(filter(None, (RUNTIME_NAMES.get(name, name), line["runtime_version"])))
        line["ratio"] = slow["median_ms"] / fast["median_ms"] if slow and fast else None
    return list(lines.values())


# --------------------------------------------------------------------------------------------------- where time goes
def measure_layers(subjects: Subjects, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Operators of the TFLite files, by kind and the dearest ones; ExecuTorch's runtime tells of none."""
    profiles = [
        profile_layers(artifact.path, runs=effort.runs, max_seconds=effort.max_seconds, progress=progress)
        for subject in subjects
        for artifact in subject.artifacts(("tflite",))
    ]
    return {"device": "host", "rows": [layer_facts(profile) for profile in profiles]}


def layer_facts(profile: LayerProfile) -> dict[str, Any]:
    """A layer profile without its samples: kinds, the dearest layers, and what is left of the whole."""
    whole = profile.to_json()
    names = ("model", "scheme", "target", "tile", "threads", "method", "macs", "total_ms", "residual_ms", "notes")
    kept = ("name", "kind", "macs", "median_ms", "share_percent", "gmacs_per_second")
    listed, _ = dearest(profile, LAYERS_LISTED)
    places = {id(layer): place for place, layer in enumerate(profile.layers)}
    return {
        **{name: whole[name] for name in (*names, "residual_percent")},
        "layers": len(profile.layers),
        "kinds": [
            {"kind": kind, "layers": count, "ms": cost, "share_percent": 100.0 * cost / profile.total_ms}
            for kind, (count, cost) in profile.by_kind().items()
        ],
        "dearest": [{name: whole["layers"][places[id(layer)]][name] for name in kept} for layer in listed],
    }


def measure_rooflines(subjects: Subjects, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Every artifact against dense convolutions in the same runtime and arithmetic, one thread."""
    paths = [artifact.path for subject in subjects for artifact in subject.artifacts(RUNNABLE)]
    report = measure_roofline(
        paths,
        rounds=effort.roofline_rounds,
        runs=min(effort.runs, 20),
        max_seconds=effort.roofline_seconds,
        depths=effort.peak_depths,
        progress=progress,
    )
    return {"device": "host", **report.to_json()}


# -------------------------------------------------------------------------------------------------------------- tiles
def measure_tiles(subjects: Subjects, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Time and memory per tile shape of the first network's TFLite files, and what a whole picture would take."""
    subject = subjects[0]
    paths = [
        subject.artifact("tflite", scheme, tile=(side, side)).path for side in effort.tile_sides for scheme in SCHEMES
    ]
    report = profile_artifacts(paths, runs=min(effort.runs, 10), max_seconds=effort.tile_seconds, progress=progress)
    return {"device": "host", "model": subject.model, "picture": list(PICTURE), "rows": tile_rows(report, PICTURE)}


def tile_rows(report: ProfileReport, picture: tuple[int, int]) -> list[dict[str, Any]]:
    """What the planner predicts for each tile of a profile, in the profile's order.

    Args:
        report: artifacts of one scale.
        picture: (height, width) in LR pixels.
    Raises:
        RunnerError: an artifact has no timing.
    """
    rows = []
    for row in report.rows:
        if row.timing is None:
            raise RunnerError(f"expected a latency of {row.label}, got none: {row.reason}")
        (cost,) = costs_of(ProfileReport(rows=(row,), device=report.device))
        best = plan_picture(*picture, [cost]).best
        rows.append(
            {
                "scheme": row.scheme,
                "tile": row.tile,
                "overlap": row.overlap,
                "threads": row.threads,
                "runtime": row.timing.runtime,
                "runtime_version": row.timing.runtime_version,
                "timing": timing_facts(row.timing),
                "model_bytes": cost.model_bytes,
                "tiles": best.tiles,
                "computed_share": best.computed_share,
                "seconds": best.seconds,
                "memory_bytes": best.memory_bytes,
            }
        )
    return rows


SECTIONS: dict[str, Callable[[Subjects, Effort, Progress], dict[str, Any]]] = {
    "host": measure_host,
    "browser": measure_browser,
    "layers": measure_layers,
    "roofline": measure_rooflines,
    "tiles": measure_tiles,
}
