"""Export: one network, one scheme, one target, one tile -> one artifact folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from converters.artifact import Artifact, ArtifactMeta, artifact_name, fingerprint, refuse_existing, write_artifact
from converters.lowering import LoweringJob
from converters.self_test import record_self_test
from converters.targets import get_target
from edge_sr.atomic import made_folder, scratch_folder
from edge_sr.errors import ConfigError
from edge_sr.sizes import format_size

MIN_TILE = 8
MAX_TILE = 1024


def export_artifact(
    *,
    network: nn.Module,
    scheme: str,
    target: str,
    tile: tuple[int, int],
    out_dir: Path,
    overlap: int | None = None,
    measured: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    checkpoint_sha256: str,
    calibration_sha256: str | None = None,
    overwrite: bool = False,
    socs: Sequence[str] = (),
    weights_license: str = "",
    weights_attribution: str = "",
) -> Artifact:
    """Lower a network and write ``out_dir/{model}_x{scale}_{scheme}_{target}_{width}x{height}``.

    Args:
        network: deployed float network for a float scheme, ``QuantizedNetwork`` of the same scheme otherwise.
        scheme: name of a scheme that ``target`` can do.
        target: name of a target.
        tile: (height, width) of the LR input, each a multiple of ``network.tile_multiple``.
        out_dir: folder that gets the artifact folder; made where missing.
        overlap: LR pixels between neighbouring tiles; default ``network.context``, at most half of the tile.
        measured: what was measured of the network on the way, for ``artifact.json``; JSON-ready, by name.
        notes: lines for ``artifact.json``, besides those of the toolchain.
        checkpoint_sha256: of the checkpoint file that the weights came from.
        calibration_sha256: of the data that set the quantization ranges, where there was any.
        overwrite: replace an artifact that exists.
        socs: systems on a chip to compile for; default the target's choice.
        weights_license, weights_attribution: recorded in ``artifact.json``.
    Raises:
        ConfigError, UnsupportedScheme: an argument is not possible.
        ArtifactError: the folder exists.
        MissingToolError, ConversionError: the toolchain is missing or refused.
    """
    lowering = get_target(target)
    lowering.check_scheme(scheme)
    _check_network(network, scheme)
    tile = check_tile(tile, multiple=_count(network, "tile_multiple"))
    overlap = _check_overlap(overlap, tile, context=_count(network, "context", at_least=0))
    model, scale = str(network.model_name), _count(network, "scale")
    out_dir = Path(out_dir)
    path = out_dir / artifact_name(model=model, scale=scale, scheme=scheme, target=target, tile=tile)
    refuse_existing(path, overwrite=overwrite)
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(f"expected a folder at {out_dir}, got a file; choose another output folder")
    with made_folder(out_dir), scratch_folder(out_dir) as work_dir:
        lowered = lowering.lower(
            LoweringJob(
                network=network,
                scheme=scheme,
                model=model,
                scale=scale,
                tile=tile,
                work_dir=work_dir,
                target=target,
                socs=tuple(socs),
                checkpoint_sha256=checkpoint_sha256,
                weights_license=weights_license,
                weights_attribution=weights_attribution,
            )
        )
        meta = ArtifactMeta(
            model=model,
            scale=scale,
            scheme=scheme,
            target=target,
            tile=tile,
            overlap=overlap,
            main_file=lowered.main_file,
            io=lowered.io,
            files=fingerprint(work_dir, lowered.files),
            tool_versions=_tool_versions() | lowered.tool_versions,
            checkpoint_sha256=checkpoint_sha256,
            calibration_sha256=calibration_sha256,
            delegation=lowered.delegation,
            compiled=lowered.compiled,
            notes=(*lowered.notes, *notes),
            measured=dict(measured or {}),
            weights_license=weights_license,
            weights_attribution=weights_attribution,
            canonical_sha256=lowered.canonical_sha256,
        )
        meta = record_self_test(meta, work_dir)
        return write_artifact(path, meta=meta, source=work_dir, overwrite=overwrite)


def check_tile(tile: tuple[int, int], *, multiple: int) -> tuple[int, int]:
    """Return ``tile`` as (height, width); ConfigError where the network or a phone cannot run it."""
    if len(tile) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in tile):
        raise ConfigError(f"tile must be two whole numbers (height, width), got {tile!r}")
    for side in tile:
        if not MIN_TILE <= side <= MAX_TILE:
            raise ConfigError(f"tile sides must be from {MIN_TILE} to {MAX_TILE} pixels, got {format_size(tile)}")
        if side % multiple:
            low = max(side // multiple, 1) * multiple
            raise ConfigError(
                f"tile sides must be multiples of {multiple}, got {format_size(tile)}; "
                f"in place of {side} use {low} or {low + multiple}"
            )
    return (tile[0], tile[1])


def _check_overlap(overlap: int | None, tile: tuple[int, int], *, context: int) -> int:
    if overlap is None:
        return min(context, min(tile) // 2)
    if not isinstance(overlap, int) or not 0 <= overlap < min(tile):
        raise ConfigError(f"overlap must be from 0 to {min(tile) - 1} for tile {format_size(tile)}, got {overlap!r}")
    return overlap


def _check_network(network: nn.Module, scheme: str) -> None:
    carried: Any = getattr(network, "scheme", None)
    if carried is None:
        own = "a float network"
        fits = scheme in ("fp32", "fp16")
    else:
        own = f"a network quantized as {getattr(carried, 'name', carried)}"
        fits = scheme == getattr(carried, "name", carried)
    if not fits:
        raise ConfigError(f"scheme {scheme} does not fit: got {own}; quantize the network with the scheme you export")


def _count(network: nn.Module, name: str, *, at_least: int = 1) -> int:
    value: Any = getattr(network, name, None)
    if not isinstance(value, int) or value < at_least:
        raise ConfigError(f"network.{name} must be a whole number of at least {at_least}, got {value!r}")
    return value


def _tool_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": metadata.version("torch")}
    try:
        versions["edge-sr"] = metadata.version("edge-sr")
    except metadata.PackageNotFoundError:
        versions["edge-sr"] = "from source"
    return versions
