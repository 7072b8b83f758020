"""Which networks there are, and which weights come with them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from edge_sr.checkpoint_header import WEIGHTS_DIR, read_header, recorded_text
from edge_sr.errors import CheckpointError
from edge_sr.json_values import plain
from edge_sr.networks import MODELS


@dataclass(frozen=True, kw_only=True)
class BundledWeights:
    """One checkpoint file that comes with the package.

    ``scheme`` is part of its name. ``license`` and ``metadata`` are what its header says.
    """

    file: str
    scale: int
    scheme: str
    size_bytes: int
    sha256: str
    license: str
    metadata: dict[str, Any]

    @property
    def psnr_y_db(self) -> float | None:
        """PSNR-Y on photos held out of its training, in dB; None where none is recorded."""
        value = self.metadata.get("held_out_psnr_y_db", self.metadata.get("psnr_y_db"))
        return value if isinstance(value, float) else None


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
    """Read the headers of the bundled weights; no network is built and torch is not imported.

    Raises:
        CheckpointError: a bundled checkpoint is damaged.
    """
    models = [
        ModelInfo(
            name=name,
            summary=entry.summary,
            parameters={scale: training for scale, (training, _) in entry.parameters.items()},
            deployed_parameters={scale: deployed for scale, (_, deployed) in entry.parameters.items()},
            bundled=tuple(_bundled(name)),
        )
        for name, entry in MODELS.items()
    ]
    return ModelsReport(models=tuple(models))


def _bundled(model: str) -> list[BundledWeights]:
    found = []
    for path in sorted(WEIGHTS_DIR.glob(f"{model}_x[234]_*.safetensors")):
        data, header = read_header(path, expect_model=model)
        _, _, scheme = path.stem.removeprefix(f"{model}_").partition("_")
        scale = int(header.config.get("scale", 0))
        if not path.stem.startswith(f"{model}_x{scale}_"):
            raise CheckpointError(f"expected the scale in the name of {path.name}, got x{scale} inside, rename it")
        found.append(
            BundledWeights(
                file=path.name,
                scale=scale,
                scheme=scheme,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                license=recorded_text(header.metadata, "weights_license"),
                metadata=header.metadata,
            )
        )
    return found
