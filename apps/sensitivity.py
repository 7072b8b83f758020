"""Which parts of a network may be int8: its sensitivity, real schemes beside it, and the time of each part."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apps.profiling.part_latency import LatencyByPart, latency_by_part
from apps.progress import Progress, quiet
from apps.results import plain
from apps.weights import quantize_after_training
from edge_sr.checkpoints import bundled_checkpoint, load_checkpoint, load_tensors
from edge_sr.datasets import load_image_sets
from edge_sr.errors import CheckpointError, ConfigError, DataError
from edge_sr.scorable import check_size
from quantization.places import WEIGHTS, find_places
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import SCHEMES, OpKind, Scheme, get_scheme
from quantization.sensitivity import Effect, Sensitivity, measure_sensitivity, measure_whole

Image = NDArray[np.uint8]

SIDE = 64
MOST_IMAGES = 24
# Kinds of operators that may be left in float while convolutions are int8.
_OPTIONAL = (OpKind.ADD, OpKind.MUL, OpKind.SIGMOID)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One scheme as targets execute it, quantized by itself, without a range search.

    Attributes:
        name: a scheme's, or ``w8a8, add in float``.
        float_kinds: what the scheme leaves in float.
        rounded: what is rounded -> how many; operators that read a float value become float with it.
        effect: of the whole network.
    """

    name: str
    float_kinds: tuple[str, ...]
    rounded: Mapping[str, int]
    effect: Effect


@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """Everything measured of one network.

    Attributes:
        ranges: how the activations' ranges were found.
        data: what was measured on, in words.
        variants: empty where they were not asked for; ``latency`` likewise None.
    """

    model: str
    scale: int
    checkpoint_sha256: str
    calibration_sha256: str
    ranges: str
    data: str
    sensitivity: Sensitivity
    variants: tuple[Variant, ...] = ()
    latency: LatencyByPart | None = None

    def to_json(self) -> dict[str, Any]:
        content = {name: getattr(self, name) for name in ("model", "scale", "checkpoint_sha256", "calibration_sha256")}
        return plain(  # type: ignore[no-any-return]
            {
                **content,
                "ranges": self.ranges,
                "data": self.data,
                "sensitivity": self.sensitivity.to_json(),
                "variants": [asdict(variant) for variant in self.variants],
                "latency": None if self.latency is None else self.latency.to_json(),
            }
        )


def analyse_sensitivity(
    crops: Sequence[tuple[Image, Image]],
    *,
    data: str,
    model: str = "idsa_net_mobile",
    scale: int = 4,
    checkpoint: Path | None = None,
    scheme: str = "w8a8",
    calibration: Path | None = None,
    search: bool = True,
    variants: bool = False,
    latency_tile: tuple[int, int] | None = None,
    threads: int = 1,
    runs: int = 50,
    progress: Progress = quiet,
) -> SensitivityReport:
    """Quantize a float network after training and measure what each of its parts costs.

    Args:
        crops: (lr, hr) uint8; cut at the bottom and right to what the network takes.
        data: where the crops come from, for the report.
        model, scale, checkpoint: which float network; default the bundled weights.
        scheme: the quantized scheme to take apart.
        calibration: HR images for the ranges; default the sample photos.
        search: search ranges after calibration, as export does; takes minutes for a large network.
        variants: also quantize with one kind of operator in float at a time; by minimum and maximum alone.
        latency_tile: also time each part in a tile of this (height, width); wants an idle machine and the TFLite tools.
        threads, runs: of that timing.
        progress: called while ranges are searched and parts measured.
    Raises:
        CheckpointError: no weights, not float ones, or of another network.
        UnsupportedScheme, ConfigError: the scheme is not a quantized one, or there is no crop.
        MissingToolError, ConversionError, RunnerError: timing only.
    """
    path = bundled_checkpoint(model, scale) if checkpoint is None else checkpoint
    stored = load_tensors(path, expect_model=model)
    if stored.kind != "float":
        raise CheckpointError(
            f"expected a float checkpoint, got {path}, which is {stored.kind}: training moved its weights away from "
            "the float network's; give the float checkpoint it was trained from"
        )
    if int(stored.config.get("scale", 0)) != scale:
        raise CheckpointError(f"expected weights at x{scale}, got x{stored.config.get('scale')} in {path}; use --scale")
    network, digest = quantize_after_training(
        path, get_scheme(scheme), calibration=calibration, search=search, progress=progress
    )
    images = list(_cut(crops, scale=scale, multiple=network.tile_multiple))
    sensitivity = measure_sensitivity(network, images, progress=lambda done, total: progress("parts", done, total))
    compared = []
    for variant in _variant_schemes(get_scheme(scheme)) if variants else ():
        # Never searched: each search ends elsewhere, which moved errors by more than what is compared here.
        own, _ = quantize_after_training(path, variant, calibration=calibration, search=False, progress=progress)
        compared.append(_variant(own, measure_whole(own, images)))
    latency = None
    if latency_tile is not None:
        latency = measure_part_latency(
            path, scheme=scheme, tile=latency_tile, threads=threads, runs=runs, progress=progress
        )
    return SensitivityReport(
        model=model,
        scale=scale,
        checkpoint_sha256=stored.sha256,
        calibration_sha256=digest,
        ranges="minimum and maximum, then a search" if search else "minimum and maximum",
        data=data,
        sensitivity=sensitivity,
        variants=tuple(compared),
        latency=latency,
    )


