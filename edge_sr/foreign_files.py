"""Reading a file that may be anything: a checkpoint's bytes, or what else it is and the way from there to a checkpoint.

What a file is, is told from its first bytes. Every description ends a message: what it is, a semicolon, the cure.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from edge_sr.errors import CheckpointError
from edge_sr.foreign_text import visible

# The header's length comes from the file; anything longer than this is not one of ours.
MAX_HEADER_BYTES = 16 << 20
_SNIFF_BYTES = 512

_CONVERT = (
    "load it with torch.load in code of your own, load_state_dict into create_network(...), then save_checkpoint; "
    "pickles can run code, so none is read here"
)
_EXPORTED = "it holds no weights to load; name the .safetensors checkpoint that it was exported from"
_OTHER_FILE = "name a .safetensors checkpoint"

# Tried in order, each at the first byte.
_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL), f"{what}; {cure}")
    for pattern, what, cure in (
        (rb"\Z", "an empty file", "fetch it again"),
        (rb"version https://git-lfs\.github\.com/", "a git-lfs pointer in place of the file", "run git lfs pull"),
        (rb"(?:\xef\xbb\xbf)?\s*<(?i:!doctype|html|\?xml|!--)", "a web page, as servers answer with", "fetch it again"),
        # the name of a zip's first member stands at byte 30
        (rb"PK\x03\x04.{26}[^/\0]+/(?:data\.pkl|data/|code/|constants\.pkl)", "a PyTorch file (zip)", _CONVERT),
        (rb"PK\x03\x04", "a zip archive", "unpack it and name the .safetensors file in it"),
        (rb"\x80[\x02-\x05]", "a pickle, as old PyTorch files are", _CONVERT),
        (rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf|\x28\xb5\x2f\xfd", "a compressed file", "unpack it first"),
        (rb".{4}TFL3", "a TFLite model", _EXPORTED),
        (rb".{4}ET\d\d", "an ExecuTorch program", _EXPORTED),
        # both are protobufs that open with a version; then ONNX has a producer's name or another field
        (rb"\x08[\x01-\x20](?:\x12[\x01-\x7f][ -~]|[\x1a\x22\x28\x32\x3a\x42])", "an ONNX model", _EXPORTED),
        (rb"\x08[\x01-\x20]\x12", "a Core ML model", _EXPORTED),
        (rb"\x89HDF\r\n", "an HDF5 file", _OTHER_FILE),
        (rb"GGUF", "a GGUF file", _OTHER_FILE),
        (rb"\x89PNG|\xff\xd8\xff|RIFF.{4}WEBP", "a picture", _OTHER_FILE),
        (rb"\s*[{\[]", "a JSON text", _OTHER_FILE),
    )
)

# The member that tells what a folder is.
_FOLDERS = (
    ("artifact.json", "an artifact folder", f"{_EXPORTED} (to upscale with it, give it as --artifact)"),
    ("Manifest.json", "a Core ML package", _EXPORTED),
    ("coremldata.bin", "a compiled Core ML model", _EXPORTED),
    ("network.safetensors", "the folder of a training run", "name its network.safetensors"),
    ("", "a folder", "name the .safetensors file in it"),
)


def read_checkpoint(path: Path, wanted: str) -> tuple[bytes, dict[str, str]]:
    """Read a safetensors file, but beyond its header only where that is of a checkpoint and fits the file's size.

    Args:
        path: anything.
        wanted: the header's ``format``.
    Returns:
        the file's bytes and the header's strings.
    Raises:
        CheckpointError: missing, foreign or damaged file, or another format.
    """
    try:
        mode = path.stat().st_mode  # first: opening a pipe waits for a writer
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"expected a checkpoint file, got {path}, {_describe_folder(path)}")
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"expected a checkpoint file, got {path}, a pipe or device; write it to a file first")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_SNIFF_BYTES)
            end = 8 + int.from_bytes(head[:8], "little")
            head += file.read(max(min(end, 8 + MAX_HEADER_BYTES) - len(head), 0))
            header, declared = _header(path, head, end, wanted)
            if declared != size:
                compared = "more" if declared > size else "fewer"
                raise CheckpointError(
                    f"expected a whole checkpoint, got {path} ({size} bytes, its header describes {compared}); "
                    "fetch it again"
                )
            file.seek(0)
            data = file.read(size)
        if len(data) < size or not data.startswith(head):
            raise CheckpointError(
                f"expected a checkpoint file, got {path}, which changes meanwhile; wait and try again"
            )
        return data, header
    except OSError as error:
        raise CheckpointError(f"expected a checkpoint file, got {path} ({error.strerror}); check the path") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of which no object names a member twice.

    Raises:
        ValueError: not JSON, nested too deeply, or a name occurs twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def brief(text: object) -> str:
    """Text from a file, or about it, fit for a one-line message: printable and at most 300 characters long."""
    return visible(text, limit=300)


def _header(path: Path, head: bytes, end: int, wanted: str) -> tuple[dict[str, str], int]:
    """Header strings and the size that the file ought to have, from its first bytes, of which the header takes ``end``.

    That is eight bytes of length, then JSON: an object per tensor, and the strings in ``__metadata__``.
    """
    try:
        if end > len(head):
            raise ValueError("the header is longer than the file, or than any checkpoint's")
        tensors = parse_json(head[8:end].decode())
        header = tensors.pop("__metadata__", {})
        found = header.get("format")
    except (AttributeError, TypeError, ValueError) as error:  # the first two: JSON, but no object
        known = _describe_file(head[:_SNIFF_BYTES])
        reason = f", {known}" if known else f" ({brief(error)}); fetch it again"
        raise CheckpointError(f"expected a safetensors file, got {path}{reason}") from error
    if found != wanted:
        raise CheckpointError(
            f"expected format {wanted}, got {brief(repr(found))} in {path}; it was written by another program: load "
            "its tensors into create_network(...), by safetensors.torch.load_file and load_state_dict, then "
            "save_checkpoint"
        )
    try:
        declared = end + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (TypeError, LookupError) as error:
        raise CheckpointError(f"expected a whole checkpoint, got {path} ({brief(error)}); fetch it again") from error
    return {key: value for key, value in header.items() if isinstance(value, str)}, declared


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _describe_file(head: bytes) -> str | None:
    """What a file is that begins with ``head``, and the cure; None where nothing is known that begins so."""
    return next((description for pattern, description in _SIGNATURES if pattern.match(head)), None)


def _describe_folder(path: Path) -> str:
    return next(f"{what}; {cure}" for member, what, cure in _FOLDERS if (path / member).exists())
