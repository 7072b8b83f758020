"""A folder of our own on a device: made, used and removed, whatever happens in between."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from apps.profiling.adb.adb import Adb, DeviceLost, Done, last_line
from apps.profiling.adb.commands import Plan
from apps.profiling.adb.device_state import DeviceState, read_state
from apps.profiling.adb.results import CoolDown
from apps.profiling.adb.tools import forget_left_behind, left_behind, remember_left_behind
from edge_sr.errors import RunnerError

DEVICE_DIR = "/data/local/tmp"
POLL_SECONDS = 5.0
_OURS = re.compile(r"/edge-sr-[0-9a-f]{12}$")
_PID = re.compile(r"^@@pid ([0-9]{1,10})$", re.MULTILINE)


class Folder:
    """``/data/local/tmp/edge-sr-<random>`` on one device; a context manager.

    Leaving it ends whatever still runs there and removes the folder, after an error and after Ctrl-C too. Where the
    device is gone by then, ``left_behind`` names the folder and the next session on that device removes it.
    """

    def __init__(self, adb: Adb, parent: str = DEVICE_DIR) -> None:
        self.adb = adb
        self.path = f"{parent.rstrip('/')}/edge-sr-{secrets.token_hex(6)}"
        self.left_behind: str | None = None

    def __enter__(self) -> Folder:
        for folder in left_behind(self.adb.serial):
            self._remove(folder)
        forget_left_behind(self.adb.serial)
        try:
            done = self.adb.shell(f"mkdir {shlex.quote(self.path)}", what="making a folder")
            if done.status != 0:
                self._explain_mkdir(done)
        except BaseException:
            self.__exit__(None, None, None)  # Ctrl-C may come after the folder
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._remove(self.path)
        except (RunnerError, KeyboardInterrupt) as cause:
            self.left_behind = self.path
            remember_left_behind(self.adb.serial, self.path)
            if isinstance(cause, KeyboardInterrupt):
                raise

    def push(self, local: Path, name: str, *, executable: bool = False) -> None:
        """Copy a file there under ``name``; errors as in :meth:`Adb.push`."""
        self.adb.push(local, f"{self.path}/{name}")
        if executable:
            done = self.adb.shell(f"chmod 755 {shlex.quote(f'{self.path}/{name}')}", what=f"chmod {name}")
            if done.status != 0:
                raise RunnerError(f"expected to make {name} executable on the device, got {last_line(done.text)}")

    def pull(self, name: str, local: Path) -> None:
        """Copy a file from there; errors as in :meth:`Adb.pull`."""
        self.adb.pull(f"{self.path}/{name}", local)

    def delete(self, *names: str) -> None:
        """Remove files there; those that are not there do not matter."""
        self.adb.shell(f"cd {shlex.quote(self.path)} && rm -f {shlex.join(names)}", what="removing files")

    def run(self, plan: Plan, *, mask: str | None, timeout_s: float) -> tuple[Done, int | None]:
        """Run a tool in the folder; returns what it printed, with its process id on the device.

        Args:
            plan: what to run.
            mask: hexadecimal mask of cores to pin it to, or None.
            timeout_s: after that it is stopped.
        Raises:
            DeviceLost: the device is gone.
            RunnerError: no end within the time.
        """
        pinning = () if mask is None else ("taskset", mask)
        command = shlex.join((*pinning, f"./{plan.tool}", *plan.arguments()))
        # exec: the tool takes the shell's process id, by which it can be ended and its lines in logcat are known.
        inner = f"echo $$ >run.pid; echo @@pid $$; exec {command}"
        script = f"cd {shlex.quote(self.path)} && sh -c {shlex.quote(inner)}"
        try:
            done = self.adb.shell(script, timeout_s=timeout_s, what=plan.tool)
        except DeviceLost:
            raise
        except RunnerError:
            self.adb.shell(_end_tool(self.path), what="ending the tool")  # it outlives the adb that started it
            raise
        found = _PID.search(done.out)
        return (
            Done(status=done.status, out=_PID.sub("", done.out, count=1).lstrip("\n"), err=done.err),
            int(found[1]) if found else None,
        )

    def logcat(self, tag: str) -> str:
        """What the device's log holds under ``tag`` now, with process ids."""
        # Everything of other tags is silenced; nothing of the user's log is cleared.
        return self.adb.shell(f"logcat -d -v threadtime -s {tag}:V", what="logcat").out

    def _explain_mkdir(self, done: Done) -> None:
        if "No space left" in done.text:
            raise RunnerError(
                f"expected space on {self.adb.serial} for {self.path}, got a full storage; delete something there"
            )
        raise RunnerError(f"expected to make {self.path} on {self.adb.serial}, got {last_line(done.text)}")

    def _remove(self, folder: str) -> None:
        if not _OURS.search(folder):
            return  # never remove what this class did not name
        # What an interrupted call left running would keep the device busy.
        done = self.adb.shell(f"{_end_tool(folder)}; rm -rf {shlex.quote(folder)}", what="cleaning up")
        if done.status != 0:
            raise RunnerError(f"expected to remove {folder} on {self.adb.serial}, got {last_line(done.text)}")


def _end_tool(folder: str) -> str:
    pid = shlex.quote(f"{folder}/run.pid")
    return f"if [ -f {pid} ]; then kill -9 $(cat {pid}) 2>/dev/null; rm -f {pid}; fi"


def cool_down(
    adb: Adb,
    *,
    limit_c: float,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[CoolDown, DeviceState]:
    """Wait until the device is at most ``limit_c`` warm and not throttled, but no longer than ``timeout_s``.

    Returns:
        how that went, and the state in which it ended.
    Raises:
        DeviceLost: it is gone.
    """
    start = clock()
    while True:
        state = read_state(adb)
        sensor, degrees = state.warmth
        waited = clock() - start
        reached = degrees is not None and degrees <= limit_c and not state.throttled
        if reached or sensor is None or waited >= timeout_s:
            waited = round(waited, 1)
            found = CoolDown(limit_c=limit_c, waited_s=waited, sensor=sensor, temperature_c=degrees, reached=reached)
            return found, state
        sleep(min(POLL_SECONDS, timeout_s - waited))
