"""Core ML packages on a Mac and on a connected iPhone, per compute unit, with Apple's own benchmarker.

Written against coremltools 9.0, whose signatures the tests check; no Mac was at hand, so nobody has run it on one yet.
Several of these calls hang for minutes on other systems: :func:`profile_on_apple` looks at the system first.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image as PillowImage

from apps.machine import package_version
from apps.profiling.adb.numerics import compare_pictures, sample_tile
from apps.profiling.adb.results import DeviceNumerics, SampledTiming
from apps.profiling.apple_results import AppleReport, AppleRow
from apps.profiling.apple_toolkit import Image, Toolkit, thermal_state
from apps.progress import Progress, quiet
from converters.artifact import Artifact, load_artifact
from converters.runners import open_runner
from edge_sr.choices import expect_choice
from edge_sr.errors import ConfigError, EdgeSRError, MissingToolError, RunnerError

COMPUTE_UNITS = ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")
PLACES = ("mac", "iphone")


def profile_on_apple(
    paths: Sequence[Path],
    *,
    place: str = "mac",
    compute_units: Sequence[str] = COMPUTE_UNITS,
    runs: int = 50,
    development_team: str | None = None,
    device_name: str | None = None,
    progress: Progress = quiet,
) -> AppleReport:
    """Measure Core ML artifacts on this Mac, or on an iPhone connected to it.

    Args:
        paths: artifact folders; other targets get a row that says why they are left out.
        place: ``mac`` or ``iphone``.
        compute_units: of :data:`COMPUTE_UNITS`, each measured.
        runs: timed predictions, after one that is not.
        development_team: Apple's identifier of the team that signs the measuring app; needed for an iPhone.
        device_name: name or identifier of the iPhone; needed where several are connected.
        progress: called around each measurement.
    Raises:
        RunnerError: this is not macOS, or no iPhone is connected; at once, one line.
        MissingToolError: Xcode's command line tools or coremltools are missing.
        ConfigError: an option out of range.
        ArtifactError: a folder is missing, damaged or altered.
    """
    check_system(place)
    for unit in compute_units or ("none",):
        expect_choice("compute unit", unit, COMPUTE_UNITS)
    if runs < 1:
        raise ConfigError(f"runs must be positive, got {runs}, use --runs 50")
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    if place == "iphone" and not development_team:
        raise ConfigError("expected the development team that signs the app on the iPhone, got none; give --team ID")
    artifacts = [load_artifact(path) for path in dict.fromkeys(Path(path) for path in paths)]
    rows: list[AppleRow] = []
    with Toolkit(place, development_team=development_team, device_name=device_name) as toolkit:
        for artifact in artifacts:
            if artifact.meta.target != "coreml":
                reason = f"a {artifact.meta.target} artifact, not Core ML's"
                rows.append(_blank(artifact, toolkit, "none", reason=reason))
                continue
            for unit in dict.fromkeys(compute_units):
                what = f"profile {artifact.path.name}, {unit}"
                progress(what, 0, 1)
                rows.append(_measure(artifact, toolkit, unit, runs))
                progress(what, 1, 1)
        return AppleReport(device=toolkit.device, os=toolkit.os, rows=tuple(rows))


def check_system(place: str) -> None:
    """Raise at once where Apple's tools cannot be: not macOS, or no Xcode command line tools."""
    expect_choice("place", place, PLACES)
    if sys.platform != "darwin":
        needs = "a Mac" if place == "mac" else "a Mac with Xcode and the iPhone connected to it"
        raise RunnerError(
            f"--device apple needs {needs} (macOS, coremltools), got {platform.system()}; copy the artifact folder to "
            "a Mac and run the same command there"
        )
    if shutil.which("xcrun") is None:
        raise MissingToolError("expected Xcode's command line tools, got no xcrun; run xcode-select --install")


def _blank(artifact: Artifact, toolkit: Toolkit, unit: str, *, reason: str | None = None) -> AppleRow:
    meta = artifact.meta
    return AppleRow(
        artifact_path=artifact.path,
        model=meta.model,
        scheme=meta.scheme,
        target=meta.target,
        tile=meta.tile,
        artifact_sha256=str(meta.to_json()["sha256"]),
        compute_unit=unit,
        device=toolkit.device,
        os=toolkit.os,
        runtime="Core ML",
        # Core ML is part of the system and has no version of its own.
        runtime_version=f"{toolkit.os}, coremltools {package_version('coremltools') or 'unknown'}",
        reason=reason,
    )


def _measure(artifact: Artifact, toolkit: Toolkit, unit: str, runs: int) -> AppleRow:
    row = _blank(artifact, toolkit, unit)
    tile = PillowImage.fromarray(sample_tile(artifact.meta.tile))
    inputs = {artifact.meta.io[artifact.meta.main_file].input.name: tile}
    try:
        model = toolkit.open(artifact, unit)
        loads, predictions = toolkit.benchmark(model, inputs, runs)
    except EdgeSRError as error:
        return replace(row, reason=str(error), failed=True)
    # The first load also compiles the package for the device; the last one is what a user waits for afterwards.
    timing = SampledTiming(samples_ms=predictions, warmup_runs=1, load_ms=loads[-1])
    row = replace(row, timing=timing, load_samples_ms=loads)
    if toolkit.remote is None:
        row = replace(row, thermal_state=thermal_state())
    plan, picture = toolkit.inspect(model, inputs, artifact.meta.io[artifact.meta.main_file].output.name)
    row = replace(row, numerics=_numerics(artifact, picture))
    if isinstance(plan, RunnerError):
        return replace(row, plan_reason=str(plan))
    return replace(row, plan=plan)


def _numerics(artifact: Artifact, picture: Image | RunnerError) -> DeviceNumerics:
    """The device's picture against the same package executed operation by operation in torch."""
    if isinstance(picture, RunnerError):
        return DeviceNumerics(reason=f"numerics not verified on device: {picture}")
    try:
        reference = open_runner(artifact, runtime="coreml_evaluator").run(sample_tile(artifact.meta.tile))
    except EdgeSRError as error:
        return DeviceNumerics(reason=f"numerics not verified on device: nothing to compare with: {error}")
    if picture.shape != reference.shape:
        return DeviceNumerics(reason=f"expected a picture of {reference.shape}, got {picture.shape}", agrees=False)
    return compare_pictures(picture, reference, "coreml_evaluator on this machine")
