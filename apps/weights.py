"""Which weights an export starts from: a stored checkpoint as it is, or a float one quantized after training."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.progress import Progress, quiet
from edge_sr.checkpoint_header import recorded_text
from edge_sr.checkpoints import LoadedTensors, bundled_checkpoint, load_checkpoint, load_tensors
from edge_sr.choices import expect_choice
from edge_sr.datasets import load_image_sets
from edge_sr.errors import CheckpointError, ConfigError
from edge_sr.networks import MODELS
from edge_sr.resize import SCALES
from quantization.schemes import Scheme, get_scheme

if TYPE_CHECKING:
    from quantization.quantizer import QuantizedNetwork

AS_STORED = "checkpoint"
POST_TRAINING = "post-training"

# Calibration crops: LR pixels per side, and how many are taken from each image at most.
CALIBRATION_SIDE = 64
CALIBRATION_CROPS_PER_IMAGE = 4
# The range search runs the network several times for each of its grids. Above this product of grids and parameters it
# takes one crop of each image, of half the side: a sixteenth of the time, which would be a quarter of an hour for
# idsa_net on two cores.
_LARGE_SEARCH = 20_000_000
_LARGE_SEARCH_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A network ready for a lowering, and where it came from.

    ``network`` is a deployed float network for a float scheme and a calibrated ``QuantizedNetwork`` otherwise.
    ``origin`` is ``checkpoint`` or ``post-training``.
    """

    network: nn.Module
    origin: str
    checkpoint: Path
    checkpoint_sha256: str
    calibration_sha256: str | None
    license: str
    attribution: str


def resolve_weights(
    model: str,
    scale: int,
    scheme: str,
    *,
    checkpoint: Path | None = None,
    calibration: Path | None = None,
    progress: Progress = quiet,
) -> Weights:
    """Find and load the weights of ``model`` for a scheme.

    A float scheme takes a float checkpoint. A quantized scheme takes a quantized checkpoint of that very scheme as it
    is; a float checkpoint is quantized here: ranges from calibration images, then a range search.

    Args:
        model: a name in ``MODELS``.
        scale: upscaling factor.
        scheme: a name in ``SCHEMES``.
        checkpoint: file to use; default the bundled one for the scheme, else the bundled float one.
        calibration: folder of HR images for post-training quantization; default the sample photos.
    Raises:
        ConfigError: there is no such model or scale.
        CheckpointError: none is bundled, or it is of another model, scale or scheme.
        UnsupportedScheme: there is no such scheme.
    """
    expect_choice("model", model, MODELS)
    if scale not in SCALES:
        raise ConfigError(f"scale must be one of {', '.join(map(str, SCALES))}, got {scale}")
    quantized = get_scheme(scheme).quantized
    if calibration is not None and not calibration.is_dir():
        raise ConfigError(f"expected a folder of photos for calibration, got {calibration}; check the path")
    path = checkpoint if checkpoint is not None else _bundled(model, scale, scheme, quantized=quantized)
    stored = load_tensors(path, expect_model=model)
    if int(stored.config.get("scale", 0)) != scale:
        raise CheckpointError(
            f"expected a checkpoint of {model} at x{scale}, got {path}, which is x{stored.config.get('scale')}"
        )
    if not quantized:
        if stored.kind != "float":
            raise CheckpointError(f"scheme {scheme} needs a float checkpoint, got {path}, which is {stored.kind}")
        network = load_checkpoint(path, expect_model=model).network.deployed()  # type: ignore[operator]
        return _weights(network, AS_STORED, path, stored, None)
    if stored.kind == "quantized":
        return _weights(_load_quantized(path, scheme), AS_STORED, path, stored, None)
    network, digest = quantize_after_training(path, scheme, calibration=calibration, progress=progress)
    return _weights(network, POST_TRAINING, path, stored, digest)


