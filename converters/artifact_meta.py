"""What ``artifact.json`` says: its fields, their rules, and how they become text and back.

The text comes from anywhere, so every field is checked: names stay inside the folder, numbers are numbers, tensors fit
the tile. :mod:`converters.artifact` reads and writes the folder around it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from edge_sr.errors import ArtifactError
from edge_sr.sizes import short_size

FORMAT = "edge-sr-artifact-1"
META_FILE = "artifact.json"
DTYPES = ("float32", "float16", "uint8", "int8", "uint16")
LAYOUTS = ("NHWC", "NCHW", "image")
# Larger than any tile that export makes; a promise of more memory than machines have must not get as far as a runtime.
MAX_TILE_SIDE = 4096
# What a machine's numbers and a reader's stack hold; whatever is beyond them was never written by export.
_LARGEST_WHOLE = 2**63 - 1
_DEEPEST = 50
_JSON = f"JSON of whole characters and finite numbers of 63 bits, nested {_DEEPEST} deep at most"
# Fields that artifacts of earlier releases lack, and that are left out where they say nothing.
_OPTIONAL = frozenset({"self_test", "canonical_sha256", "compiled", "others"})


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
        _expect(_is_text(self.name) and _is_text(self.channels), f"name and channels must be text, got {self.name!r}")
        _expect(
            len(self.shape) in (2, 4) and all(_is_count(size) for size in self.shape),
            f"shape must hold 2 or 4 positive sizes, got {self.shape!r}",
        )
        pair = len(self.value_range) == 2 and all(_is_number(value) for value in self.value_range)
        _expect(pair, f"value_range must be (black, white), got {self.value_range!r}")
        _expect((self.qscale is None) == (self.zero_point is None), "qscale and zero_point must come together")
        stored = self.qscale is None or (_is_number(self.qscale) and self.qscale > 0)
        _expect(stored, f"qscale must be a positive number, got {self.qscale!r}")
        _expect(self.zero_point is None or _is_whole(self.zero_point), f"zero_point is {self.zero_point!r}")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture that it stores."""
        return _image_size(self.shape, self.layout)


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
        known = self.delegates is None or (_is_whole(self.delegates) and self.delegates >= 0)
        _expect(known, f"delegates must be a count or null, got {self.delegates!r}")
        counts = all(isinstance(name, str) and _is_count(count) for name, count in self.ops_outside.items())
        _expect(counts, f"ops_outside must map operator names to counts, got {self.ops_outside!r}")
        _expect(isinstance(self.note, str), f"note must be text, got {self.note!r}")


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """For which NPU a file was compiled, and what that took of it.

    Attributes:
        soc: the system on a chip, as its vendor spells it.
        architecture: of the NPU, as "v79"; empty where the compiler does not say.
        delegation: partitions that it took, and operators outside of them.
    """

    soc: str
    architecture: str
    delegation: Delegation

    def __post_init__(self) -> None:
        _expect(_is_text(self.soc), f"compiled: soc must be text, got {self.soc!r}")
        named = isinstance(self.architecture, str) and (not self.architecture or _is_text(self.architecture))
        _expect(named, f"compiled: architecture must be text, got {self.architecture!r}")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Fingerprint of one file of the artifact."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        _expect(_is_sha256(self.sha256), f"sha256 must be 64 hex digits, got {self.sha256!r}")
        _expect(_is_whole(self.size_bytes) and self.size_bytes >= 0, f"size_bytes is {self.size_bytes!r}")


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What the artifact made of a fixed tile when it was exported; see :mod:`converters.self_test`.

    Attributes:
        pattern: generation of the tile's pattern.
        stride: every how many rows and columns the result was sampled.
        runtime: what computed it, with its version.
        pixels: the samples, rows of RGB bytes, as base64.
        others: runtime -> what it made of the tile, as ``pixels``, where files are compiled for several NPUs that
            compute otherwise than one another.
    """

    pattern: int
    stride: int
    runtime: str
    pixels: str
    others: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect(_is_count(self.pattern) and _is_count(self.stride), "self_test: pattern and stride must be counts")
        _expect(isinstance(self.others, dict), "self_test: others must be an object")
        for runtime in (self.runtime, *self.others):
            _expect(_is_text(runtime), f"self_test: runtime must be text, got {runtime!r}")
        try:
            for pixels in (self.pixels, *self.others.values()):
                base64.b64decode(pixels, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise ArtifactError("self_test: pixels must be base64") from None

    def of(self, runtime: str) -> SelfTest:
        """The record as ``runtime`` made it, where it did; else as it is."""
        return replace(self, runtime=runtime, pixels=self.others[runtime]) if runtime in self.others else self

    @property
    def samples(self) -> bytes:
        """The samples, three bytes each."""
        return base64.b64decode(self.pixels)


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
        compiled: runnable file -> the NPU that it was compiled for; None where none is.
        notes: lines a reader of the report should see (float islands, say).
        weights_license, weights_attribution: terms under which the weights may be passed on.
        canonical_sha256: of what the main file computes, names and metadata aside; None: not looked into.
        self_test: what the artifact made of a fixed tile at export; None where nothing could run it then.
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
    compiled: dict[str, Compiled] | None = None
    notes: tuple[str, ...] = ()
    weights_license: str = ""
    weights_attribution: str = ""
    canonical_sha256: str | None = None
    self_test: SelfTest | None = None
    measured: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "scheme", "target", "main_file"):
            _expect(_is_text(getattr(self, name)), f"{name} must be one line of text, got {getattr(self, name)!r}")
        for name in ("model", "scheme", "target"):
            # They become folder names.
            _expect(
                not set("/\\:") & set(getattr(self, name)), f"{name} must be a plain name, got {getattr(self, name)!r}"
            )
        texts = (self.weights_license, self.weights_attribution, *self.notes)
        _expect(all(isinstance(text, str) for text in texts), "licence, attribution and notes must be text")
        _expect(_is_whole(self.scale) and self.scale in (2, 3, 4), f"scale must be one of 2, 3, 4, got {self.scale!r}")
        pair = len(self.tile) == 2 and all(_is_count(side) and side <= MAX_TILE_SIDE for side in self.tile)
        _expect(pair, f"tile must be (height, width), each at most {MAX_TILE_SIDE}, got {self.tile!r}")
        inside = _is_whole(self.overlap) and 0 <= self.overlap < min(self.tile)
        _expect(inside, f"overlap must be at least 0 and smaller than the tile, got {self.overlap!r}")
        self._check_files()
        versions = isinstance(self.tool_versions, dict) and all(map(_is_text, self.tool_versions.values()))
        _expect(versions, f"tool_versions must map packages to versions, got {self.tool_versions!r}")
        _expect(isinstance(self.measured, dict), f"measured must be an object, got {type(self.measured).__name__}")
        _expect(_is_json(self.measured), f"measured must be {_JSON}")
        for name in ("checkpoint_sha256", "calibration_sha256", "canonical_sha256"):
            value = getattr(self, name)
            _expect(_is_sha256(value) or (value is None and name[1] == "a"), f"{name} must be 64 hex digits")

    def _check_files(self) -> None:
        _expect(bool(self.files), "files must not be empty")
        for name in self.files:
            _expect(_is_plain(name), f"file names must be plain relative paths, got {name!r}")
        for name in (self.main_file, *self.io):
            held = name in self.files or any(other.startswith(f"{name}/") for other in self.files)
            _expect(held, f"{name!r} must be among the files {', '.join(self.files)}")
        _expect(self.main_file in self.io, f"io must describe the main file {self.main_file!r}")
        _expect(self.compiled is None or set(self.compiled) <= set(self.io), "io must describe every compiled file")

    def _check_sizes(self) -> None:
        """Raise ArtifactError unless every model file takes the tile and gives it ``scale`` times as large."""
        height, width = self.tile
        for name, variant in self.io.items():
            for side, spec, factor in (("input", variant.input, 1), ("output", variant.output, self.scale)):
                expected = (factor * height, factor * width)
                _expect(spec.image_size == expected, f"{name}: {side} must be {expected}, got {spec.shape}")

    @property
    def size_bytes(self) -> int:
        """Bytes of the main model (a folder's files added up)."""
        own = (self.main_file, f"{self.main_file}/")
        return sum(entry.size_bytes for name, entry in self.files.items() if name == own[0] or name.startswith(own[1]))

    @property
    def is_float(self) -> bool:
        """Whether everything between the pictures is float, so that they may have more than 8 bits a channel."""
        return self.scheme in ("fp32", "fp16")

    @property
    def name(self) -> str:
        """The artifact's default folder name."""
        return artifact_name(model=self.model, scale=self.scale, scheme=self.scheme, target=self.target, tile=self.tile)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict: the format's name, every field, and a digest over all of it."""
        said = {name: value for name, value in asdict(self).items() if value is not None or name not in _OPTIONAL}
        body: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **said}, allow_nan=False))
        return {**body, "sha256": _digest(body)}

    @classmethod
    def from_json(cls, data: Any) -> ArtifactMeta:
        """The inverse of :meth:`to_json`.

        Raises:
            ArtifactError: another format or version, unknown or missing fields, wrong types, or an altered text.
        """
        _expect(isinstance(data, dict), f"expected a JSON object, got {type(data).__name__}")
        _expect(_is_json(data), f"expected {_JSON}")
        body = dict(data)
        found = body.get("format")
        _expect(found == FORMAT, f"expected format {FORMAT!r}, got {found!r}; use the release that wrote it")
        stated = body.pop("sha256", None)
        values = _known_fields(cls, {key: value for key, value in body.items() if key != "format"})
        _expect(stated == _digest(body), "its text was altered after it was written (digest differs)")
        try:
            values["tile"], values["notes"] = _sequence(values, "tile"), _sequence(values, "notes")
            values["io"] = {name: _io_variant(entry) for name, entry in values["io"].items()}
            values["files"] = {name: FileEntry(**_known_fields(FileEntry, e)) for name, e in values["files"].items()}
            values["delegation"] = Delegation(**_known_fields(Delegation, values["delegation"]))
            if "compiled" in values:
                values["compiled"] = {name: _compiled(entry) for name, entry in values["compiled"].items()}
            if "self_test" in values:
                values["self_test"] = SelfTest(**_known_fields(SelfTest, values["self_test"]))
            meta = cls(**values)
            meta._check_sizes()
            return meta
        except (TypeError, AttributeError) as error:
            raise ArtifactError(f"a field has the wrong type ({error})") from None


