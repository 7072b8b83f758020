"""Checkpoints: safetensors files that carry the network's name, configuration and history in their header.

Header strings: ``format`` ("edge-sr-1"), ``kind`` ("float" or "quantized"), ``model``, ``config`` (JSON) and
``metadata`` (JSON). Nothing in such a file is code: loading one never executes anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edge_sr.atomic import atomic_path
from edge_sr.errors import CheckpointError, ConfigError, MissingToolError

FORMAT = "edge-sr-1"
KINDS = ("float", "quantized")
WEIGHTS_DIR = Path(__file__).parent / "weights"

# The header's length comes from the file; anything longer than this is not one of ours.
_MAX_HEADER_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedTensors:
    """The contents of a checkpoint file: its tensors (on the CPU), its header and its SHA-256."""

    tensors: dict[str, Tensor]
    kind: str
    model: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A float network in eval mode on the CPU, the metadata saved with it and the file's SHA-256."""

    network: nn.Module
    metadata: dict[str, Any]
    sha256: str


def save_checkpoint(path: Path, network: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Save a float network in its training form; the file appears whole or not at all and replaces an older one.

    Args:
        path: file to write; missing folders are created.
        network: has ``model_name`` and a dataclass ``config``.
        metadata: JSON-ready facts about the training (steps, data, scores, command).
    Raises:
        CheckpointError: the network lacks those attributes, the metadata is not JSON, or the file cannot be written.
    """
    model, config = getattr(network, "model_name", None), getattr(network, "config", None)
    if not isinstance(model, str) or not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise CheckpointError(
            f"expected a network with model_name and config, got {type(network).__name__}; make it with create_network"
        )
    save_tensors(path, network.state_dict(), model=model, config=dataclasses.asdict(config), metadata=metadata)


def load_checkpoint(path: Path, *, expect_model: str | None = None) -> LoadedCheckpoint:
    """Rebuild a float network from its file.

    Args:
        path: file written by :func:`save_checkpoint`.
        expect_model: refuse a checkpoint of another network.
    Returns:
        the network in eval mode on the CPU, with its metadata and the file's SHA-256.
    Raises:
        CheckpointError: missing or damaged file, another network, another kind, or weights that do not fit.
    """
    from edge_sr.networks import create_network  # here, so that reading tensors needs no network code

    loaded = load_tensors(path, expect_model=expect_model, expect_kind="float")
    config = dict(loaded.config)
    try:
        network: nn.Module = create_network(loaded.model, config.pop("scale"), **config)
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"expected a configuration of this version, got {path} ({error}); use the version that wrote it"
        ) from error
    try:
        network.load_state_dict(loaded.tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"expected weights that fit {loaded.model}, got {path}: {reason[:300]}") from error
    return LoadedCheckpoint(network=network.eval(), metadata=loaded.metadata, sha256=loaded.sha256)


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    model: str,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    kind: str = "float",
) -> None:
    """Save named tensors with a header; the file appears whole or not at all and replaces an older one.

    Equal contents give equal bytes, so that the SHA-256 names the contents.

    Args:
        path: file to write; missing folders are created.
        tensors: name -> tensor, on any device; shared storage is written once per name.
        model: the network's name in ``MODELS``.
        config: its configuration, JSON-ready, ``scale`` included.
        metadata: JSON-ready facts.
        kind: "float" or "quantized".
    Raises:
        CheckpointError: unknown kind, a header that is not JSON, or a place that cannot be written.
    """
    if kind not in KINDS:
        raise CheckpointError(f"expected kind to be one of {', '.join(KINDS)}, got {kind!r}")
    header = {"format": FORMAT, "kind": kind, "model": model}
    header |= {"config": _to_json("config", config), "metadata": _to_json("metadata", metadata)}
    # clone: safetensors refuses tensors that share storage
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = _with_sorted_header(_safetensors().torch.save(plain, metadata=header))
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise CheckpointError(f"expected to write {path}, got: {error}; choose another place") from error


def load_tensors(path: Path, *, expect_model: str | None = None, expect_kind: str | None = None) -> LoadedTensors:
    """Read a file written by :func:`save_tensors` or :func:`save_checkpoint`.

    JSON lists of ``config`` come back as tuples, as frozen configurations hold them.

    Raises:
        CheckpointError: missing or damaged file, another format, model or kind.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"expected a checkpoint file, got {path} ({error.strerror}); check the path") from error
    header = _read_header(path, data)
    kind, model = header.get("kind"), header.get("model")
    if kind not in KINDS or not model:
        raise CheckpointError(f"expected a header with kind and model, got {path} with {sorted(header)}")
    if expect_kind is not None and kind != expect_kind:
        raise CheckpointError(f"expected a {expect_kind} checkpoint, got {path}, which is {kind}")
    if expect_model is not None and model != expect_model:
        raise CheckpointError(f"expected a checkpoint of {expect_model}, got {path}, which holds {model}")
    toolkit = _safetensors()
    try:
        tensors: dict[str, Tensor] = toolkit.torch.load(data)
        config, metadata = json.loads(header["config"]), json.loads(header["metadata"])
    except (toolkit.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"expected a whole checkpoint, got {path} ({error}); fetch it again") from error
    if not isinstance(config, dict) or not isinstance(metadata, dict):
        raise CheckpointError(f"expected config and metadata to be JSON objects, got others in {path}")
    return LoadedTensors(
        tensors=tensors,
        kind=kind,
        model=model,
        config={key: _tuples(value) for key, value in config.items()},
        metadata=metadata,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def bundled_checkpoint(model: str, scale: int, scheme: str = "fp32") -> Path:
    """Path of the weights that come with the package.

    Args:
        model: the network's name in ``MODELS``.
        scale: 2, 3 or 4.
        scheme: "fp32" (float weights) or "w8a8" (after quantization-aware training).
    Returns:
        an existing file.
    Raises:
        CheckpointError: no such file is bundled; the message lists those that are.
    """
    name = f"{model}_x{scale}_{scheme}.safetensors"
    path = WEIGHTS_DIR / name
    if not path.is_file():
        existing = sorted(file.name for file in WEIGHTS_DIR.glob("*.safetensors"))
        raise CheckpointError(f"expected a bundled checkpoint, got {name}; bundled: {', '.join(existing) or 'none'}")
    return path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingToolError("expected safetensors, got none; pip install safetensors") from error
    return safetensors


def _to_json(field: str, value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected JSON-ready {field}, got {error}; use numbers, strings, lists, dicts"
        ) from error


def _read_header(path: Path, data: bytes) -> dict[str, str]:
    """The header strings of a safetensors file: eight bytes of length, then JSON with a ``__metadata__`` object."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > min(len(data) - 8, _MAX_HEADER_BYTES):
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        found = header.get("format")
    except (struct.error, ValueError, AttributeError) as error:
        raise CheckpointError(f"expected a safetensors file, got {path} ({error}); fetch it again") from error
    if found != FORMAT:
        raise CheckpointError(f"expected format {FORMAT}, got {found!r} in {path}; it was written by another program")
    return dict(header)


def _with_sorted_header(data: bytes) -> bytes:
    """The same safetensors file with the header's keys sorted.

    safetensors (seen in 0.8.0) writes the header strings in a random order, so equal contents had other hashes.
    """
    (length,) = struct.unpack_from("<Q", data)
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of eight bytes
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
