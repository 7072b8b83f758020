"""Quantized checkpoints: trained weights and grids of a prepared network, without its structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edge_sr.checkpoints import build_network, load_tensors, refuse_not_finite, save_tensors
from edge_sr.errors import CheckpointError, ConfigError, UnsupportedScheme, reason_of
from quantization.fake_quant import Mode
from quantization.quantizer import QuantizedNetwork, prepare

_SCHEME_KEY = "scheme"


@dataclass(frozen=True, kw_only=True)
class LoadedQuantized:
    """A quantized network in QUANTIZE and eval mode on the CPU, the metadata saved with it, the file's SHA-256."""

    qnet: QuantizedNetwork
    metadata: dict[str, Any]
    sha256: str


def save_quantized(path: Path, network: QuantizedNetwork, metadata: Mapping[str, Any]) -> None:
    """Saves a calibrated or trained network; the file appears whole or not at all and replaces an older one.

    Args:
        path: file to write.
        network: prepared from a deployed network that carries ``model_name`` and a dataclass ``config``.
        metadata: JSON-ready facts (float checkpoint, data, steps, scores); ``scheme`` is added.
    Raises:
        CheckpointError: no model name or configuration, metadata that is not JSON, a place that cannot be written.
        ConfigError: the network is not calibrated.
    """
    model, config = getattr(network, "model_name", None), getattr(network, "config", None)
    if not isinstance(model, str) or not is_dataclass(config) or isinstance(config, type):
        raise CheckpointError(
            f"expected a network with model_name and config, got model {model!r} and config {config!r}; prepare() one "
            "that create_network(...).deployed() made"
        )
    for _, grid in network.grids():
        grid.qparams()
    facts = {**metadata, _SCHEME_KEY: network.scheme.name}
    save_tensors(path, network.state_dict(), model=model, config=asdict(config), metadata=facts, kind="quantized")


def load_quantized(path: Path, *, expect_model: str | None = None) -> LoadedQuantized:
    """Rebuilds a quantized network from its file: structure from the configuration, weights and grids from the file.

    Args:
        path: file written by :func:`save_quantized`.
        expect_model: refuse a checkpoint of another network.
    Raises:
        CheckpointError: missing or damaged file, another network, or one that does not fit this version.
    """
    loaded = load_tensors(path, expect_model=expect_model, expect_kind="quantized")
    built = build_network(path, loaded)
    try:
        deployed = _deployed(built)
        network = prepare(deployed, str(loaded.metadata.get(_SCHEME_KEY)))
        network.load_state_dict(loaded.tensors, strict=True)
        network.set_mode(Mode.QUANTIZE)
    except (ConfigError, UnsupportedScheme, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"expected a quantized checkpoint of this version, got {path} ({reason_of(error)}); "
            "use the version that wrote it"
        ) from error
    # Ranges are infinite before anything was observed, and those of fixed grids for ever.
    state = {name: value for name, value in network.state_dict().items() if not name.endswith((".low", ".high"))}
    refuse_not_finite(path, state)
    return LoadedQuantized(qnet=network, metadata=loaded.metadata, sha256=loaded.sha256)


def _deployed(network: nn.Module) -> nn.Module:
    deployed = network.eval().deployed()  # type: ignore[operator]
    assert isinstance(deployed, nn.Module)
    return deployed
