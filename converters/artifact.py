"""Artifact folders: model files that explain themselves and are checked before anything loads them.

An artifact is a folder with the model file(s) and ``artifact.json``. The JSON names every file with its SHA-256 and
size, says how the tensors are laid out, which tile it runs and how it was made, and carries a digest of itself.
:func:`load_artifact` verifies all of it before any runtime sees a byte: runtimes accept altered files silently.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from converters.artifact_meta import (
    DTYPES,
    FORMAT,
    LAYOUTS,
    META_FILE,
    ArtifactMeta,
    Compiled,
    Delegation,
    FileEntry,
    IoVariant,
    SelfTest,
    TensorSpec,
    artifact_name,
)
from edge_sr.atomic import folder_lock, scratch_folder
from edge_sr.atomic_folder import place_folder, place_new_folder
from edge_sr.errors import ArtifactError, EdgeSRError
from edge_sr.foreign_text import visible

__all__ = [
    "DTYPES",
    "FORMAT",
    "LAYOUTS",
    "META_FILE",
    "Artifact",
    "ArtifactMeta",
    "Compiled",
    "Delegation",
    "FileEntry",
    "IoVariant",
    "SelfTest",
    "TensorSpec",
    "artifact_name",
    "fingerprint",
    "load_artifact",
    "record_measured",
    "refuse_existing",
    "with_main_file",
    "write_artifact",
    "write_meta",
]

_EXPORT_AGAIN = "export the artifact again"
_META_LIMIT_BYTES = 4 * 1024 * 1024
_LINE_LIMIT = 400


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A verified artifact folder."""

    path: Path
    meta: ArtifactMeta

    @property
    def main_path(self) -> Path:
        """The model file (or package folder) that runners open."""
        return self.path / self.meta.main_file


def with_main_file(artifact: Artifact, name: str) -> Artifact:
    """The artifact as seen by who runs another of its files; ArtifactError where there is no such runnable file."""
    if name not in artifact.meta.io:
        known = ", ".join(artifact.meta.io)
        raise ArtifactError(f"expected one of the files {known} of {artifact.path}, got {name!r}")
    return replace(artifact, meta=replace(artifact.meta, main_file=name))


