"""One artifact on one device: a run that shows whether it computes the right thing, then the timed runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from apps.profiling.adb.adb import DeviceLost, Done
from apps.profiling.adb.commands import (
    BACKEND_FLAGS,
    INPUT_FILE,
    OUTPUT_FILES,
    TENSOR_FLAGS,
    WARMUP_RUNS,
    Plan,
    explain,
    unknown_flags,
)
from apps.profiling.adb.device_state import DeviceInfo, DeviceState, read_state
from apps.profiling.adb.numerics import Image, compare, reference_output, sample_tile, stored_bytes
from apps.profiling.adb.parsers import (
    ExecutorLog,
    executor_timing,
    parse_benchmark_model,
    parse_delegation,
    parse_executor_runner,
)
from apps.profiling.adb.planning import AdbOptions
from apps.profiling.adb.results import AdbRow, DelegationSeen, DeviceNumerics, PrintedStatistics, SampledTiming
from apps.profiling.adb.session import Folder, cool_down
from apps.progress import Progress
from converters.artifact import Artifact
from edge_sr.errors import RunnerError

FEWEST_RUNS = 10
# Start of the tool and loading of the model, beside the timed runs.
_STARTUP_SECONDS = 120.0
_NOT_VERIFIED = "numerics not verified on device"


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """What the first run told: the comparison, whether the tool reads inputs, and how long a run takes."""

    numerics: DeviceNumerics
    feeds_input: bool = True
    run_ms: float | None = None


class ArtifactOnDevice:
    """The measurements of one artifact, in a folder that already holds the tools."""

    def __init__(
        self, folder: Folder, artifact: Artifact, info: DeviceInfo, options: AdbOptions, progress: Progress
    ) -> None:
        self._folder, self._artifact, self._info = folder, artifact, info
        self._options, self._progress = options, progress
        self._model = f"model{artifact.main_path.suffix}"
        self._io = artifact.meta.io[artifact.meta.main_file]

    def measure(self, planned: list[AdbRow]) -> Iterator[AdbRow]:
        """Give each planned row as soon as it is measured, or has failed with its reason.

        Raises:
            DeviceLost: the device is gone; the rows given so far are whole.
        """
        if all(row.reason is not None for row in planned):
            yield from planned
            return
        try:
            self._push()
        except RunnerError as error:
            _unless_lost(error)
            yield from (replace(row, reason=str(error), failed=True) for row in planned)
            self._folder.delete(self._model, INPUT_FILE)
            return
        reference = reference_output(self._artifact)
        for backend in dict.fromkeys(row.backend for row in planned):
            own = [row for row in planned if row.backend == backend]
            try:
                probe = self._probe(own[0], reference)
            except RunnerError as error:
                _unless_lost(error)
                yield from (replace(row, reason=str(error), failed=True) for row in own)
                continue
            for row in own:
                yield self._measure_row(row, probe)
        # The next artifact finds the storage as this one did.
        self._folder.delete(self._model, INPUT_FILE, *OUTPUT_FILES.values())

    def _push(self) -> None:
        self._folder.push(self._artifact.main_path, self._model)
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / INPUT_FILE
            local.write_bytes(stored_bytes(sample_tile(self._artifact.meta.tile), self._io.input))
            self._folder.push(local, INPUT_FILE)

    def _probe(self, row: AdbRow, reference: tuple[Image | None, str]) -> _Probe:
        assert row.tool is not None
        tool, what = row.tool.name, f"check {row.label} on {self._info.serial}, {row.backend}"
        self._progress(what, 0, 1)
        plan = Plan(
            tool=tool,
            model=self._model,
            threads=1,
            backend=row.backend,
            runs=1,
            max_seconds=self._options.max_seconds,
            input_spec=self._io.input,
            write_output=True,
        )
        done, pid = self._folder.run(plan, mask=None, timeout_s=_STARTUP_SECONDS)
        self._progress(what, 1, 1)
        unknown = TENSOR_FLAGS & set(unknown_flags(done.text))
        if unknown:
            flags = ", ".join(f"--{flag}" for flag in sorted(unknown))
            reason = f"{_NOT_VERIFIED}: this build of {tool} knows no {flags}"
            return _Probe(numerics=DeviceNumerics(reason=reason), feeds_input=False)
        self._check(done, plan)
        run_ms = None
        if tool == "executor_runner":  # benchmark_model minds max_secs itself
            log = self._executor_log(done, pid)
            run_ms = log.iterations_ms[-1] if log.iterations_ms else log.total_ms
        return _Probe(numerics=self._compare(tool, reference), run_ms=run_ms)

    def _compare(self, tool: str, reference: tuple[Image | None, str]) -> DeviceNumerics:
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "output.bin"
            try:
                self._folder.pull(OUTPUT_FILES[tool], local)
            except RunnerError as error:
                _unless_lost(error)
                return DeviceNumerics(reason=f"{_NOT_VERIFIED}: {tool} wrote no output ({error})")
            found = compare(local, self._io.output, reference)
        return found if found.reason is None else replace(found, reason=f"{_NOT_VERIFIED}: {found.reason}")

    def _measure_row(self, row: AdbRow, probe: _Probe) -> AdbRow:
        options, device = self._options, self._folder.adb
        how = "pinned" if row.pinned else "unpinned"
        what = f"profile {row.label}, {row.backend}, {row.threads} thread{'s' if row.threads > 1 else ''}, {how}"
        self._progress(what, 0, 1, "cooling down")
        cooled, before = cool_down(device, limit_c=options.cool_below_c, timeout_s=options.cool_down_s)
        self._progress(what, 0, 1)
        row = replace(row, numerics=probe.numerics, cool_down=cooled, before=before)
        try:
            timing, delegation = self._time(row, probe)
        except RunnerError as error:
            _unless_lost(error)
            self._progress(what, 1, 1, "failed")
            return replace(row, reason=str(error), failed=True)
        after, notes = self._state_after(before, cooled.reached)
        self._progress(what, 1, 1)
        notes = (*row.notes, *notes)
        return replace(row, timing=timing, delegation=delegation, after=after, notes=notes)

    def _state_after(self, before: DeviceState, cooled: bool) -> tuple[DeviceState | None, tuple[str, ...]]:
        """The device's state after a measurement, which stands without it; and what to know of both."""
        try:
            after = read_state(self._folder.adb)
        except RunnerError as error:
            return None, (f"the device's state afterwards is not known: {error}",)
        return after, state_notes(before, after, cooled, self._options.cool_below_c)

    def _time(self, row: AdbRow, probe: _Probe) -> tuple[SampledTiming | PrintedStatistics, DelegationSeen | None]:
        assert row.tool is not None
        plan = Plan(
            tool=row.tool.name,
            model=self._model,
            threads=row.threads,
            backend=row.backend,
            runs=self._runs(probe),
            max_seconds=self._options.max_seconds,
            input_spec=self._io.input if probe.feeds_input else None,
        )
        # One run may take far longer than the budget, so the limit grows with it.
        limit = _STARTUP_SECONDS + 10 * self._options.max_seconds
        done, pid = self._folder.run(plan, mask=row.taskset_mask, timeout_s=limit)
        self._check(done, plan)
        if plan.tool == "benchmark_model":
            return parse_benchmark_model(done.text), parse_delegation(done.text)
        return executor_timing(self._executor_log(done, pid), warmup_runs=WARMUP_RUNS), None

    def _check(self, done: Done, plan: Plan) -> None:
        """Raise RunnerError unless the tool did what it was asked."""
        if done.status != 0:
            raise RunnerError(explain(done, plan.tool, self._info.title))
        # benchmark_model goes on without a flag that it does not know, and would measure something else.
        flag = BACKEND_FLAGS[plan.backend].removeprefix("--").partition("=")[0]
        if plan.tool == "benchmark_model" and flag in unknown_flags(done.text):
            raise RunnerError(f"expected a {plan.tool} that knows --{flag}, got one that does not; use a newer build")

    def _runs(self, probe: _Probe) -> int:
        if probe.run_ms is None or probe.run_ms <= 0:
            return self._options.runs
        # executor_runner has no limit in time of its own.
        fitting = int(1000.0 * self._options.max_seconds / probe.run_ms)
        return min(self._options.runs, max(FEWEST_RUNS, fitting))

    def _executor_log(self, done: Done, pid: int | None) -> ExecutorLog:
        log = parse_executor_runner(done.text)
        if log.executions is None and pid is not None:  # on Android it logs to logcat alone
            log = parse_executor_runner(self._folder.logcat("ExecuTorch"), pid=pid)
        return log


def state_notes(before: DeviceState, after: DeviceState, cooled: bool, limit_c: float) -> tuple[str, ...]:
    """What about the device's state a reader of the figure should know, one line each."""
    notes: list[str] = []
    sensor, degrees = before.warmth
    if sensor is None:
        notes.append("the device tells no temperature: nothing was waited for")
    elif not cooled:
        notes.append(f"started warm: {sensor} at {degrees:.1f} °C, above {limit_c:.1f} °C or throttled")
    if after.throttled and not before.throttled:
        notes.append(f"throttled while it ran (thermal status {after.thermal_status})")
    if before.low_power:
        notes.append("battery saver is on: it slows the processor")
    if before.battery_percent is not None and before.battery_percent < 20:
        notes.append(f"battery at {before.battery_percent}%: some devices slow down")
    return tuple(notes)


def _unless_lost(error: RunnerError) -> None:
    """Raise ``error`` again where the device itself is gone."""
    if isinstance(error, DeviceLost):
        raise error
