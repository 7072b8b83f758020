"""Where the emulated ARM system is, and how it is started. ``scripts/arm_root.py`` makes it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edge_sr.errors import MissingToolError

SETUP_COMMAND = "python scripts/arm_root.py"
MARK = "arm_root.json"
# Raised whenever the layout of the folder changes.
LAYOUT = 1


@dataclass(frozen=True, kw_only=True)
class ArmRoot:
    """A folder with an emulator, a small arm64 Debian and the TFLite runtime.

    ``path/qemu-aarch64`` (the emulator), ``path/system`` (Python and its libraries), ``path/packages`` (numpy and
    ai-edge-litert for aarch64), ``path/arm_root.json`` (what was put there).
    """

    path: Path
    versions: dict[str, str]

    def command(self, cpu: str) -> tuple[list[str], dict[str, str]]:
        """Words that start the emulated Python, and its environment."""
        system = self.path / "system"
        words = [str(self.path / "qemu-aarch64"), "-cpu", cpu, "-L", str(system), str(system / "usr/bin/python3")]
        environment = {
            "PYTHONHOME": str(system / "usr"),
            "PYTHONPATH": str(self.path / "packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": os.environ.get("PATH", ""),
        }
        return words, environment


def default_arm_root() -> Path:
    """``~/.cache/edge-sr/arm64``, or under ``XDG_CACHE_HOME``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-sr" / "arm64"


def find_arm_root(path: Path | None = None) -> ArmRoot:
    """The emulated system at ``path``, by default where the script puts it.

    Raises:
        MissingToolError: there is none, or it holds another version of the runtime than is installed here.
    """
    folder = default_arm_root() if path is None else path
    try:
        said = json.loads((folder / MARK).read_text(encoding="utf-8"))
        versions = {str(name): str(version) for name, version in said["versions"].items()}
        current = said["layout"] == LAYOUT
    except (OSError, ValueError, KeyError, AttributeError):
        raise MissingToolError(
            f"expected qemu-aarch64 and an arm64 system in {folder}, got none; on Debian run {SETUP_COMMAND}"
        ) from None
    try:
        installed = metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        raise MissingToolError("ARM numerics need ai-edge-litert here too; pip install ai-edge-litert") from None
    if not current or versions.get("ai-edge-litert") != installed:
        found = versions.get("ai-edge-litert", "none")
        raise MissingToolError(
            f"expected ai-edge-litert {installed} in {folder}, got {found}; run {SETUP_COMMAND} --renew"
        )
    return ArmRoot(path=folder, versions=versions)
