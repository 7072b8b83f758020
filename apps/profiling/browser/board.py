"""The state of one measuring session: who measures, what is in, what is still missing. Safe to call from any thread."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from apps.profiling.browser.device import (
    default_threads,
    describe_device,
    facts_lines,
    is_software_gpu,
    why_unavailable,
)
from apps.profiling.browser.jobs import BrowserJob
from apps.profiling.browser.litertjs import RUNTIME, VERSION
from apps.profiling.browser.results import (
    BrowserDevice,
    BrowserNumerics,
    BrowserRow,
    BrowserTiming,
    Configuration,
    empty_row,
)
from apps.profiling.browser.schema import Hello, PostedResult, ProgressNote
from apps.profiling.sampled import NOISY_IQR_PERCENT
from apps.progress import Progress, quiet
from edge_sr.errors import DataError

# A page that was silent for so long may be replaced by another one: it was reloaded, or its tab was closed.
_TAKEOVER_SECONDS = 30.0


class Refused(DataError):
    """The page asked for something that is not open to it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is wanted of the browser.

    ``threads`` empty: one, and as many as are likely to help there. ``max_seconds`` bounds the timed runs of one
    configuration.
    """

    backends: tuple[str, ...]
    threads: tuple[int, ...]
    runs: int
    max_seconds: float
    autostart: bool

    def configurations(self, hello: Hello) -> tuple[Configuration, ...]:
        """All that is to be tried on that browser."""
        wanted = [Configuration(backend="wasm", threads=count) for count in self.threads or default_threads(hello)]
        gpu = [Configuration(backend="webgpu", precision=precision) for precision in ("fp32", "fp16")]
        return tuple(one for one in (*wanted, *gpu) if one.backend in self.backends)


@dataclass
class Board:
    """Results by artifact and configuration, for one browser.

    Attributes:
        jobs: what is measured.
        plan: how.
        own_addresses: addresses of this machine.
        secure_url: whether the page is served over https.
    """

    jobs: Sequence[BrowserJob]
    plan: Plan
    own_addresses: frozenset[str]
    secure_url: bool
    progress: Progress = quiet

    device: BrowserDevice | None = None
    rows: dict[tuple[int, str], BrowserRow] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    last_seen: float | None = None
    left: bool = False

    _hello: Hello | None = None
    _run: str = ""
    _configurations: tuple[Configuration, ...] = ()
    _numerics: dict[tuple[int, str], BrowserNumerics] = field(default_factory=dict)

    @property
    def expected(self) -> int:
        """Rows that make it complete; 0 until a browser is there."""
        return len(self.jobs) * len(self._configurations)

    @property
    def complete(self) -> bool:
        return self.expected > 0 and len(self.rows) == self.expected

    def hello(self, message: Hello, *, address: str) -> dict[str, Any]:
        """Let a browser in, and tell it what to do.

        Raises:
            Refused: another browser is at work.
        """
        with self.changed:
            now = time.monotonic()
            resumed = bool(self._run) and secrets.compare_digest((message.resume or "").encode(), self._run.encode())
            if self._run and not resumed:
                quiet_s = now - (self.last_seen or now)
                same = self._hello is not None and self._hello.user_agent == message.user_agent
                if quiet_s < _TAKEOVER_SECONDS or (self._numerics and not same):
                    raise Refused("Another page is measuring already: close it, or start again on the computer.")
            device = describe_device(
                message, address=address, own_addresses=self.own_addresses, secure_url=self.secure_url
            )
            if not self._run:
                self.device, self._hello = device, message
                self._configurations = self.plan.configurations(message)
            if not resumed:
                self._run = secrets.token_urlsafe(18)
            self.last_seen, self.left = now, False
            self._skip_impossible(message)
            self.progress(f"measure {device.title}", len(self.rows), self.expected)
            self.changed.notify_all()
            return self._greeting(message, device)

    def note(self, message: ProgressNote, *, run: str) -> dict[str, Any]:
        """Hear where the page is."""
        with self.changed:
            self._check(run)
            if self.device is not None and message.job is not None and message.job < len(self.jobs):
                name = self.jobs[message.job].artifact.path.name
                detail = f"{name}, {message.configuration}, {message.phase}"
                self.progress(f"measure {self.device.title}", len(self.rows), self.expected, detail)
            return {}

    def output(self, job: int, key: str, data: bytes, *, run: str) -> dict[str, Any]:
        """Compare a computed picture with what is expected."""
        with self.changed:
            self._check(run)
            configuration = self._open(job, key)
            numerics = self.jobs[job].compare(data, precision=configuration.precision)
            self._numerics[job, key] = numerics
            return {"agrees": numerics.agrees, "summary": numerics.summary}

    def result(self, job: int, key: str, message: PostedResult, *, run: str) -> dict[str, Any]:
        """Take the page's last word on one configuration, once.

        Raises:
            Refused: no picture was posted before a latency, or its result is in already.
        """
        with self.changed:
            self._check(run)
            configuration, numerics = self._open(job, key), self._numerics.get((job, key))
            if message.status == "measured" and (message.timing is None or numerics is None):
                raise Refused("expected the computed picture and the samples before a result counts")
            reason = (message.reason or "the browser gave no reason") if message.status != "measured" else None
            wrong = numerics is not None and not numerics.agrees
            if wrong and numerics is not None:
                reason = f"its output is not the artifact's: {numerics.summary}"
            timing = None
            if message.timing is not None and reason is None:
                posted = message.timing.model_dump(exclude={"output_stable", "samples_ms"})
                timing = BrowserTiming(
                    threads=configuration.threads,
                    samples_ms=tuple(message.timing.samples_ms),
                    runtime=RUNTIME,
                    runtime_version=VERSION,
                    **posted,
                )
            notes = self._notes(configuration, message)
            self._put(
                job,
                configuration,
                timing=timing,
                numerics=numerics,
                notes=notes,
                reason=reason,
                failed=wrong or message.status == "failed",
            )
            return {"notes": list(notes), "done": self.complete}

    def bye(self, *, run: str) -> dict[str, Any]:
        """The page is through with its queue."""
        with self.changed:
            self._check(run)
            self.left = True
            self.changed.notify_all()
            return {}

    def report_rows(self, why_missing: str) -> tuple[BrowserRow, ...]:
        """All rows in order; what is missing carries ``why_missing``."""
        with self.changed:
            wanted = self._configurations or (Configuration(backend="wasm"),)
            for job in range(len(self.jobs)):
                for configuration in wanted:
                    if (job, configuration.key) not in self.rows:
                        self._put(job, configuration, reason=why_missing)
            return tuple(self.rows[job, one.key] for job in range(len(self.jobs)) for one in wanted)

    def _check(self, run: str) -> None:
        if not self._run or not secrets.compare_digest(run.encode(), self._run.encode()):
            raise Refused("This page is not the one that measures; reload it.")
        self.last_seen = time.monotonic()

    def _open(self, job: int, key: str) -> Configuration:
        found = next((one for one in self._configurations if one.key == key), None)
        if found is None or not 0 <= job < len(self.jobs) or (job, key) in self.rows:
            raise Refused("There is no such measurement, or its result is in already.")
        return found

    def _skip_impossible(self, hello: Hello) -> None:
        for job in range(len(self.jobs)):
            for configuration in self._configurations:
                reason = why_unavailable(configuration, hello)
                if reason is not None and (job, configuration.key) not in self.rows:
                    self._put(job, configuration, reason=f"not possible in this browser: {reason}")

    def _put(
        self,
        job: int,
        configuration: Configuration,
        *,
        timing: BrowserTiming | None = None,
        numerics: BrowserNumerics | None = None,
        notes: tuple[str, ...] = (),
        reason: str | None = None,
        failed: bool = False,
    ) -> None:
        row = empty_row(self.jobs[job].artifact, self.jobs[job].file, configuration, reason=reason)
        self.rows[job, configuration.key] = replace(row, timing=timing, numerics=numerics, notes=notes, failed=failed)
        self.changed.notify_all()

    def _notes(self, configuration: Configuration, message: PostedResult) -> tuple[str, ...]:
        gpu = self._hello.webgpu if self._hello is not None else None
        processors = self._hello.hardware_concurrency if self._hello is not None else None
        timing = message.timing
        samples = timing.samples_ms if timing is not None else []
        notes = {
            "The runs differ by more than 10%: something else used the device, or it ran hot.": (
                bool(samples) and _spread_percent(samples) > NOISY_IQR_PERCENT
            ),
            "There are more threads than processors: they shared them.": configuration.threads > (processors or 1),
            "The page was in the background for a while: the browser may have slowed it.": message.hidden,
            "WebGPU ran in software on the processor: its picture counts, its time does not.": (
                configuration.backend == "webgpu" and gpu is not None and is_software_gpu(gpu)
            ),
            "Some operators ran in WebAssembly: the GPU does not have them.": (
                timing is not None and timing.fully_accelerated is False
            ),
            "The last run's picture differs from the first run's.": timing is not None and not timing.output_stable,
        }
        return tuple(note for note, holds in notes.items() if holds)

    def _greeting(self, hello: Hello, device: BrowserDevice) -> dict[str, Any]:
        finished = [f"{job}/{key}" for (job, key), row in self.rows.items() if not self._impossible(key, hello)]
        return {
            "run": self._run,
            "title": device.title,
            "facts": facts_lines(hello),
            "hints": list(device.hints),
            "runs": self.plan.runs,
            "max_ms": 1000.0 * self.plan.max_seconds,
            "autostart": self.plan.autostart,
            "finished": finished,
            "configurations": [
                {
                    "id": one.key,
                    "label": one.label,
                    "backend": one.backend,
                    "threads": one.threads,
                    "precision": one.precision,
                    "unavailable": why_unavailable(one, hello),
                }
                for one in self._configurations
            ],
            "artifacts": [
                {
                    "model": job.artifact.meta.model,
                    "scheme": job.artifact.meta.scheme,
                    "scale": job.artifact.meta.scale,
                    "tile": list(job.artifact.meta.tile),
                    "size_bytes": len(job.model),
                    "input": {"dtype": job.io.input.dtype, "shape": list(job.io.input.shape)},
                }
                for job in self.jobs
            ],
        }

    def _impossible(self, key: str, hello: Hello) -> bool:
        return any(one.key == key and why_unavailable(one, hello) is not None for one in self._configurations)


def _spread_percent(samples: Sequence[float]) -> float:
    first, median, third = np.quantile(np.asarray(samples), (0.25, 0.5, 0.75))
    return float(100.0 * (third - first) / median)
