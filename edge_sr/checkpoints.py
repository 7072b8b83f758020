"""Checkpoints: safetensors files that carry the network's name, configuration and history in their header.

Header strings: ``format`` ("edge-sr-1"), ``kind`` ("float" or "quantized"), ``model``, ``config`` (JSON) and
``metadata`` (JSON). Nothing in such a file is code: loading one never executes anything. Nothing in it is believed
either: a header that does not fit its file is refused before anything of the size that it names is made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edge_sr.atomic import atomic_path
from edge_sr.checkpoint_header import FORMAT, KINDS, read_header
from edge_sr.checkpoint_header import WEIGHTS_DIR as WEIGHTS_DIR
from edge_sr.checkpoint_header import bundled_checkpoint as bundled_checkpoint
from edge_sr.errors import CheckpointError, ConfigError, MissingToolError
from edge_sr.foreign_files import MAX_HEADER_BYTES, brief

# Children of torch.compile's and of DataParallel's wrappers, which parameter names then contain.
_WRAPPED = ("_orig_mod", "module")
# What layers make their tensors with. Not arange and eye: their meta forms import 400 modules, which takes seconds (in
# torch 2.13), and a network counts up to no width that it has not made weights of.
_MAKERS = frozenset((torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros))
# What weights may be stored as; loading makes them float32.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Values of tables that are computed and not in the file: two steps to each of two matrices between the tokens of a
# window of 64x64. Windows are 8x8.
_TABLE_VALUES = 2 * 2 * 64**4


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
        network: has ``model_name`` and a dataclass ``config``, itself or inside ``torch.compile``,
            ``DistributedDataParallel`` and the like.
        metadata: JSON-ready facts about the training (steps, data, scores, command).
    Raises:
        CheckpointError: the network lacks those attributes or has weights that are not finite, the metadata is not
            JSON, or the file cannot be written.
    """
    inner = _unwrapped(network)
    model, config = getattr(inner, "model_name", None), getattr(inner, "config", None)
    if not isinstance(model, str) or not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise CheckpointError(
            f"expected a network with model_name and config, got {type(network).__name__}; make it with create_network"
        )
    state = inner.state_dict()
    refuse_not_finite(path, state)
    save_tensors(path, state, model=model, config=dataclasses.asdict(config), metadata=metadata)


def load_checkpoint(path: Path, *, expect_model: str | None = None) -> LoadedCheckpoint:
    """Rebuild a float network from its file.

    Args:
        path: file written by :func:`save_checkpoint`.
        expect_model: refuse a checkpoint of another network.
    Returns:
        the network in eval mode on the CPU, with its metadata and the file's SHA-256.
    Raises:
        CheckpointError: missing, foreign or damaged file, another network, another kind, or weights that do not fit or
            are not finite.
    """
    loaded = load_tensors(path, expect_model=expect_model, expect_kind="float")
    network = build_network(path, loaded)
    misfits = _misfits(network.state_dict(), loaded.tensors)
    if misfits:
        raise CheckpointError(
            f"expected weights that fit {loaded.model}, got {path}: {brief(', '.join(misfits))}; "
            "use the version that wrote it"
        )
    network.load_state_dict(loaded.tensors, strict=True)
    refuse_not_finite(path, network.state_dict())  # those of the network: a float64 may be too large for it
    return LoadedCheckpoint(network=network.eval(), metadata=loaded.metadata, sha256=loaded.sha256)


def build_network(path: Path, loaded: LoadedTensors) -> nn.Module:
    """The untrained network, in its training form, that a checkpoint's configuration names.

    Making it ends at the first tensor that is too large for a network of the checkpoint's size, before there is one.

    Args:
        path: what ``loaded`` was read from, for messages.
        loaded: a checkpoint of any kind.
    Raises:
        CheckpointError: the configuration is not one of this version, or of a network far larger than the file.
    """
    from edge_sr.networks import create_network  # here, so that reading tensors needs no network code

    config = dict(loaded.config)
    try:
        with _Bound(path, loaded):
            network: nn.Module = create_network(loaded.model, config.pop("scale"), **config)
    except (ConfigError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"expected a configuration of this version, got {path} ({brief(error)}); use the version that wrote it"
        ) from error
    return network


def refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights of a checkpoint that hold NaN or infinities.

    Args:
        path: the checkpoint's file, for the message.
        tensors: name -> tensor of floats or integers, any shape.
    Raises:
        CheckpointError: some are not finite; the message names the first.
    """
    wrong = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CheckpointError(f"expected finite weights in {path}, got NaN or inf in {wrong[0]}{more}; train it again")


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
        tensors: name -> tensor, on any device; shared storage is written once per name. What ``torch.compile`` and
            ``DistributedDataParallel`` put into names (``_orig_mod.``, ``module.``) is left out.
        model: the network's name in ``MODELS``.
        config: its configuration, JSON-ready, ``scale`` included.
        metadata: JSON-ready facts.
        kind: "float" or "quantized".
    Raises:
        CheckpointError: unknown kind, a header that is not JSON or too long, or a place that cannot be written.
    """
    if kind not in KINDS:
        raise CheckpointError(f"expected kind to be one of {', '.join(KINDS)}, got {kind!r}")
    header = {"format": FORMAT, "kind": kind, "model": model}
    header |= {"config": _to_json("config", config), "metadata": _to_json("metadata", metadata)}
    # clone: safetensors refuses tensors that share storage
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in _plainly_named(path, tensors).items()}
    data = _with_sorted_header(_safetensors().torch.save(plain, metadata=header))
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER_BYTES:  # or it would be written and never read again
        raise CheckpointError(f"expected a header of {MAX_HEADER_BYTES} bytes, got {length}; shorten the metadata")
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise CheckpointError(f"expected to write {path}, got: {error}; choose another place") from error