def fingerprint(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """SHA-256 and size of ``names`` inside ``folder``; a name of a folder stands for every file below it.

    Raises:
        ArtifactError: a name does not exist.
    """
    entries: dict[str, FileEntry] = {}
    for name in names:
        path = folder / name
        found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in found:
            if not file.is_file():
                raise ArtifactError(f"expected the file {file.name} in {folder}, got none; {_EXPORT_AGAIN}")
            entries[file.relative_to(folder).as_posix()] = FileEntry(
                sha256=_file_sha256(file), size_bytes=file.stat().st_size
            )
    return entries


def write_artifact(path: Path, *, meta: ArtifactMeta, source: Path, overwrite: bool = False) -> Artifact:
    """Write the artifact folder ``path`` whole or not at all.

    Whoever reads meanwhile finds the old artifact or the new one, as :mod:`edge_sr.atomic_folder` says, and of several
    processes that write to a free path one succeeds.

    Args:
        path: the artifact folder itself (not its parent).
        meta: ``files`` must already hold the fingerprints of the files in ``source``.
        source: folder with the files; they are copied.
        overwrite: replace an existing artifact folder. Any other existing path is refused.
    Raises:
        ArtifactError: ``path`` exists, or a file does not match its fingerprint.
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent) as scratch:
        fresh = scratch / "new"
        fresh.mkdir()
        for name in meta.files:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, fresh / name)
        write_meta(fresh / META_FILE, meta)
        load_artifact(fresh)
        if overwrite:
            place_folder(fresh, path)
        else:
            try:
                place_new_folder(fresh, path)
            except FileExistsError:
                raise _exists(path) from None
    return Artifact(path=path, meta=meta)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise ArtifactError where ``path`` must not be written: it exists, or is no artifact that may be replaced."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise _exists(path)
    if path.is_symlink() or not (path / META_FILE).is_file():
        raise ArtifactError(
            f"expected an artifact folder to overwrite, got {path}; remove it by hand or choose another"
        )


def load_artifact(path: Path, *, compare_computation: bool = True) -> Artifact:
    """Read and verify an artifact folder; nothing is handed to a runtime.

    An artifact that another process replaces meanwhile is read again: half of each would look damaged.

    Args:
        path: the folder.
        compare_computation: also compare what the main file computes with the digest that export recorded, which takes
            one reading of it and the package with its schema; False in a process that works for one that has done so.
    Raises:
        ArtifactError: missing, unreadable, unknown fields or version, or a file that is missing, truncated, altered, or
            that computes something else than was exported, whatever hash stands there.
    """
    path = Path(path)
    while True:
        before = _identity(path)
        try:
            return _loaded(path, compare_computation)
        except ArtifactError:
            if _identity(path) == before:
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that takes its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns  # the numbers of folders are given again


def _loaded(path: Path, compare_computation: bool) -> Artifact:
    try:
        if not path.is_dir():
            state = "a file" if path.exists() else "nothing"
            raise ArtifactError(
                f"expected an artifact folder at {path}, got {state}; give the folder that export wrote"
            )
        meta = _read_meta(path / META_FILE)
        for name, entry in meta.files.items():
            _check_file(path / name, entry)
        _check_nothing_else(path, meta)
        if compare_computation:
            _check_computation(path, meta)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}; check names and permissions") from None
    return Artifact(path=path, meta=meta)


def record_measured(artifact: Artifact, results: Mapping[str, Any]) -> Artifact:
    """Merge ``results`` (JSON-ready, by name) into the ``measured`` of ``artifact.json``.

    What the file says by now is what they are merged into, and other processes that record wait meanwhile: of several,
    none loses the results of another (Windows has no such lock).

    Args:
        artifact: as it was measured.
    Returns:
        the artifact with all that ``artifact.json`` says now.
    Raises:
        ArtifactError: it is gone, damaged, cannot be written, or another artifact has taken its place.
    """
    path = artifact.path / META_FILE
    try:
        with folder_lock(artifact.path):
            found = _read_meta(path)
            if found.files != artifact.meta.files:
                raise ArtifactError(
                    f"expected the artifact that was measured at {artifact.path}, got another one: measure again"
                )
            meta = replace(found, measured={**found.measured, **results})
            # A link is replaced here, not written through: it leads into a store of files that others share.
            with scratch_folder(artifact.path) as scratch:
                write_meta(scratch / META_FILE, meta)
                os.replace(scratch / META_FILE, path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}; check permissions and space") from None
    return Artifact(path=artifact.path, meta=meta)


def _exists(path: Path) -> ArtifactError:
    return ArtifactError(f"expected a new path, got existing {path}; choose another one or use --overwrite")


def _read_meta(path: Path) -> ArtifactMeta:
    if not path.is_file():
        raise ArtifactError(f"expected {META_FILE} in {path.parent}, got none; give the folder that export wrote")
    if path.stat().st_size > _META_LIMIT_BYTES:
        raise ArtifactError(f"{path}: expected at most {_META_LIMIT_BYTES} bytes; {_EXPORT_AGAIN}")
    try:
        return ArtifactMeta.from_json(json.loads(path.read_bytes(), object_pairs_hook=_each_key_once))
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: expected JSON, got a damaged file; {_EXPORT_AGAIN}") from None
    except EdgeSRError as error:
        raise ArtifactError(f"{path}: {_one_line(str(error))}; {_EXPORT_AGAIN}") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON readers differ in which of two equal keys they believe, so such a text says two things at once."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ArtifactError("expected every key once, got one of them twice")
    return found


def _one_line(text: str) -> str:
    """What a damaged file says, fit for a terminal: one line, no control characters, of bounded length."""
    return visible(text, limit=_LINE_LIMIT)


def write_meta(path: Path, meta: ArtifactMeta) -> None:
    """Write ``artifact.json`` as it is; what others may read meanwhile is replaced whole instead."""
    path.write_text(json.dumps(meta.to_json(), indent=2) + "\n", encoding="utf-8")


def _check_nothing_else(path: Path, meta: ArtifactMeta) -> None:
    """A package folder holds what export wrote and nothing else, as runtimes read whatever lies in it."""
    parents = {parent.as_posix() for name in meta.files for parent in PurePosixPath(name).parents}
    for folder in {name.split("/")[0] for name in meta.files if "/" in name}:
        for entry in (path / folder).rglob("*"):
            name = entry.relative_to(path).as_posix()
            known = name in parents if entry.is_dir() else name in meta.files
            if not known:
                raise ArtifactError(f"{entry}: expected only the files that export wrote, got one more; remove it")


def _check_computation(path: Path, meta: ArtifactMeta) -> None:
    """Hashes tell nothing once somebody has written them anew for an altered file; the digest of what it computes does.

    An artifact without one (of an earlier release, or of what is not looked into) stays as good as its hashes.
    """
    if meta.canonical_sha256 is None:
        return
    from converters.graphs import check_canonical_sha256

    names = sorted(name for name in meta.files if name == meta.main_file or name.startswith(f"{meta.main_file}/"))
    check_canonical_sha256(
        path / meta.main_file,
        meta.target,
        recorded=meta.canonical_sha256,
        tool_versions=meta.tool_versions,
        file_hashes=tuple(meta.files[name].sha256 for name in names),
    )


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: expected {entry.size_bytes} bytes, got no file; {_EXPORT_AGAIN}")
    size = path.stat().st_size
    if size != entry.size_bytes:
        raise ArtifactError(f"{path}: expected {entry.size_bytes} bytes, got {size}; {_EXPORT_AGAIN}")
    if _file_sha256(path) != entry.sha256:
        raise ArtifactError(f"{path}: expected SHA-256 {entry.sha256[:12]}..., got an altered file; {_EXPORT_AGAIN}")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
