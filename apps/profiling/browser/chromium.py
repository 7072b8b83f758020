"""Chromium on this machine, without a window: for checks of pictures and for tests, never for a phone's numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edge_sr.errors import MissingToolError

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_VARIABLE = "CHROMIUM"
_QUIET = (
    "--headless=new",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--mute-audio",
)
# WebGPU through SwiftShader, on the processor; --disable-gpu would take it away again.
_SOFTWARE_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-unsafe-swiftshader")
_END_SECONDS = 10.0


def find_chromium() -> Path:
    """The browser's program: ``$CHROMIUM``, else the first usual name on PATH.

    Raises:
        MissingToolError: there is none.
    """
    chosen = os.environ.get(_VARIABLE)
    for name in (chosen,) if chosen else _NAMES:
        if found := shutil.which(name):
            return Path(found)
    raise MissingToolError(
        f"a headless browser needs Chromium, got none on PATH{f' called {chosen}' if chosen else ''}; "
        f"install it (apt-get install chromium), or name its program in {_VARIABLE}"
    )


@contextmanager
def headless_chromium(
    url: str, *, software_webgpu: bool = True, extra: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Open ``url`` in a browser with a fresh profile; it is gone when the block ends.

    Args:
        url: the page.
        software_webgpu: offer WebGPU on the processor.
        extra: further flags.
    """
    program = find_chromium()
    with tempfile.TemporaryDirectory(prefix="edge-sr-chromium-", ignore_cleanup_errors=True) as profile:
        flags = [*_QUIET, *(_SOFTWARE_WEBGPU if software_webgpu else ()), f"--user-data-dir={profile}", *extra]
        # Chromium's sandbox refuses to start as root, as in a container.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")
        process = subprocess.Popen(
            [str(program), *flags, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Its helpers share its group, so that all of them can be ended.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    import signal

    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
