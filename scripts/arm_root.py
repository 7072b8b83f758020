"""Make the emulated ARM system that ``apps.verification.arm`` runs TFLite files in: Debian only, no root needed.

    python scripts/arm_root.py [--folder FOLDER] [--renew]

Nothing is installed on this machine. apt downloads into folders of its own (qemu-user for this machine, Python and its
libraries for arm64, from the sources that this machine uses), dpkg-deb unpacks, and pip downloads the wheels of numpy
and ai-edge-litert in the versions installed here. 80 MB come down, 250 MB stay, in ``~/.cache/edge-sr/arm64``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from apps.verification.arm_root import LAYOUT, MARK, default_arm_root, find_arm_root
from edge_sr.atomic import scratch_folder
from edge_sr.atomic_folder import place_folder
from edge_sr.errors import EdgeSRError, MissingToolError

# XNNPACK crashes in 7.2, which is Debian 12's own.
_OLDEST_QEMU = (8, 2)
_SYSTEM_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
_WHEELS = ("ai-edge-litert", "numpy")
_PLATFORMS = ("manylinux_2_27_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the emulated ARM system for TFLite numerics (Debian only).")
    parser.add_argument("--folder", type=Path, default=default_arm_root(), help="where; default %(default)s")
    parser.add_argument("--renew", action="store_true", help="replace what is there")
    options = parser.parse_args()
    try:
        make(options.folder, renew=options.renew)
    except EdgeSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def make(folder: Path, *, renew: bool = False) -> None:
    """Fill ``folder``; does nothing where it holds what is needed.

    Raises:
        MissingToolError: this is no Debian, or a step failed.
    """
    if not renew:
        try:
            print(f"{find_arm_root(folder).path} is ready")
            return
        except MissingToolError:
            pass
    suite = _debian_suite(Path("/etc/os-release").read_text(encoding="utf-8") if _is_linux() else "")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent) as scratch:
        fresh = scratch / "new"
        fresh.mkdir()
        versions = _fill(fresh, scratch, suite)
        mark = {"layout": LAYOUT, "versions": versions}
        (fresh / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")
        place_folder(fresh, folder)
    print(
        f"{find_arm_root(folder).path} is ready: {', '.join(f'{name} {version}' for name, version in versions.items())}"
    )


def _fill(fresh: Path, scratch: Path, suite: str) -> dict[str, str]:
    print("1/3 Python and its libraries for arm64")
    arm = _Apt(scratch / "arm64", own_sources(suite, suites=(suite,)), "arm64")
    arm.update()
    for package in arm.download(*_SYSTEM_PACKAGES):
        _unpack(package, fresh / "system")
    print("2/3 the emulator")
    qemu = _fetch_qemu(scratch, suite, fresh / "qemu-aarch64")
    print("3/3 the TFLite runtime")
    python = _python_version(fresh / "system")
    wheels = scratch / "wheels"
    pinned = {name: metadata.version(name) for name in _WHEELS}
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    words = [*platforms, "--python-version", python, "--only-binary=:all:", "--no-deps", "--dest", str(wheels)]
    _run(sys.executable, "-m", "pip", "download", "-q", *words, *(f"{name}=={pinned[name]}" for name in _WHEELS))
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(fresh / "packages")
    return {"qemu-user": qemu, "python": python, **pinned}


def own_sources(suite: str, *, suites: Sequence[str], etc: Path = Path("/etc/apt")) -> str:
    """This machine's source of ``suite``, in apt's current format, asked for ``suites``, and its security updates.

    Raises:
        MissingToolError: there is none for ``suite``.
    """
    stanzas = []
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        stanzas += re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))
    lists = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    lines = [line for path in lists if path.is_file() for line in path.read_text(encoding="utf-8").splitlines()]
    stanzas += filter(None, map(_stanza, lines))
    own = [stanza for stanza in stanzas if re.search(rf"(?m)^Suites:.*(?<![\w-]){suite}(?![\w-])", stanza)]
    if not own:
        raise MissingToolError(f"expected a source of Debian {suite} in {etc}, got none; add it to apt's sources")
    main = re.sub(r"(?m)^Suites:.*$", f"Suites: {' '.join(suites)}", own[0])
    security = [stanza for stanza in stanzas if re.search(rf"(?m)^Suites:.*\b{suite}-security\b", stanza)]
    return "\n\n".join(stanza.strip() for stanza in (main, *security[:1])) + "\n"


def _stanza(line: str) -> str:
    """A line of ``sources.list`` in apt's current format; "" where it is none."""
    match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+?)\s*(?:#.*)?$", line)
    if match is None:
        return ""
    options, address, suite, components = match.groups()
    signed = re.search(r"signed-by=(\S+)", options or "")
    key = f"\nSigned-By: {signed.group(1)}" if signed else ""
    return f"Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: {components}{key}"


class _Apt:
    """apt with lists, cache and state in a folder of its own, as if nothing were installed."""

    def __init__(self, folder: Path, sources: str, architecture: str) -> None:
        self._archives = folder / "cache" / "archives"
        for part in (folder / "lists" / "partial", self._archives / "partial"):
            part.mkdir(parents=True)
        (folder / "own.sources").write_text(sources, encoding="utf-8")
        status = folder / "status"
        status.touch()
        settings = {
            "Dir::Etc::sourcelist": folder / "own.sources",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": folder,
            "Dir::State::status": status,
            "Dir::Cache": folder / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            "Debug::NoLocking": "true",
        }
        if os.geteuid() == 0:
            settings["APT::Sandbox::User"] = "root"  # apt's own user cannot write into a home folder
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def update(self) -> None:
        _run("apt-get", "-qq", *self._options, "update")

    def newest(self, package: str) -> str:
        """Its newest version, without Debian's epoch and revision; "0" where there is none."""
        found = re.findall(
            r"(?m)^Version: (?:\d+:)?(\d+(?:\.\d+)*)", _run("apt-cache", *self._options, "show", package)
        )
        return max(found, key=lambda version: tuple(map(int, version.split("."))), default="0")

    def download(self, *packages: str, suite: str | None = None) -> list[Path]:
        """The packages and all that they depend on, as files."""
        release = [] if suite is None else ["-t", suite]
        words = ["--download-only", "--yes", "--no-install-recommends", *release, "install", *packages]
        _run("apt-get", "-qq", *self._options, *words)
        return sorted(self._archives.glob("*.deb"))


def _fetch_qemu(scratch: Path, suite: str, target: Path) -> str:
    """Put the emulator at ``target``; its version. Backports are asked where the release's own is too old."""
    architecture = _run("dpkg", "--print-architecture").strip()
    for suites in ((suite,), (suite, f"{suite}-backports")):
        apt = _Apt(scratch / suites[-1], own_sources(suite, suites=suites), architecture)
        apt.update()
        version = apt.newest("qemu-user")
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST_QEMU:
            continue
        for package in apt.download("qemu-user", suite=suites[-1]):
            _unpack(package, scratch / "qemu")
        shutil.copy2(scratch / "qemu" / "usr" / "bin" / "qemu-aarch64", target)
        return version
    oldest = ".".join(map(str, _OLDEST_QEMU))
    raise MissingToolError(f"expected qemu-user {oldest} or later in {suite} or its backports, got an older one")


def _unpack(package: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    _run("dpkg-deb", "-x", str(package), str(folder))


def _python_version(system: Path) -> str:
    link = system / "usr" / "bin" / "python3"
    match = re.fullmatch(r"python(\d+\.\d+)", link.readlink().name if link.is_symlink() else "")
    if match is None:
        raise MissingToolError(f"expected Python in the arm64 system, got none at {link}; run it again with --renew")
    return match.group(1)


def _debian_suite(os_release: str) -> str:
    """Code name of the Debian release, out of /etc/os-release."""
    said = dict(re.findall(r'(?m)^(\w+)="?([^"\n]*)"?$', os_release))
    tools = [tool for tool in ("apt-get", "dpkg", "dpkg-deb") if shutil.which(tool) is None]
    if said.get("ID") != "debian" or not said.get("VERSION_CODENAME") or tools:
        name = said.get("PRETTY_NAME") or sys.platform
        raise MissingToolError(f"expected Debian for the emulated ARM system, got {name}: it is made of its packages")
    return str(said["VERSION_CODENAME"])


def _is_linux() -> bool:
    return sys.platform == "linux" and Path("/etc/os-release").is_file()


def _run(*words: str) -> str:
    """Output of a program; MissingToolError with the end of what it said where it failed."""
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = lines[-1].strip()[:300] if lines else f"exit status {done.returncode}"
        raise MissingToolError(f"expected {words[0]} to succeed, got: {said}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
