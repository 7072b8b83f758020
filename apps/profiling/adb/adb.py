"""The adb program, one device at a time, with an error that says what to do for everything that goes wrong there.

Every call names its device (``-s``) and has a limit in time. Nothing here knows of models.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_sr.errors import ConfigError, MissingToolError, RunnerError
from edge_sr.foreign_text import one_line, whole_number

CALL_SECONDS = 30.0
_STATE_SECONDS = 10.0
_STATUS = "@@status"
_INSTALL_ADB = (
    "install Android's platform-tools (Debian: apt install adb; macOS: brew install android-platform-tools; or "
    "developer.android.com/tools/releases/platform-tools)"
)
# What `adb devices` calls a device that cannot be used yet, and what the user does about it.
_CURES = {
    "unauthorized": "unlock its screen and accept the question about USB debugging",
    "authorizing": "unlock its screen and accept the question about USB debugging",
    "offline": "unplug and plug it in again, or run adb reconnect offline",
    "connecting": "wait a moment and run again",
    "recovery": "let it boot into Android",
    "sideload": "let it boot into Android",
    "bootloader": "let it boot into Android",
    "no permissions": "add this user to the group plugdev, install udev rules for Android, and plug it in again",
}


class DeviceLost(RunnerError):
    """The device went away; nothing more can be run on it."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of ``adb devices -l``: serial, state (``device`` is the good one) and the rest of the line."""

    serial: str
    state: str
    details: str = ""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it: tools differ in which stream they log to."""
        return self.out + self.err


def find_adb(program: Path | str | None = None) -> str:
    """Path of adb: the one given, or the one on PATH or in ``$ANDROID_HOME/platform-tools``.

    Raises:
        MissingToolError: there is none.
    """
    if program is not None:
        found = shutil.which(str(program))
        if found is None:
            raise MissingToolError(f"expected the adb program at {program}, got nothing to run there; {_INSTALL_ADB}")
        return found
    found = shutil.which("adb")
    for variable in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if found is None and os.environ.get(variable):
            found = shutil.which("adb", path=str(Path(os.environ[variable]) / "platform-tools"))
    if found is None:
        raise MissingToolError(f"expected the program adb, got none on PATH; {_INSTALL_ADB}")
    return found


def parse_devices(text: str) -> tuple[Listed, ...]:
    """The devices in the output of ``adb devices -l``."""
    found: list[Listed] = []
    lines = text.splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith("List of devices")), len(lines))
    for line in lines[start + 1 :]:
        # A serial may hold spaces on no platform; "no permissions (...)" is the one state of several words.
        match = re.match(r"(\S+)\s+(no permissions|\S+)\s*(.*)", line)
        if match:
            found.append(Listed(serial=match[1], state=match[2], details=match[3].strip()))
    return tuple(found)


def list_devices(program: str) -> tuple[Listed, ...]:
    """Ask the adb server, which is started where none runs.

    Raises:
        RunnerError: adb itself failed.
    """
    done = _call([program, "devices", "-l"], CALL_SECONDS, "adb devices")
    if done.status != 0:
        raise RunnerError(f"expected adb to list devices, got {last_line(done.text)}; try adb kill-server")
    return parse_devices(done.out)


def choose_device(devices: Sequence[Listed], serial: str | None) -> Listed:
    """The device to use: the one with ``serial``, or the only one.

    Raises:
        ConfigError: there are several to choose from, or none has the serial.
        RunnerError: there is none, or it cannot be used; the message says why and what to do.
    """
    names = ", ".join(f"{device.serial} ({device.state})" for device in devices)
    if not devices:
        raise RunnerError(
            "expected a device, got none from adb devices; plug it in, turn on USB debugging in its developer options, "
            "and use a cable that carries data"
        )
    if serial is not None:
        chosen = [device for device in devices if device.serial == serial]
        if not chosen:
            raise ConfigError(f"expected the serial of a connected device, got {serial!r}; connected: {names}")
    else:
        # One that waits for its owner still counts: it may be the one that is meant.
        chosen = list(devices)
        if len(chosen) > 1:
            raise ConfigError(f"expected one device, got {len(chosen)}: {names}; choose with --serial")
    device = chosen[0]
    if device.state != "device":
        cure = _CURES.get(device.state, "unplug and plug it in again")
        raise RunnerError(f"expected {device.serial} to be ready, got {device.state}; {cure}")
    return device


class Adb:
    """One device, by its serial."""

    def __init__(self, program: str, serial: str) -> None:
        self.program = program
        self.serial = serial

    def shell(self, script: str, *, timeout_s: float = CALL_SECONDS, what: str = "a shell command") -> Done:
        """Run ``script`` in the device's shell; its exit status is in the result.

        Raises:
            DeviceLost: the device is gone.
            RunnerError: it did not end in time.
        """
        # The status travels in the text: a connection that was cut ends with status 0 like a command that ended well
        # (adb 34.0.5), and devices before Android 7 pass no status on at all.
        ended = f"( {script}\n); printf '\\n{_STATUS} %s\\n' $?"
        try:
            # -n: nothing is read from our own stdin. -T: no terminal, so that stderr stays apart and lines end in \n.
            done = self._adb("shell", "-n", "-T", ended, timeout_s=timeout_s, what=what)
        except RunnerError:
            self.check_alive(what)
            raise
        out, mark, status = done.out.rpartition(f"\n{_STATUS} ")
        number = whole_number(status.strip())
        if not mark or number is None:
            self.check_alive(what)
            raise DeviceLost(
                f"expected {what} to end on {self.serial}, got a connection that was cut ({last_line(done.err)}); "
                "check the cable, and run again"
            )
        return Done(status=number, out=out, err=done.err)

    def push(self, local: Path, remote: str, *, timeout_s: float = 600.0) -> None:
        """Copy a file to the device.

        Raises:
            DeviceLost: the device is gone.
            RunnerError: no space, no permission, or another reason that adb gives.
        """
        done = self._adb("push", str(local), remote, timeout_s=timeout_s, what=f"push {local.name}")
        if done.status == 0:
            return
        self.check_alive(f"push {local.name}")
        text = done.text
        if "No space left" in text:
            raise RunnerError(
                f"expected {local.stat().st_size / 1e6:.1f} MB free on {self.serial} for {local.name}, got a full "
                "storage; delete something there"
            )
        if "Permission denied" in text or "Read-only" in text:
            raise RunnerError(
                f"expected to write {remote} on {self.serial}, got permission denied; use a device whose shell user "
                "may write there"
            )
        raise RunnerError(f"expected to push {local.name} to {self.serial}, got {last_line(text)}")

    def pull(self, remote: str, local: Path, *, timeout_s: float = 600.0) -> None:
        """Copy a file from the device.

        Raises:
            DeviceLost: the device is gone.
            RunnerError: it is not there, or cannot be read.
        """
        done = self._adb("pull", remote, str(local), timeout_s=timeout_s, what=f"pull {remote}")
        if done.status != 0:
            self.check_alive(f"pull {remote}")
            raise RunnerError(f"expected to pull {remote} from {self.serial}, got {last_line(done.text)}")

    def check_alive(self, what: str) -> None:
        """Raise DeviceLost unless the device answers.

        Args:
            what: what was going on, for the message.
        """
        try:
            done = self._adb("get-state", timeout_s=_STATE_SECONDS, what="adb get-state")
            state = "device" if done.out.strip() == "device" else last_line(done.text)
        except RunnerError:
            state = "no answer"
        if state != "device":
            state = re.sub(r"^error: ", "", state)
            raise DeviceLost(
                f"expected {self.serial} to stay connected during {what}, got {state}; check cable and battery, and "
                "run again"
            )

    def _adb(self, *arguments: str, timeout_s: float, what: str) -> Done:
        return _call([self.program, "-s", self.serial, *arguments], timeout_s, what)


def last_line(text: str) -> str:
    """The last line that says anything, at most 300 characters."""
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1], limit=300) if lines else "no output"


def _call(command: Sequence[str], timeout_s: float, what: str) -> Done:
    try:
        # A session of its own: Ctrl-C in the terminal reaches us alone; we end the client and clean up with another.
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise MissingToolError(f"expected to run {command[0]}, got {error.strerror}; {_INSTALL_ADB}") from None
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException as error:
            # subprocess.run would not wait for the child after Ctrl-C (Python 3.11).
            process.kill()
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RunnerError(
                    f"expected {what} to end within {timeout_s:.0f} s, got no end; it was stopped"
                ) from None
            raise
    return Done(
        status=process.returncode,
        out=out.decode(errors="replace").replace("\r\n", "\n"),
        err=err.decode(errors="replace").replace("\r\n", "\n"),
    )
