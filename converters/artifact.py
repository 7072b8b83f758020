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
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from edge_sr.errors import ArtifactError, EdgeSRError

FORMAT = "edge-sr-artifact-1"
META_FILE = "artifact.json"
DTYPES = ("float32", "float16", "uint8", "int8")
LAYOUTS = ("NHWC", "NCHW", "image")
_EXPORT_AGAIN = "export the artifact again"
_META_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """How one input or output is stored.

    Attributes:
        name: its name in the model file.
        dtype: one of :data:`DTYPES`.
        layout: ``NHWC``, ``NCHW``, or ``image`` where the runtime takes a picture object (Core ML).
        shape: all dimensions, batch included (an ``image`` is (height, width)).
        value_range: (black, white) as stored: (0, 1) float, (0, 255) uint8, (-128, 127) int8.
        qscale, zero_point: ``intensity in [0, 1] = (stored - zero_point) * qscale``; None for float and pictures.
        channels: order of the colour channels.
    """

    name: str
    dtype: str
    layout: str
    shape: tuple[int, ...]
    value_range: tuple[float, float]
    qscale: float | None = None
    zero_point: int | None = None
    channels: str = "RGB"

    def __post_init__(self) -> None:
        _expect(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        _expect(self.layout in LAYOUTS, f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        _expect(
            len(self.shape) in (2, 4) and all(_is_count(size) for size in self.shape),
            f"shape must hold 2 or 4 positive sizes, got {self.shape!r}",
        )
        _expect(len(self.value_range) == 2, f"value_range must be (black, white), got {self.value_range!r}")
        _expect((self.qscale is None) == (self.zero_point is None), "qscale and zero_point must come together")


@dataclass(frozen=True, kw_only=True)
class IoVariant:
    """Input and output of one runnable model file."""

    input: TensorSpec
    output: TensorSpec


@dataclass(frozen=True, kw_only=True)
class Delegation:
    """What the accelerated backend took.

    Attributes:
        delegates: number of partitions handed to the backend; None where nothing here can tell (``note`` says why).
        ops_outside: operator name -> count, of the operators left to the runtime's slow reference path.
        note: one line, where the two numbers need it.
    """

    delegates: int | None
    ops_outside: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        known = self.delegates is None or (isinstance(self.delegates, int) and self.delegates >= 0)
        _expect(known, f"delegates must be a count or null, got {self.delegates!r}")
        counts = all(isinstance(name, str) and _is_count(count) for name, count in self.ops_outside.items())
        _expect(counts, f"ops_outside must map operator names to counts, got {self.ops_outside!r}")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Fingerprint of one file of the artifact."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        _expect(_is_sha256(self.sha256), f"sha256 must be 64 hex digits, got {self.sha256!r}")
        _expect(isinstance(self.size_bytes, int) and self.size_bytes >= 0, f"size_bytes is {self.size_bytes!r}")


@dataclass(frozen=True, kw_only=True)
class ArtifactMeta:
    """Everything ``artifact.json`` says.

    Attributes:
        model, scale, scheme, target: what was exported, how, and for which runtime.
        tile: (height, width) of the LR input.
        overlap: LR pixels by which tiles should overlap when a larger picture is upscaled.
        main_file: the file (or ``.mlpackage`` folder) that runners open.
        io: runnable file -> its input and output; ``main_file`` is among them.
        files: path inside the artifact (with ``/``) -> fingerprint; every model file is here.
        tool_versions: package -> version that made the files.
        checkpoint_sha256, calibration_sha256: where the weights and the ranges came from.
        delegation: what the accelerated backend takes of ``main_file``.
        notes: lines a reader of the report should see (float islands, say).
        weights_license, weights_attribution: terms under which the weights may be passed on.
        measured: results written by verification, by name; free-form JSON.
    """

    model: str
    scale: int
    scheme: str
    target: str
    tile: tuple[int, int]
    overlap: int
    main_file: str
    io: dict[str, IoVariant]
    files: dict[str, FileEntry]
    tool_versions: dict[str, str]
    checkpoint_sha256: str
    calibration_sha256: str | None = None
    delegation: Delegation
    notes: tuple[str, ...] = ()
    weights_license: str = ""
    weights_attribution: str = ""
    measured: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "scheme", "target", "main_file", "weights_license", "weights_attribution"):
            _expect(isinstance(getattr(self, name), str), f"{name} must be text, got {getattr(self, name)!r}")
        _expect(self.scale in (2, 3, 4), f"scale must be one of 2, 3, 4, got {self.scale!r}")
        pair = len(self.tile) == 2 and all(_is_count(side) for side in self.tile)
        _expect(pair, f"tile must be (height, width), got {self.tile!r}")
        inside = isinstance(self.overlap, int) and 0 <= self.overlap < min(self.tile)
        _expect(inside, f"overlap must be at least 0 and smaller than the tile, got {self.overlap!r}")
        _expect(bool(self.files), "files must not be empty")
        for name in self.files:
            _expect(_is_plain(name), f"file names must be plain relative paths, got {name!r}")
        for name in (self.main_file, *self.io):
            held = name in self.files or any(other.startswith(f"{name}/") for other in self.files)
            _expect(held, f"{name!r} must be among the files {', '.join(self.files)}")
        _expect(self.main_file in self.io, f"io must describe the main file {self.main_file!r}")
        for name in ("checkpoint_sha256", "calibration_sha256"):
            value = getattr(self, name)
            _expect(_is_sha256(value) or (value is None and name[1] == "a"), f"{name} must be 64 hex digits")

    @property
    def size_bytes(self) -> int:
        """Bytes of the main model (a folder's files added up)."""
        own = (self.main_file, f"{self.main_file}/")
        return sum(entry.size_bytes for name, entry in self.files.items() if name == own[0] or name.startswith(own[1]))

    @property
    def name(self) -> str:
        """The artifact's default folder name."""
        return artifact_name(model=self.model, scale=self.scale, scheme=self.scheme, target=self.target, tile=self.tile)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict: the format's name, every field, and a digest over all of it."""
        body: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}, allow_nan=False))
        return {**body, "sha256": _digest(body)}

    @classmethod
    def from_json(cls, data: Any) -> ArtifactMeta:
        """The inverse of :meth:`to_json`.

        Raises:
            ArtifactError: another format or version, unknown or missing fields, wrong types, or an altered text.
        """
        _expect(isinstance(data, dict), f"expected a JSON object, got {type(data).__name__}")
        body = dict(data)
        found = body.get("format")
        _expect(found == FORMAT, f"expected format {FORMAT!r}, got {found!r}; use the release that wrote it")
        stated = body.pop("sha256", None)
        values = _known_fields(cls, {key: value for key, value in body.items() if key != "format"})
        _expect(stated == _digest(body), "its text was altered after it was written (digest differs)")
        try:
            values["tile"], values["notes"] = tuple(values["tile"]), tuple(values.get("notes", ()))
            values["io"] = {name: _io_variant(entry) for name, entry in values["io"].items()}
            values["files"] = {name: FileEntry(**_known_fields(FileEntry, e)) for name, e in values["files"].items()}
            values["delegation"] = Delegation(**_known_fields(Delegation, values["delegation"]))
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise ArtifactError(f"a field has the wrong type ({error})") from None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A verified artifact folder."""

    path: Path
    meta: ArtifactMeta

    @property
    def main_path(self) -> Path:
        """The model file (or package folder) that runners open."""
        return self.path / self.meta.main_file


def artifact_name(*, model: str, scale: int, scheme: str, target: str, tile: tuple[int, int]) -> str:
    """Default folder name, ``{model}_x{scale}_{scheme}_{target}_{height}x{width}``."""
    return f"{model}_x{scale}_{scheme}_{target}_{tile[0]}x{tile[1]}"


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
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        for name in meta.files:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, fresh / name)
        _write_meta(fresh / META_FILE, meta)
        load_artifact(fresh)
        old = Path(scratch) / "old"
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(fresh, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    return Artifact(path=path, meta=meta)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise ArtifactError where ``path`` must not be written: it exists, or is no artifact that may be replaced."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ArtifactError(f"expected a new path, got existing {path}; choose another one or allow overwriting")
    if path.is_symlink() or not (path / META_FILE).is_file():
        raise ArtifactError(
            f"expected an artifact folder to overwrite, got {path}; remove it by hand or choose another"
        )


def load_artifact(path: Path) -> Artifact:
    """Read and verify an artifact folder; nothing is handed to a runtime.

    Raises:
        ArtifactError: missing, unreadable, unknown fields or version, or a file that is missing, truncated or altered.
    """
    path = Path(path)
    if not path.is_dir():
        state = "a file" if path.exists() else "nothing"
        raise ArtifactError(f"expected an artifact folder at {path}, got {state}; give the folder that export wrote")
    meta = _read_meta(path / META_FILE)
    for name, entry in meta.files.items():
        _check_file(path / name, entry)
    for folder in {name.split("/")[0] for name in meta.files if "/" in name}:
        for file in (path / folder).rglob("*"):
            if file.is_file() and file.relative_to(path).as_posix() not in meta.files:
                raise ArtifactError(f"{file}: expected only the files that export wrote, got one more; remove it")
    return Artifact(path=path, meta=meta)


def record_measured(artifact: Artifact, results: Mapping[str, Any]) -> Artifact:
    """Merge ``results`` (JSON-ready, by name) into the artifact's ``measured`` and rewrite ``artifact.json``."""
    meta = replace(artifact.meta, measured={**artifact.meta.measured, **results})
    fresh = artifact.path / f".{META_FILE}.new"
    try:
        _write_meta(fresh, meta)
        os.replace(fresh, artifact.path / META_FILE)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {artifact.path / META_FILE}: {error.strerror}; check permissions") from None
    return Artifact(path=artifact.path, meta=meta)