def centre_crops(
    data: Path | None, sets: Sequence[str] | None, *, scale: int, side: int = SIDE, most: int = MOST_IMAGES
) -> list[tuple[Image, Image]]:
    """The middle of each photo: (lr, hr) of at most ``side`` LR pixels, of at most ``most`` photos.

    Args:
        data: folder of images or image sets; None for the sample photos.
        sets: names of sets in it; None for all.
        scale: upscaling factor.
    Raises:
        DataError: there is no image, or one is too small to be scored.
    """
    crops: list[tuple[Image, Image]] = []
    for image_set in load_image_sets(data, sets, scale):
        for pair in image_set:
            if len(crops) == most:
                return crops
            check_size(pair, image_set.name, scale, with_ssim=False)
            height, width = (min(side, length) for length in pair.lr.shape[:2])
            top, left = (pair.lr.shape[0] - height) // 2, (pair.lr.shape[1] - width) // 2
            rows, columns = slice(top * scale, (top + height) * scale), slice(left * scale, (left + width) * scale)
            crops.append((pair.lr[top : top + height, left : left + width].copy(), pair.hr[rows, columns].copy()))
    if not crops:
        raise DataError(f"expected at least one image, got none in {data}; name a folder with photos")
    return crops


def _cut(crops: Sequence[tuple[Image, Image]], *, scale: int, multiple: int) -> Iterator[tuple[Image, Image]]:
    for lr, hr in crops:
        height, width = (length // multiple * multiple for length in lr.shape[:2])
        if height == 0 or width == 0:
            raise ConfigError(f"expected crops of at least {multiple} LR pixels, got {lr.shape[:2]}; use larger photos")
        yield lr[:height, :width], hr[: height * scale, : width * scale]


def _variant_schemes(scheme: Scheme) -> list[Scheme]:
    """The scheme, with each optional kind in float, with sums and products, with all; known ones by their names."""
    kinds = [kind for kind in _OPTIONAL if kind in scheme.int8_ops]
    pair = frozenset({OpKind.ADD, OpKind.MUL}) & frozenset(kinds)
    sets = [frozenset[OpKind](), *(frozenset({kind}) for kind in kinds), pair, frozenset(kinds)]
    found = []
    for left_out in dict.fromkeys(sets):
        int8_ops = scheme.int8_ops - left_out
        own = replace(scheme, int8_ops=int8_ops)
        known = [other.name for other in SCHEMES.values() if _same_arithmetic(other, own)]
        *some, last = sorted(kind.value for kind in left_out) or [""]
        words = f"{', '.join(some)} and {last}" if some else last
        name = known[0] if known else f"{scheme.name}, {words} in float"
        found.append(replace(own, name=name, summary=f"{scheme.name} as a variant"))
    return found


def _same_arithmetic(first: Scheme, second: Scheme) -> bool:
    return (first.int8_ops, first.activation_bits) == (second.int8_ops, second.activation_bits)


def _variant(network: QuantizedNetwork, effect: Effect) -> Variant:
    counts = Counter(place.op for place in find_places(network))
    left = [kind.value for kind in _OPTIONAL if kind not in network.scheme.int8_ops]
    rounded = {op: count for op, count in counts.items() if op != WEIGHTS}
    return Variant(name=network.scheme.name, float_kinds=tuple(left), rounded=rounded, effect=effect)


def measure_part_latency(
    checkpoint: Path,
    *,
    scheme: str = "w8a8",
    tile: tuple[int, int],
    threads: int = 1,
    runs: int = 50,
    progress: Progress = quiet,
) -> LatencyByPart:
    """Time each part of a network as TFLite runs it: in float, in a quantized scheme and in ``w8a8_mixed``.

    Ranges are calibrated, not searched: they do not change how long anything takes.

    Args:
        checkpoint: of the float network.
        scheme: a quantized scheme.
        tile: (height, width) in LR pixels.
        threads, runs: of the timing.
        progress: called before each scheme.
    Raises:
        MissingToolError, ConversionError, RunnerError: the TFLite toolchain is missing, or refused.
    """
    # Imported here: only this needs converters, and they the TFLite toolchain.
    from apps.profiling.layers import profile_layers
    from converters.export import export_artifact

    loaded = load_checkpoint(checkpoint)
    quantized = {
        name: quantize_after_training(checkpoint, name, search=False, progress=progress)[0]
        for name in dict.fromkeys((scheme, "w8a8_mixed"))
    }
    networks: dict[str, nn.Module] = {"fp32": loaded.network.deployed(), **quantized}  # type: ignore[operator]
    profiles = []
    with tempfile.TemporaryDirectory(prefix="edge-sr-sensitivity-") as folder:
        for done, (name, network) in enumerate(networks.items()):
            progress("export and time", done, len(networks), name)
            artifact = export_artifact(
                network=network,
                scheme=name,
                target="tflite",
                tile=tile,
                out_dir=Path(folder),
                overlap=0,
                checkpoint_sha256=loaded.sha256,
            )
            profiles.append(profile_layers(artifact.path, threads=threads, runs=runs))
        progress("export and time", len(networks), len(networks))
    return latency_by_part(quantized[scheme], profiles)
