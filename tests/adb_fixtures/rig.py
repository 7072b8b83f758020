"""A real adbd as the device: in a network and mount namespace of its own, with stand-ins for the phone's commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
ADBD = Path("/usr/lib/android-sdk/platform-tools/adbd")
SERIAL = "127.0.0.1:5555"
# Cores 0-3 slow, 4-6 fast, 7 fastest, in kHz.
CORE_KHZ = (2_000_000,) * 4 + (2_800_000,) * 3 + (3_200_000,)


def missing() -> str | None:
    """What this machine lacks to run the daemon, or None."""
    for program in ("adb", "unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"{program} is not installed (scripts/install_adb.sh)"
    if not ADBD.is_file():
        return "adbd is not installed (scripts/install_adb.sh)"
    allowed = subprocess.run(["unshare", "-n", "-m", "sh", "-c", "ip link set lo up"], capture_output=True, check=False)
    return None if allowed.returncode == 0 else "unshare may not make namespaces here (root is needed)"


class Rig:
    """The daemon, and an ``adb`` that sees nothing but it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.device_dir = folder / "device"
        self.program = folder / "bin" / "adb"
        for path in (self.state, self.device_dir, folder / "bin", folder / "home", folder / "sys"):
            path.mkdir()
        self.props = folder / "props"
        shutil.copy(HERE / "phone.props", self.props)
        self._lay_out_cores()
        environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "EDGE_SR_STATE": str(self.state),
            "EDGE_SR_PROPS": str(self.props),
        }
        command = ["unshare", "-n", "-m", "bash", str(HERE / "daemon.sh"), str(HERE / "device")]
        self._process = subprocess.Popen(
            [*command, str(folder / "sys"), str(self.device_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            bufsize=1,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.program.write_text(
            "#!/bin/sh\n"
            f"export HOME={folder}/home TMPDIR={folder}/home\n"
            f'exec nsenter --net=/proc/{self._process.pid}/ns/net {shutil.which("adb")} "$@"\n'
        )
        self.program.chmod(0o755)

    def start(self) -> None:
        """Start adbd and connect to it."""
        self._say("start")
        deadline = time.monotonic() + 10
        while "connected to" not in (text := self.adb("connect", SERIAL)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "connected to" in text, text
        self.adb("-s", SERIAL, "wait-for-device")

    def stop(self) -> None:
        """Kill adbd: what a pulled cable is."""
        self._say("stop")

    def adb(self, *arguments: str) -> str:
        """What adb prints, both streams."""
        done = subprocess.run([str(self.program), *arguments], capture_output=True, text=True, timeout=20, check=False)
        return done.stdout + done.stderr

    def files(self) -> str:
        """What is in the device's folder, as the device sees it."""
        return self.adb("-s", SERIAL, "shell", f"ls {self.device_dir}").strip()

    def close(self) -> None:
        """End daemon, server and namespaces."""
        self.adb("kill-server")
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        stdin.close()
        self._process.wait(timeout=10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        assert self._process.stdout.readline() == f"{word}\n"

    def _lay_out_cores(self) -> None:
        for index, khz in enumerate(CORE_KHZ):
            core = self.folder / "sys" / f"cpu{index}" / "cpufreq"
            core.mkdir(parents=True)
            (core / "cpuinfo_max_freq").write_text(f"{khz}\n")
            (core / "scaling_cur_freq").write_text(f"{khz // 2}\n")
            (core / "scaling_governor").write_text("schedutil\n" if index < 4 else "walt\n")
        # The C library of everything in there asks for these.
        for name in ("online", "possible", "present"):
            (self.folder / "sys" / name).write_text(f"0-{len(CORE_KHZ) - 1}\n")