def _read_meta(path: Path) -> ArtifactMeta:
    if not path.is_file():
        raise ArtifactError(f"expected {META_FILE} in {path.parent}, got none; give the folder that export wrote")
    if path.stat().st_size > _META_LIMIT_BYTES:
        raise ArtifactError(f"{path}: expected at most {_META_LIMIT_BYTES} bytes; {_EXPORT_AGAIN}")
    try:
        return ArtifactMeta.from_json(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: expected JSON, got a damaged file; {_EXPORT_AGAIN}") from None
    except EdgeSRError as error:
        raise ArtifactError(f"{path}: {error}; {_EXPORT_AGAIN}") from None


def _write_meta(path: Path, meta: ArtifactMeta) -> None:
    path.write_text(json.dumps(meta.to_json(), indent=2) + "\n", encoding="utf-8")


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: expected {entry.size_bytes} bytes, got no file; {_EXPORT_AGAIN}")
    size = path.stat().st_size
    if size != entry.size_bytes:
        raise ArtifactError(f"{path}: expected {entry.size_bytes} bytes, got {size}; {_EXPORT_AGAIN}")
    if _file_sha256(path) != entry.sha256:
        raise ArtifactError(f"{path}: expected SHA-256 {entry.sha256[:12]}..., got an altered file; {_EXPORT_AGAIN}")


def _io_variant(entry: Any) -> IoVariant:
    sides = _known_fields(IoVariant, entry)
    specs = {}
    for side, spec in sides.items():
        values = _known_fields(TensorSpec, spec)
        values["shape"], values["value_range"] = tuple(values["shape"]), tuple(values["value_range"])
        specs[side] = TensorSpec(**values)
    return IoVariant(**specs)


def _known_fields(kind: type, data: Any) -> dict[str, Any]:
    _expect(isinstance(data, dict), f"{kind.__name__}: expected a JSON object, got {type(data).__name__}")
    known = [entry.name for entry in fields(kind)]
    for verb, names in (("unknown", set(data) - set(known)), ("missing", set(known) - set(data))):
        _expect(not names, f"{kind.__name__}: {verb} field {', '.join(sorted(names))}")
    return dict(data)


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and "\\" not in name and not name.startswith("/") and ".." not in parts and name != META_FILE


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(message)
