"""Chromium over its debugging pipe: just enough to load a page, ask it something and photograph it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from apps.profiling.browser.chromium import find_chromium


class Page:
    """One tab."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._count = 0
        self._rest = b""
        target = self._send("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, for this tab."""
        return self._send(method, parameters, session=self._session)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def emulate(self, width: int, height: int, *, dark: bool) -> None:
        """A screen of so many CSS pixels (a window has a least width of its own), and its reader's choice of ground."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
        wish = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[wish])

    def ask(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, timeout_s: float = 60.0) -> Any:
        """Ask until the answer is true in Python's sense."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):  # between two documents
                if answer := self.ask(expression):
                    return answer
            time.sleep(0.1)
        shown = self.ask("document.body.innerText")
        raise TimeoutError(f"{expression} did not become true in {timeout_s} s; the page says: {shown}")

    def photograph(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _send(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._receive())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> bytes:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], 60.0)
            assert ready, "Chromium fell silent"
            got = os.read(self._from, 1 << 20)
            assert got, "Chromium went away"
            self._rest += got
        message, _, self._rest = self._rest.partition(b"\0")
        return message


@contextmanager
def chromium_page(*, width: int = 412, height: int = 900, extra: Sequence[str] = ()) -> Iterator[Page]:
    """A headless browser with one tab."""
    read_end, to_browser = os.pipe()
    from_browser, write_end = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    flags += ["--remote-debugging-pipe", f"--window-size={width},{height}", "--hide-scrollbars", *extra]

    def place() -> None:
        # The browser reads from 3 and writes to 4.
        first, second = os.dup(read_end), os.dup(write_end)
        os.dup2(first, 3)
        os.dup2(second, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [str(find_chromium()), *flags, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place,
            start_new_session=True,
        )
        os.close(read_end)
        os.close(write_end)
        try:
            yield Page(to_browser, from_browser)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(to_browser)
            os.close(from_browser)