def load_tensors(path: Path, *, expect_model: str | None = None, expect_kind: str | None = None) -> LoadedTensors:
    """Read a file written by :func:`save_tensors` or :func:`save_checkpoint`.

    JSON lists of ``config`` come back as tuples, as frozen configurations hold them; ``_orig_mod.`` and ``module.`` are
    left out of the tensors' names. A file without the header of a checkpoint is not read beyond it.

    Raises:
        CheckpointError: missing, foreign or damaged file, another format, model or kind.
    """
    path = Path(path)
    data, header = read_header(path, expect_model=expect_model, expect_kind=expect_kind)
    toolkit = _safetensors()
    try:
        tensors: dict[str, Tensor] = toolkit.torch.load(data)
    except (toolkit.SafetensorError, KeyError, ValueError, RuntimeError) as error:  # RuntimeError: too large
        raise CheckpointError(f"expected a whole checkpoint, got {path} ({brief(error)}); fetch it again") from error
    return LoadedTensors(
        tensors=_plainly_named(path, tensors),
        kind=header.kind,
        model=header.model,
        config=header.config,
        metadata=header.metadata,
        sha256=hashlib.sha256(data).hexdigest(),
    )


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


def _unwrapped(network: nn.Module) -> nn.Module:
    while not hasattr(network, "model_name"):
        inner = next((child for name, child in network.named_children() if name in _WRAPPED), None)
        if inner is None:
            break
        network = inner
    return network


def _plainly_named(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {".".join(part for part in name.split(".") if part not in _WRAPPED): name for name in tensors}
    if len(plain) < len(tensors):
        raise CheckpointError(
            f"expected tensors with names of their own in {path}, got two that differ in {' or '.join(_WRAPPED)} only; "
            "leave one out"
        )
    return {own: tensors[name] for own, name in plain.items()}


class _Bound(TorchFunctionMode):
    """Ends the making of a network at a tensor that its checkpoint cannot be of, before there is memory for it.

    For each tensor and value of a checkpoint fewer than four are made: layers make some aside, and a quantized
    checkpoint is of the deployed form, in which parts are folded into others.
    """

    def __init__(self, path: Path, loaded: LoadedTensors) -> None:
        super().__init__()
        values = sum(tensor.numel() for tensor in loaded.tensors.values())
        self.tensors, self.values, self.table_values = 4 * len(loaded.tensors) + 64, 4 * values + 2**16, _TABLE_VALUES
        self.refusal = (
            f"expected weights that fit {brief(loaded.model)}, got {path}: its configuration is of a far larger "
            f"network than its {len(loaded.tensors)} tensors of {values} values; fetch it again"
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            self.tensors -= 1
            self.values -= func(*args, **{**kwargs, "device": "meta"}).numel()  # meta: without memory
        elif len(args) == 2 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
            self.table_values -= _grown(*args)
        else:
            return func(*args, **kwargs)
        if min(self.tensors, self.values, self.table_values) < 0:
            raise CheckpointError(self.refusal)
        return func(*args, **kwargs)


def _grown(first: Tensor, second: Tensor) -> int:
    """Values of what two tensors make where it is larger than both, by broadcasting, else 0."""
    try:
        values = int(torch.broadcast_tensors(first, second)[0].numel())  # type: ignore[no-untyped-call]  # a view
    except RuntimeError:  # one is an index
        return 0
    return values if values > max(first.numel(), second.numel()) else 0


def _misfits(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors of a file from being those of a network."""
    misfits = [f"no {name}" for name in own if name not in found]
    misfits += [f"{name} in excess" for name in found if name not in own]
    for name, got in found.items():
        wanted = own.get(name, got)
        if wanted.shape != got.shape:
            misfits.append(f"{name} of {tuple(got.shape)} in place of {tuple(wanted.shape)}")
        elif wanted.dtype != got.dtype and not (wanted.is_floating_point() and got.dtype in _FLOATS):
            misfits.append(f"{name} of {got.dtype} in place of {wanted.dtype}")
    return misfits


def _with_sorted_header(data: bytes) -> bytes:
    """The same safetensors file with the header's keys sorted.

    safetensors (seen in 0.8.0) writes the header strings in a random order, so equal contents had other hashes.
    """
    (length,) = struct.unpack_from("<Q", data)
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors start at a multiple of eight bytes
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
