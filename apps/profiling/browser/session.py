"""One session: prepare the artifacts, serve the page, wait for a browser to measure them, gather what it sent."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from apps.profiling.browser.addresses import (
    EVERYWHERE,
    LOOPBACK,
    choose_lan_address,
    lan_addresses,
    make_certificate,
    own_addresses,
    qr_code,
)
from apps.profiling.browser.board import Board, Plan
from apps.profiling.browser.chromium import find_chromium, headless_chromium
from apps.profiling.browser.jobs import BrowserJob, prepare_job, why_not
from apps.profiling.browser.litertjs import RUNTIME, VERSION, fetch_runtime, load_runtime
from apps.profiling.browser.results import BACKENDS, BrowserReport, Configuration, empty_row
from apps.profiling.browser.schema import MOST_SAMPLES
from apps.profiling.browser.server import PageServer
from apps.progress import Progress, quiet
from apps.streams import say_aside
from converters.artifact import Artifact, load_artifact
from edge_sr.choices import expect_choice
from edge_sr.errors import ConfigError, DataError, MissingToolError
from edge_sr.signals import ended_like_interrupted

# After the last result the page says good-bye; its answer should reach it.
_FAREWELL_SECONDS = 3.0
_LOOK_EVERY_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class BrowserOptions:
    """How to serve the page, and what to measure.

    Attributes:
        lan: listen on all interfaces and print an address and a code to scan; else on loopback only.
        https: serve over https with a certificate made for this session, which browsers warn of: it gives a phone in
            the network threads, WebGPU and a fine clock.
        port: to listen on; 0 takes any free one.
        open_page: open the page in this machine's browser, where it has a screen and ``lan`` is not set.
        headless: run the page in headless Chromium here. Results are labelled so.
        fetch: fetch LiteRT.js first where it is missing.
        backends: of ``wasm`` and ``webgpu``.
        threads: of WebAssembly, each measured; empty for one and up to four.
        runs: samples per configuration, after warm-up.
        max_seconds: stop sampling one configuration after this long (ten samples are taken, or three in thrice that).
        wait_s: seconds to wait for a browser to come.
        silence_s: seconds to wait for one that has fallen silent.
    """

    lan: bool = False
    https: bool = False
    port: int = 0
    open_page: bool = True
    headless: bool = False
    fetch: bool = False
    backends: tuple[str, ...] = BACKENDS
    threads: tuple[int, ...] = ()
    runs: int = 50
    max_seconds: float = 20.0
    wait_s: float = 600.0
    silence_s: float = 240.0

    def __post_init__(self) -> None:
        for name in self.backends or ("none",):
            expect_choice("backend", name, BACKENDS)
        if self.threads and min(self.threads) < 1:
            raise ConfigError(f"threads must be at least 1, got {list(self.threads)}, use --threads 1")
        if not 1 <= self.runs <= MOST_SAMPLES or not 0 < self.max_seconds <= 3600:
            got = f"{self.runs} in {self.max_seconds} s"
            raise ConfigError(f"expected 1 to {MOST_SAMPLES} runs within an hour, got {got}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"expected a port up to 65535, got {self.port}; choose another with --port")
        if self.wait_s <= 0 or self.silence_s <= 0:
            raise ConfigError(f"expected positive waiting times, got {self.wait_s} s and {self.silence_s} s")

    def plan(self) -> Plan:
        """What is wanted of the browser."""
        return Plan(
            backends=tuple(dict.fromkeys(self.backends)),
            threads=tuple(dict.fromkeys(self.threads)),
            runs=self.runs,
            max_seconds=self.max_seconds,
            autostart=self.headless,
        )


def profile_in_browser(
    paths: Sequence[Path],
    *,
    options: BrowserOptions | None = None,
    announce: Callable[[str], None] = say_aside,
    progress: Progress = quiet,
) -> BrowserReport:
    """Measure artifacts in a browser: here, on a phone over USB (adb reverse), or on any device in the network.

    Args:
        paths: artifact folders; those that no browser can run get a row that says so.
        options: how to serve the page, and what to measure.
        announce: gets each line for the person who starts this (the address, the code).
        progress: called as results come in.
    Returns:
        one row per artifact and configuration. Ctrl-C and time running out end it early, with what is in until then.
    Raises:
        ConfigError: no artifact that a browser can run, no network where one was asked for, or a port in use.
        ArtifactError: a folder is missing, damaged or altered.
        MissingToolError: LiteRT.js is not fetched yet, or a program that was asked for is missing.
    """
    options = options or BrowserOptions()
    if options.headless:
        find_chromium()
    artifacts = [load_artifact(Path(path)) for path in paths]
    refused = {artifact.path: why_not(artifact.meta) for artifact in artifacts}
    runnable = [artifact for artifact in artifacts if refused[artifact.path] is None]
    if not runnable:
        reasons = sorted({str(reason) for reason in refused.values()}) or ["got none"]
        raise ConfigError(f"expected at least one artifact that a browser can run: {'; '.join(reasons)}")
    runtime = _runtime(options, progress)
    jobs = _prepare(runnable, progress)
    address = choose_lan_address() if options.lan else LOOPBACK
    board = Board(
        jobs=jobs, plan=options.plan(), own_addresses=own_addresses(), secure_url=options.https, progress=progress
    )
    with ExitStack() as stack:
        stack.enter_context(ended_like_interrupted())
        server = _listen((EVERYWHERE if options.lan else LOOPBACK, options.port), board, runtime)
        stack.enter_context(_serving(server))
        if options.https:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-sr-https-")))
            certificate = make_certificate(scratch, (LOOPBACK, *lan_addresses()))
            server.use_certificate(str(certificate.certificate), str(certificate.key))
            announce(f"certificate of this session, SHA-256: {certificate.fingerprint}")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        url = f"{'https' if options.https else 'http'}://{address}:{server.port}/{server.token}/"
        for line in _invitation(url, server, options):
            announce(line)
        browser: Popen[bytes] | None = None
        if options.headless:
            flags = ("--ignore-certificate-errors",) if options.https else ()
            browser = stack.enter_context(headless_chromium(url, extra=flags))
        elif options.open_page and not options.lan:
            _open_here(url)
        ended = _wait(board, options, browser)
    return _report(board, artifacts, refused, ended)


def _runtime(options: BrowserOptions, progress: Progress) -> dict[str, bytes]:
    if options.fetch:
        try:
            return load_runtime()
        except (MissingToolError, DataError):
            progress(f"fetch {RUNTIME} {VERSION}", 0, 1)
            fetch_runtime()
            progress(f"fetch {RUNTIME} {VERSION}", 1, 1)
    return load_runtime()


def _prepare(artifacts: Sequence[Artifact], progress: Progress) -> list[BrowserJob]:
    jobs = []
    for done, artifact in enumerate(artifacts):
        progress("compute what is expected", done, len(artifacts), artifact.path.name)
        jobs.append(prepare_job(artifact))
    progress("compute what is expected", len(artifacts), len(artifacts))
    return jobs


def _listen(address: tuple[str, int], board: Board, runtime: dict[str, bytes]) -> PageServer:
    try:
        return PageServer(address, board, runtime)
    except OSError as error:
        raise ConfigError(f"expected a free port, got {address[1]}: {error.strerror}; use --port") from None


@contextmanager
def _serving(server: PageServer) -> Iterator[None]:
    try:
        yield
    finally:
        if server.started:
            server.shutdown()
        server.server_close()


def _invitation(url: str, server: PageServer, options: BrowserOptions) -> list[str]:
    if options.headless and not options.lan:
        return []
    lines = [f"open this address {'on the device to measure' if options.lan else 'in a browser here'}: {url}"]
    if options.lan:
        lines += ["or scan it:", qr_code(url, coloured=sys.stderr.isatty())]
        if options.https:
            lines.append("the browser will warn of the certificate: compare its fingerprint with the one above")
        else:
            lines.append("plain http: one thread, no WebGPU, a coarse clock; --https lifts that, or USB:")
    if not options.https:
        tunnel = f"adb reverse tcp:{server.port} tcp:{server.port}"
        lines.append(f"on a phone by USB: {tunnel}, then http://{LOOPBACK}:{server.port}/{server.token}/ on the phone")
    lines.append("Ctrl-C ends the session and keeps what was measured")
    return lines


def _open_here(url: str) -> None:
    # Without a screen, Python would start a text browser in this very terminal.
    screen = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if screen:
        import webbrowser

        webbrowser.open(url)


def _wait(board: Board, options: BrowserOptions, browser: Popen[bytes] | None) -> str:
    """Block until the session ends; how it did."""
    started = time.monotonic()
    completed: float | None = None
    try:
        while True:
            with board.changed:
                board.changed.wait(_LOOK_EVERY_SECONDS)
                complete, left, seen = board.complete, board.left, board.last_seen
            now = time.monotonic()
            if complete:
                completed = completed or now
                if left or now - completed > _FAREWELL_SECONDS:
                    return "complete"
            elif browser is not None and browser.poll() is not None:
                return "closed"
            elif now - (seen or started) > (options.wait_s if seen is None else options.silence_s):
                return "timeout"
    except KeyboardInterrupt:
        return "interrupted"


def _report(board: Board, artifacts: Sequence[Artifact], refused: dict[Path, str | None], ended: str) -> BrowserReport:
    why_missing = {
        "timeout": "not measured: no browser came" if board.device is None else "not measured: the browser fell silent",
        "interrupted": "not measured: the session was interrupted",
        "closed": "not measured: the browser that was started here ended",
    }.get(ended, "not measured")
    rows = list(board.report_rows(why_missing))
    for artifact in artifacts:
        reason = refused[artifact.path]
        if reason is not None:
            rows.append(empty_row(artifact, None, Configuration(backend="wasm"), reason=reason))
    order = {artifact.path: place for place, artifact in enumerate(artifacts)}
    return BrowserReport(
        device=board.device, rows=tuple(sorted(rows, key=lambda row: order[row.artifact_path])), ended=ended
    )
