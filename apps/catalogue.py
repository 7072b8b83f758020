"""Which networks there are, and which weights come with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.results import plain
from edge_sr.checkpoints import WEIGHTS_DIR, load_tensors
from edge_sr.errors import CheckpointError
from edge_sr.networks import MODELS, create_network
from edge_sr.resize import SCALES


@dataclass(frozen=True, kw_only=True)
class BundledWeights:
    """One checkpoint file that comes with the package. ``scheme`` is part of its name."""

    file: str
    scale: int
    scheme: str
    size_bytes: int
    sha256: str
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One network: scale -> number of parameters in training form and as deployed, and its bundled weights."""

    name: str
    summary: str
    parameters: dict[int, int]
    deployed_parameters: dict[int, int]
    bundled: tuple[BundledWeights, ...]

    def to_json(self) -> dict[str, Any]:
        return plain(  # type: ignore[no-any-return]
            {
                "name": self.name,
                "summary": self.summary,
                "parameters": self.parameters,
                "deployed_parameters": self.deployed_parameters,
                "bundled": [vars(weights) for weights in self.bundled],
            }
        )


@dataclass(frozen=True, kw_only=True)
class ModelsReport:
    """Every network of this version."""

    models: tuple[ModelInfo, ...]

    def to_json(self) -> dict[str, Any]:
        return {"models": [model.to_json() for model in self.models]}


def list_models() -> ModelsReport:
    """Build each network once per scale (untrained, milliseconds) and read the headers of the bundled weights.

    Raises:
        CheckpointError: a bundled checkpoint is damaged.
    """
    models = []
    for name, entry in MODELS.items():
        networks = {scale: create_network(name, scale) for scale in SCALES}
        models.append(
            ModelInfo(
                name=name,
                summary=entry.summary,
                parameters={scale: _count(network) for scale, network in networks.items()},
                deployed_parameters={
                    scale: _count(network.eval().deployed())  # type: ignore[operator]
                    for scale, network in networks.items()
                },
                bundled=tuple(_bundled(name)),
            )
        )
    return ModelsReport(models=tuple(models))


def _bundled(model: str) -> list[BundledWeights]:
    found = []
    for path in sorted(WEIGHTS_DIR.glob(f"{model}_x[234]_*.safetensors")):
        loaded = load_tensors(path, expect_model=model)
        _, _, scheme = path.stem.removeprefix(f"{model}_").partition("_")
        scale = int(loaded.config.get("scale", 0))
        if not path.stem.startswith(f"{model}_x{scale}_"):
            raise CheckpointError(f"expected the scale in the name of {path.name}, got x{scale} inside, rename it")
        found.append(
            BundledWeights(
                file=path.name,
                scale=scale,
                scheme=scheme,
                size_bytes=path.stat().st_size,
                sha256=loaded.sha256,
                metadata=loaded.metadata,
            )
        )
    return found


def _count(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