def artifact_name(*, model: str, scale: int, scheme: str, target: str, tile: tuple[int, int]) -> str:
    """Default folder name, ``{model}_x{scale}_{scheme}_{target}_{width}x{height}``."""
    return f"{model}_x{scale}_{scheme}_{target}_{short_size(tile)}"


def _compiled(entry: Any) -> Compiled:
    values = _known_fields(Compiled, entry)
    return Compiled(**values | {"delegation": Delegation(**_known_fields(Delegation, values["delegation"]))})


def _io_variant(entry: Any) -> IoVariant:
    sides = _known_fields(IoVariant, entry)
    specs = {}
    for side, spec in sides.items():
        values = _known_fields(TensorSpec, spec)
        values["shape"], values["value_range"] = _sequence(values, "shape"), _sequence(values, "value_range")
        specs[side] = TensorSpec(**values)
    return IoVariant(**specs)


def _known_fields(kind: type, data: Any) -> dict[str, Any]:
    _expect(isinstance(data, dict), f"{kind.__name__}: expected a JSON object, got {type(data).__name__}")
    known = [entry.name for entry in fields(kind)]
    for verb, names in (("unknown", set(data) - set(known)), ("missing", set(known) - _OPTIONAL - set(data))):
        _expect(not names, f"{kind.__name__}: {verb} field {', '.join(sorted(names))}")
    return dict(data)