def quantize_after_training(
    checkpoint: Path,
    scheme: str | Scheme,
    *,
    calibration: Path | None = None,
    search: bool = True,
    progress: Progress = quiet,
) -> tuple[QuantizedNetwork, str]:
    """Quantize a float checkpoint without training: true min/max ranges, then (unless told not to) a range search.

    Ranges are observed in float64: sums in float32 depend on how a processor and its number of threads split them,
    which moved 23 of 32 scales of ``idsa_net_mobile`` by up to 5e-7 between AVX2 and AVX-512. Rounded to float32 the
    scales are the same, and so is every byte that is exported.

    Returns:
        the ``QuantizedNetwork`` and the SHA-256 of the calibration pixels.
    """
    from quantization.calibration import calibrate, search_ranges
    from quantization.fake_quant import Mode
    from quantization.quantizer import prepare

    deployed = load_checkpoint(checkpoint).network.deployed()  # type: ignore[operator]
    batches = calibration_batches(calibration, scale=deployed.scale, multiple=deployed.tile_multiple)
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.numpy().tobytes())
    network = prepare(deployed, scheme)
    name = network.scheme.name
    observer = copy.deepcopy(network).double()
    exact = [batch.double() for batch in batches]
    calibrate(observer, exact, progress=lambda done, total: progress(f"calibrate {name}", done, total))
    for (_, grid), (_, seen) in zip(network.grids(), observer.grids(), strict=True):
        grid.set_range(float(seen.low), float(seen.high))
    network.set_mode(Mode.QUANTIZE)
    # 16 bits have levels to spare: no range is worth clipping for finer steps.
    if not search or network.scheme.activation_bits == 16:
        return network.eval(), digest.hexdigest()
    size = len(list(network.grids())) * sum(parameter.numel() for parameter in deployed.parameters())
    side = _LARGE_SEARCH_SIDE
    searched = [batch[:1, :, :side, :side] for batch in batches] if size > _LARGE_SEARCH else batches
    search_ranges(
        network, deployed, searched, progress=lambda done, total: progress(f"search ranges {name}", done, total)
    )
    return network.eval(), digest.hexdigest()


def calibration_batches(data: Path | None, *, scale: int, multiple: int = 1) -> list[Tensor]:
    """Crops of the LR images, spread over each image, the same ones every time.

    Args:
        data: folder of HR images; None for the sample photos.
        scale: upscaling factor, by which the images are reduced first.
        multiple: what the sides of a crop must be divisible by.
    Returns:
        tensors (n, 3, side, side) float in [0, 1], one per image.
    """
    batches: list[Tensor] = []
    for image_set in load_image_sets(data, None, scale):
        for pair in image_set:
            height, width = pair.lr.shape[:2]
            side = min(CALIBRATION_SIDE, height, width) // multiple * multiple
            if side == 0:
                continue
            rng = np.random.default_rng(len(batches))
            count = min(CALIBRATION_CROPS_PER_IMAGE, max((height // side) * (width // side), 1))
            corners = [
                (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))) for _ in range(count)
            ]
            crops = np.stack([pair.lr[top : top + side, left : left + side] for top, left in corners])
            batches.append(torch.from_numpy(crops).permute(0, 3, 1, 2).float().div(255.0).contiguous())
    if not batches:
        raise ConfigError(f"expected calibration images of at least {multiple * scale} pixels, got none in {data}")
    return batches


def _bundled(model: str, scale: int, scheme: str, *, quantized: bool) -> Path:
    if quantized:
        try:
            return bundled_checkpoint(model, scale, scheme)
        except CheckpointError:
            # No weights trained for this scheme are bundled: the float ones are quantized, and the result says so.
            return bundled_checkpoint(model, scale)
    return bundled_checkpoint(model, scale)


def _load_quantized(path: Path, scheme: str) -> nn.Module:
    from quantization.state import load_quantized

    network: nn.Module = load_quantized(path).qnet
    own: Any = network.scheme
    name = getattr(own, "name", own)
    if name != scheme:
        raise CheckpointError(f"expected a checkpoint quantized as {scheme}, got {path}, which is {name}")
    return network.eval()


def _weights(network: nn.Module, origin: str, path: Path, stored: LoadedTensors, digest: str | None) -> Weights:
    return Weights(
        network=network,
        origin=origin,
        checkpoint=path,
        checkpoint_sha256=stored.sha256,
        calibration_sha256=digest,
        license=recorded_text(stored.metadata, "weights_license"),
        attribution=recorded_text(stored.metadata, "weights_attribution"),
    )
