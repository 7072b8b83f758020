"""What a checkpoint's header says, read without torch, and the checkpoints that come with the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_sr.errors import CheckpointError
from edge_sr.foreign_files import brief, parse_json, read_checkpoint

FORMAT = "edge-sr-1"
KINDS = ("float", "quantized")
WEIGHTS_DIR = Path(__file__).parent / "weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """The strings of a checkpoint's header, parsed: which network, how it is made, and how it came about."""

    kind: str
    model: str
    config: dict[str, Any]
    metadata: dict[str, Any]


def recorded_text(metadata: Mapping[str, Any], name: str) -> str:
    """A text that a checkpoint's metadata holds, empty where there is none: ``weights_license``, say, which weights of
    one's own lack.
    """
    value = metadata.get(name, "")
    return value if isinstance(value, str) else ""


def read_header(
    path: Path, *, expect_model: str | None = None, expect_kind: str | None = None
) -> tuple[bytes, CheckpointHeader]:
    """Read a checkpoint's file and parse its header; the tensors stay bytes.

    JSON lists of ``config`` come back as tuples, as frozen configurations hold them.

    Returns:
        the whole file's bytes, and its header.
    Raises:
        CheckpointError: missing, foreign or damaged file, another format, model or kind.
    """
    data, header = read_checkpoint(path, FORMAT)
    kind, model = header.get("kind"), header.get("model")
    if kind not in KINDS or not model or not model.isprintable():
        raise CheckpointError(f"expected a header with kind and model, got {path} with {brief(sorted(header))}")
    if expect_kind is not None and kind != expect_kind:
        raise CheckpointError(f"expected a {expect_kind} checkpoint, got {path}, which is {kind}")
    if expect_model is not None and model != expect_model:
        raise CheckpointError(f"expected a checkpoint of {expect_model}, got {path}, which holds {brief(model)}")
    try:
        config, metadata = parse_json(header["config"]), parse_json(header["metadata"])
        if not isinstance(config, dict) or not isinstance(metadata, dict):
            raise CheckpointError(f"expected config and metadata to be JSON objects, got others in {path}")
        config = {key: _tuples(value) for key, value in config.items()}
    except (KeyError, ValueError, RuntimeError) as error:  # RuntimeError: too deep
        raise CheckpointError(f"expected a whole checkpoint, got {path} ({brief(error)}); fetch it again") from error
    if not isinstance(config.get("scale", 0), int):  # read without a network, which would check it
        raise CheckpointError(
            f"expected a configuration of this version, got {path} (a scale of {brief(repr(config['scale']))}); "
            "use the version that wrote it"
        )
    return data, CheckpointHeader(kind=kind, model=model, config=config, metadata=metadata)


def bundled_checkpoint(model: str, scale: int, scheme: str = "fp32") -> Path:
    """Path of the weights that come with the package.

    Args:
        model: the network's name in ``MODELS``.
        scale: 2, 3 or 4.
        scheme: "fp32" (float weights) or "w8a8" (after quantization-aware training).
    Returns:
        an existing file.
    Raises:
        CheckpointError: no such file is bundled; the message lists those that are, and how to come by one.
    """
    name = f"{model}_x{scale}_{scheme}"
    path = WEIGHTS_DIR / f"{name}.safetensors"
    if not path.is_file():
        existing = sorted(file.stem for file in WEIGHTS_DIR.glob("*.safetensors"))
        bundled = ", ".join(existing) or "none, install the package again"
        raise CheckpointError(
            f"expected a bundled checkpoint {name}, got none (bundled: {bundled}); train one "
            f"(edge-sr train --config SETTINGS.toml, with scale = {scale} in it) and name it with --checkpoint"
        )
    return path


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
