"""The user's ``benchmark_model`` and ``executor_runner``: where they are, remembered from one call to the next.

They are the runtimes' own programs, built for Android; this project ships neither. A path given once is kept in
``~/.config/edge-sr/adb.json`` (``$XDG_CONFIG_HOME`` where it is set).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_sr.atomic import atomic_path
from edge_sr.errors import ConfigError, MissingToolError
from edge_sr.foreign_files import parse_json

TOOL_OF_TARGET = {"tflite": "benchmark_model", "executorch": "executor_runner"}
OPTION_OF_TOOL = {"benchmark_model": "--benchmark-model", "executor_runner": "--executor-runner"}
WHERE_TO_GET = {
    "benchmark_model": "download LiteRT's, litert/binaries/latest/android_arm64/benchmark_model (ai.google.dev/edge/"
    "litert/models/measurement)",
    "executor_runner": "build it with ExecuTorch and the Android NDK (docs.pytorch.org/executorch, Building from "
    "source, Cross-Compiling for Android; -DEXECUTORCH_BUILD_EXECUTOR_RUNNER=ON -DEXECUTORCH_BUILD_XNNPACK=ON)",
}
# ELF's e_machine -> what Android calls that processor, and which of a device's ABIs can run it.
_MACHINES = {0xB7: "arm64-v8a", 0x28: "armeabi-v7a", 0x3E: "x86_64", 0x03: "x86", 0xF3: "riscv64"}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program for the device. ``abi`` is None where it is no ELF file (a script around one)."""

    name: str
    path: Path
    sha256: str
    abi: str | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    def check_abi(self, abis: tuple[str, ...], device: str) -> None:
        """Raise ConfigError where a device with these ABIs cannot run it."""
        if self.abi is not None and abis and self.abi not in abis:
            raise ConfigError(
                f"expected {self.name} for {abis[0]} ({device}), got one for {self.abi} at {self.path}; "
                f"{WHERE_TO_GET[self.name]}"
            )


def settings_path() -> Path:
    """The file that remembers; it need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "edge-sr" / "adb.json"


def resolve_tool(name: str, given: Path | None) -> Tool:
    """The tool at ``given``, which is remembered, or else the one remembered.

    Raises:
        MissingToolError: none was ever given, or the remembered one is gone.
        ConfigError: ``given`` is no file.
    """
    option = OPTION_OF_TOOL[name]
    if given is not None:
        path = Path(given).expanduser().resolve()
        tool = _inspect(name, path)
        _remember("tools", name, str(path))
        return tool
    known = _read().get("tools", {}).get(name)
    if known is None:
        raise MissingToolError(
            f"expected the path of {name}, got none yet; {WHERE_TO_GET[name]} and give it once with {option} PATH"
        )
    if not Path(known).is_file():
        raise MissingToolError(f"expected {name} at {known} as before, got no file; give its place with {option} PATH")
    return _inspect(name, Path(known))


def remember_left_behind(serial: str, folder: str) -> None:
    """Note a folder that could not be removed because the device was gone; the next session there removes it."""
    folders = set(_read().get("left_behind", {}).get(serial, ()))
    _remember("left_behind", serial, sorted(folders | {folder}))


def left_behind(serial: str) -> tuple[str, ...]:
    """Folders noted for this device."""
    folders = _read().get("left_behind", {}).get(serial, ())
    return tuple(folder for folder in folders if isinstance(folder, str))


def forget_left_behind(serial: str) -> None:
    """The folders noted for this device are gone."""
    if left_behind(serial):
        _remember("left_behind", serial, [])


def _inspect(name: str, path: Path) -> Tool:
    if not path.is_file():
        raise ConfigError(f"expected the program {name} at {path}, got no file; {WHERE_TO_GET[name]}")
    try:
        with path.open("rb") as stream:
            head = stream.read(20)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"expected to read {path}, got {error.strerror}; check its permissions") from None
    abi = None
    if head[:4] == b"\x7fELF" and len(head) == 20:
        machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        abi = _MACHINES.get(machine, f"ELF machine {machine}")
    return Tool(name=name, path=path, sha256=digest, abi=abi)


def _read() -> dict[str, Any]:
    try:
        content = parse_json(settings_path().read_bytes())
    except (OSError, ValueError):
        return {}  # none yet, or damaged: it only saves typing
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, dict)}


def _remember(group: str, key: str, value: Any) -> None:
    path = settings_path()
    content = _read()
    content.setdefault(group, {})[key] = value
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"expected to write {path}, got {error.strerror}; set XDG_CONFIG_HOME elsewhere") from None
