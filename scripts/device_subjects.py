"""What scripts/measure_devices.py measures: the two networks, their artifacts, and what a reader must know of both."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apps.weights import quantize_after_training, resolve_weights
from converters.artifact import Artifact, artifact_name
from converters.export import export_artifact
from edge_sr.checkpoints import load_checkpoint, save_checkpoint, sha256_file
from edge_sr.networks import create_network
from quantization.schemes import get_scheme
from scripts.kept import kept_artifact
from scripts.measure import SCHEMES, Subject, parameters

SCALE = 4
SEED = 0
BUNDLED = "bundled"
UNTRAINED = (
    f"drawn from seed {SEED}, not trained: the kernels do the same work for any weights, so the latency is the "
    "network's, while its pictures are worth nothing"
)


@dataclass(frozen=True, kw_only=True)
class DeviceSubject:
    """One network at one tile.

    Attributes:
        model, scale: which network.
        tile: (height, width) in LR pixels.
        work: folder that keeps artifacts and untrained checkpoints between runs.
        trained: take the bundled weights; else draw them from a seed.
        config: settings of an untrained network, other than its usual ones.
    """

    model: str
    tile: tuple[int, int]
    work: Path
    trained: bool
    scale: int = SCALE
    config: Mapping[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """Where the weights come from, in words."""
        return BUNDLED if self.trained else UNTRAINED

    def artifact(self, target: str, scheme: str, *, tile: tuple[int, int] | None = None) -> Artifact:
        """The artifact, from ``work`` where it was made of the same weights before.

        Args:
            target, scheme: what to export.
            tile: another tile than the subject's own.
        Raises:
            CheckpointError, ConversionError, MissingToolError: there are no weights, or the toolchain refused.
        """
        tile = self.tile if tile is None else tile
        if self.trained:
            subject = Subject(model=self.model, scale=self.scale, tile=tile, work=self.work)
            return subject.artifact(target, scheme)
        checkpoint = self.checkpoint()
        name = artifact_name(model=self.model, scale=self.scale, scheme=scheme, target=target, tile=tile)
        kept = kept_artifact(self.work, name, weights_sha256=sha256_file(checkpoint))
        if kept is not None:
            return kept
        print(f"exporting {name}", file=sys.stderr, flush=True)
        network, calibration_sha256 = _network(scheme, checkpoint)
        return export_artifact(
            network=network,
            scheme=scheme,
            target=target,
            tile=tile,
            out_dir=self.work,
            checkpoint_sha256=sha256_file(checkpoint),
            calibration_sha256=calibration_sha256,
            notes=(f"weights {UNTRAINED}",),
            overwrite=True,
        )

    def artifacts(self, targets: tuple[str, ...]) -> list[Artifact]:
        """Both schemes of every target, float and int8 next to each other."""
        return [self.artifact(target, scheme) for target in targets for scheme in SCHEMES]

    def checkpoint(self) -> Path:
        """The untrained network's checkpoint, made where it is missing: the same bytes every time."""
        path = self.work / f"{self.model}_x{self.scale}_untrained.safetensors"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            # Its own generator state: nothing else depends on what was drawn here.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                network = create_network(self.model, self.scale, **self.config)
            save_checkpoint(path, network, {"steps": 0, "seed": SEED})
        return path

    def facts(self) -> dict[str, Any]:
        """What a result says of the network."""
        checkpoint = None if self.trained else self.checkpoint()
        own = {
            scheme: resolve_weights(self.model, self.scale, scheme, checkpoint=checkpoint)
            for scheme in (SCHEMES if self.trained else SCHEMES[:1])
        }
        return {
            "model": self.model,
            "scale": self.scale,
            "tile": list(self.tile),
            "parameters": parameters(own["fp32"].network),
            "weights": self.weights,
            "checkpoint_sha256": {scheme: weights.checkpoint_sha256 for scheme, weights in own.items()},
        }


def _network(scheme: str, checkpoint: Path) -> tuple[nn.Module, str | None]:
    """Ready for a lowering, and the SHA-256 of the calibration pixels. Ranges only have to be there: no search."""
    if get_scheme(scheme).quantized:
        return quantize_after_training(checkpoint, scheme, search=False)
    deployed: nn.Module = load_checkpoint(checkpoint).network.deployed()  # type: ignore[operator]
    return deployed, None


def both_networks(work: Path, *, quick: bool) -> tuple[DeviceSubject, DeviceSubject]:
    """The network for real time, and the paper's. A quick trial takes small tiles, which convert and run faster.

    ``idsa_net`` gets 64x64, the tile it is verified with: it has eight times the parameters, and a larger tile takes it
    longer and more memory for the same answer.
    """
    mobile, paper = (32, 16) if quick else (128, 64)
    return (
        DeviceSubject(model="idsa_net_mobile", tile=(mobile, mobile), work=work, trained=True),
        DeviceSubject(model="idsa_net", tile=(paper, paper), work=work, trained=False),
    )
