"""Latency of artifacts on an Android device: push, cool down, run, read, pull, compare, clean up.

The figures are the runtimes' own tools' (``benchmark_model``, ``executor_runner``), which time inference on tensors:
conversion of pixels is not in them, as it is in ``host`` figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from apps.profiling.adb.adb import Adb, DeviceLost, choose_device, find_adb, list_devices
from apps.profiling.adb.device_state import DeviceInfo, read_device
from apps.profiling.adb.measuring import ArtifactOnDevice
from apps.profiling.adb.planning import AdbOptions, plan_rows
from apps.profiling.adb.results import AdbReport, AdbRow
from apps.profiling.adb.session import Folder
from apps.profiling.adb.tools import TOOL_OF_TARGET, Tool, resolve_tool
from apps.progress import Progress, quiet
from converters.artifact import Artifact, load_artifact
from edge_sr.errors import ConfigError, RunnerError


def profile_over_adb(
    paths: Sequence[Path],
    *,
    serial: str | None = None,
    options: AdbOptions | None = None,
    adb: Path | str | None = None,
    benchmark_model: Path | None = None,
    executor_runner: Path | None = None,
    progress: Progress = quiet,
) -> AdbReport:
    """Measure artifacts on a device that adb sees.

    Args:
        paths: artifact folders; Core ML ones get a row that says why they cannot run there.
        serial: of the device, as ``adb devices`` prints it; needed where several are connected.
        options: how to measure; default :class:`AdbOptions`.
        adb: the adb program; default the one on PATH or under ``$ANDROID_HOME``.
        benchmark_model, executor_runner: the tools, built for Android; each is remembered once given.
        progress: called before and after each measurement.
    Returns:
        one row per artifact, backend, thread count and pinning. A row without timing says why. Where the device went
        away or Ctrl-C was pressed, the rows measured until then are whole and the others say so.
    Raises:
        ArtifactError: a folder is missing, damaged or altered; checked before the device is touched.
        MissingToolError: no adb, or a tool was never given.
        ConfigError: an option out of range, several devices and no serial, a tool for another processor.
        RunnerError: no device, or one that is unauthorized, offline or full.
    """
    options = options or AdbOptions()
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    artifacts = [load_artifact(path) for path in dict.fromkeys(Path(path) for path in paths)]
    program = find_adb(adb)
    given = {"benchmark_model": benchmark_model, "executor_runner": executor_runner}
    needed = dict.fromkeys(TOOL_OF_TARGET[a.meta.target] for a in artifacts if a.meta.target in TOOL_OF_TARGET)
    tools = {name: resolve_tool(name, given[name]) for name in needed}
    listed = choose_device(list_devices(program), serial)
    device = Adb(program, listed.serial)
    info = read_device(device, listed)
    for tool in tools.values():
        tool.check_abi(info.abis, info.title)
    plans = [(artifact, plan_rows(artifact, tools=tools, info=info, options=options)) for artifact in artifacts]
    return _measure(device, info, plans, tools=tools, options=options, progress=progress)


def _measure(
    device: Adb,
    info: DeviceInfo,
    plans: Sequence[tuple[Artifact, list[AdbRow]]],
    *,
    tools: dict[str, Tool],
    options: AdbOptions,
    progress: Progress,
) -> AdbReport:
    rows: list[AdbRow] = []
    folder = Folder(device, options.device_dir)
    interrupted, stopped, ended = False, "", ""
    try:
        with folder:
            for tool in tools.values():
                folder.push(tool.path, tool.name, executable=True)
            for artifact, planned in plans:
                # Row by row: what is measured stays, whatever happens next.
                rows_of = ArtifactOnDevice(folder, artifact, info, options, progress)
                for row in rows_of.measure(planned):
                    rows.append(row)
    except KeyboardInterrupt:
        interrupted, stopped = True, "not measured: interrupted"
    except RunnerError as error:
        if not rows and not isinstance(error, DeviceLost):
            raise
        stopped, ended = str(error), "was lost" if isinstance(error, DeviceLost) else "failed"
    left = [row for _, planned in plans for row in planned][len(rows) :]
    for at, row in enumerate(left):
        reason = stopped if at == 0 or interrupted else f"not measured: {device.serial} {ended} before"
        rows.append(row if row.reason is not None else replace(row, reason=reason, failed=not interrupted))
    return AdbReport(device=info, rows=tuple(rows), interrupted=interrupted, left_behind=folder.left_behind)
