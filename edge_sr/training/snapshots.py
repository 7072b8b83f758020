"""Snapshots of a run: two files, the last and the one before, of which a damaged one is noticed and never trained on.

A file is a line that names its format, the SHA-256 of what follows, and what ``torch.save`` wrote. ``torch.load``
alone checks nothing: a run whose snapshot has one flipped bit would go on to other weights without a word.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from edge_sr.atomic import atomic_path
from edge_sr.errors import CheckpointError, reason_of
from edge_sr.foreign_text import visible

_MAGIC = b"edge-sr snapshot 1\n"
_OLD_MAGIC = b"PK"  # bare ``torch.save``, as written before there was a checksum
_DIGEST_BYTES = 32


def to_stderr(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(visible(line), file=sys.stderr, flush=True)


def previous_snapshot(path: Path) -> Path:
    """Where the snapshot before the last is kept: ``snapshot.previous.pt`` for ``snapshot.pt``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_snapshot(path: Path, state: Mapping[str, Any]) -> None:
    """Write a snapshot, whole or not at all; the one that was there is kept as :func:`previous_snapshot`.

    Args:
        path: file to write; its folder must exist, and this process must be the only one that writes to it.
        state: tensors and plain values, a whole number ``step`` among them.
    Raises:
        CheckpointError: it cannot be written (a full disk); the snapshots that are there stay as they were.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    try:
        with atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                file.write(_MAGIC + hashlib.sha256(payload).digest())
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            if path.is_file() and isinstance(_payload(path), bytes):  # a damaged one must not push out a whole one
                os.replace(path, previous_snapshot(path))
    except OSError as error:
        raise CheckpointError(
            f"expected to write {path}, got: {error.strerror or error}; make room there, then start the same run again"
        ) from error


def load_snapshot(
    path: Path, map_location: torch.device | str, *, steps: int, warn: Callable[[str], None] = to_stderr
) -> dict[str, Any] | None:
    """Read the last snapshot, or the one before where the last is damaged or missing.

    Args:
        path: as given to :func:`save_snapshot`.
        map_location: device that tensors come to.
        steps: steps of the run; a snapshot beyond them is refused.
        warn: called with one line where the snapshot before the last is taken.
    Returns:
        the state, or None where there is no snapshot at all.
    Raises:
        CheckpointError: no snapshot is whole, or the whole one holds no step of this run.
    """
    damage: list[str] = []
    for candidate in (path, previous_snapshot(path)):
        payload = _payload(candidate)
        if isinstance(payload, bytes):
            if candidate != path:
                warn(f"{damage[0] if damage else f'{path} is missing'}; going on from the one before, {candidate}")
            return _state(candidate, payload, map_location, steps)
        if payload:
            damage.append(f"{candidate} {payload}")
    if damage:
        raise CheckpointError(f"expected a whole snapshot, got: {', '.join(damage)}; delete to start this run anew")
    return None


def checked_step(state: Mapping[str, Any], steps: int, path: Path) -> int:
    """The step that a snapshot was taken at.

    Raises:
        CheckpointError: it is no whole number within 0..``steps``.
    """
    step = state.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= steps:
        raise CheckpointError(f"expected a snapshot at a step of 0..{steps}, got {step!r:.60} in {path}; delete it")
    return step


def remove_snapshots(path: Path) -> None:
    """Remove the last snapshot and the one before, where they exist."""
    for file in (path, previous_snapshot(path)):
        file.unlink(missing_ok=True)


def _payload(path: Path) -> bytes | str:
    """What ``torch.save`` wrote, or what is wrong with the file; "" where there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    start = len(_MAGIC) + _DIGEST_BYTES
    if content.startswith(_OLD_MAGIC):
        return "has no checksum (an older version wrote it)"
    if not content.startswith(_MAGIC) or hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
        return "is damaged (its checksum does not fit)"
    return content[start:]


def _state(path: Path, payload: bytes, map_location: torch.device | str, steps: int) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(payload), map_location=map_location, weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        reason = reason_of(error)
        raise CheckpointError(f"expected a snapshot of this version, got {path} ({reason}); delete it") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"expected a snapshot of named values, got {type(state).__name__} in {path}; delete it")
    checked_step(state, steps, path)
    return state