def _sequence(values: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    # A text is a sequence too, and would come apart into letters.
    _expect(isinstance(values[name], list), f"{name} must be a list, got {values[name]!r}")
    return tuple(values[name])


def _image_size(shape: tuple[int, ...], layout: str) -> tuple[int, int]:
    match layout, len(shape):
        case "image", 2:
            height, width = shape
        case "NHWC", 4:
            _, height, width, _ = shape
        case "NCHW", 4:
            _, _, height, width = shape
        case _:
            raise ArtifactError(f"shape {shape} does not fit layout {layout}")
    return height, width


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_json(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a value can be written as JSON, read again by any reader, and shown."""
    if isinstance(value, dict | list | tuple):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        named = not isinstance(value, dict) or all(isinstance(name, str) for name in value)
        return depth > 0 and named and all(_is_json(entry, depth - 1) for entry in inner)
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return value is None or isinstance(value, bool) or _is_whole(value) or _is_number(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_WHOLE


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: Any) -> bool:
    """One line that a terminal and a file system can show: no control characters, no lone surrogates."""
    return isinstance(value, str) and bool(value) and value.isprintable()


def _is_plain(name: str) -> bool:
    """A relative path that means the same file on every system, inside the folder, and not ``artifact.json``."""
    parts = name.split("/")
    inside = all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= 255 for part in parts)
    return inside and _is_text(name) and not set("\\:") & set(name) and name.casefold() != META_FILE


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ArtifactError(message)
