"""Export: checkpoint -> artifact folders, one per scheme and target."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.progress import Progress, quiet
from apps.results import plain
from apps.verification.overlap_choice import OverlapChoice, choose_overlap
from apps.weights import Weights, resolve_weights
from converters.artifact import Artifact, artifact_name, refuse_existing
from converters.export import check_tile, export_artifact
from converters.qnn.socs import socs_for
from converters.targets import BACKENDS, USUAL_TARGETS, get_target
from edge_sr.choices import expect_choice
from edge_sr.errors import ConfigError, ConversionError, EdgeSRError, MissingToolError
from quantization.schemes import get_scheme

DEFAULT_TILE = (128, 128)


@dataclass(frozen=True, kw_only=True)
class ExportRow:
    """One artifact made, or the reason why not.

    ``weights`` says where the numbers come from: ``checkpoint`` (as stored) or ``post-training`` (quantized here, after
    calibration, because the checkpoint is a float one). ``seconds`` is the whole export, checks included.
    ``weights_license`` is empty where none is recorded, as of weights of one's own.
    """

    model: str
    scale: int
    scheme: str
    target: str
    tile: tuple[int, int]
    weights: str
    path: Path | None
    size_bytes: int | None
    seconds: float
    delegates: int | None = None
    ops_outside: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()
    weights_license: str = ""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """All artifacts of one export command, in the order of making."""

    rows: tuple[ExportRow, ...]

    @property
    def failures(self) -> tuple[ExportRow, ...]:
        return tuple(row for row in self.rows if row.error is not None)

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences recorded with the weights, each once."""
        return tuple(dict.fromkeys(row.weights_license for row in self.rows if row.weights_license))

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(row.path for row in self.rows if row.path is not None)

    def to_json(self) -> dict[str, Any]:
        return {"artifacts": [row.to_json() for row in self.rows]}


def export_artifacts(
    *,
    model: str = "idsa_net_mobile",
    scale: int = 4,
    schemes: Sequence[str] = ("w8a8",),
    targets: Sequence[str] | None = None,
    tile: tuple[int, int] = DEFAULT_TILE,
    out_dir: Path,
    checkpoint: Path | None = None,
    calibration: Path | None = None,
    socs: Sequence[str] = (),
    overlap: int | None = None,
    overwrite: bool = False,
    progress: Progress = quiet,
) -> ExportReport:
    """Make one artifact per scheme and target in ``out_dir``.

    Every name, the tile and every output path are checked before the first (slow) conversion. A toolchain that is
    missing or refuses the network costs its own artifacts only: its rows carry the error.

    Args:
        model: a name in ``MODELS``.
        scale: 2, 3 or 4.
        schemes: names in ``SCHEMES``; each target must be able to do each of them.
        targets: names in ``TARGETS``; None for those that need not be asked for by name.
        socs: systems on a chip to compile for, where a target compiles for some.
        tile: (height, width) of the LR input, multiples of the network's ``tile_multiple``.
        out_dir: folder for the artifact folders; made where missing.
        checkpoint: float or quantized checkpoint file; default the bundled ones, the float one for float schemes.
        calibration: HR images for quantizing a float checkpoint; default the sample photos.
        overlap: LR pixels shared by neighbouring tiles; default the smallest at which no seam shows, as far as half a
            tile allows, with the evidence in ``artifact.json``. See :func:`choose_overlap`.
        overwrite: replace artifacts that exist.
        progress: called after each artifact.
    Raises:
        ConfigError, UnsupportedScheme: a name or the tile is not possible.
        CheckpointError: no weights, or those of another network.
        ArtifactError: an artifact folder exists.
    """
    if socs and not any(get_target(name).compiles_for_socs for name in targets or ()):
        named = ", ".join(targets or USUAL_TARGETS)
        raise ConfigError(
            f"expected a target that compiles for a SoC, got {named} with {socs[0]}; add --target qnn, or drop --soc"
        )
    jobs = _plan(schemes, USUAL_TARGETS if targets is None else targets)
    for scheme, target in jobs:
        if target == "qnn":
            socs_for(socs, scheme)
    weights: dict[str, Weights] = {}
    for scheme, target in jobs:
        name = artifact_name(model=model, scale=scale, scheme=scheme, target=target, tile=tile)
        refuse_existing(Path(out_dir) / name, overwrite=overwrite)
    for scheme in dict.fromkeys(scheme for scheme, _ in jobs):
        weights[scheme] = resolve_weights(
            model, scale, scheme, checkpoint=checkpoint, calibration=calibration, progress=progress
        )
        check_tile(tile, multiple=int(weights[scheme].network.tile_multiple))  # type: ignore[arg-type]
    overlaps = {
        scheme: choose_overlap(own.network, tile, progress=progress) if overlap is None else overlap
        for scheme, own in weights.items()
    }
    rows: list[ExportRow] = []
    for scheme, target in jobs:
        progress(f"export {target} {scheme}", 0, 1)
        rows.append(
            _export_one(
                weights[scheme], model, scale, scheme, target, socs, tile, Path(out_dir), overlaps[scheme], overwrite
            )
        )
        progress(f"export {target} {scheme}", 1, 1)
    return ExportReport(rows=tuple(rows))


def typed_targets(
    targets: Sequence[str] | None, *, backend: str | None = None, vendor: str | None = None
) -> Sequence[str] | None:
    """The targets that are meant: each backend of ExecuTorch and each vendor of an NPU is one; None for the usual ones.

    Raises:
        ConfigError: a backend beside another target than executorch, or npu and a vendor without one another.
    """
    typed = ", ".join(targets or ())
    if vendor is None and "npu" in (targets or ()):
        raise ConfigError("expected the vendor of the NPU, got none; add --vendor mediatek, google_tensor or samsung")
    if vendor is not None and "npu" not in (targets or ()):
        raise ConfigError(f"expected --target npu beside --vendor {vendor}, got {typed or 'none'}")
    if backend is None:
        return [str(vendor) if name == "npu" else name for name in targets] if targets else None
    if not targets or set(targets) != {"executorch"}:
        raise ConfigError(
            f"--backend goes with --target executorch alone, got {typed or 'no target'}; "
            "add --target executorch, and export other targets without --backend"
        )
    expect_choice("--backend", backend, BACKENDS)
    return (BACKENDS[backend],)


def _plan(schemes: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    if not schemes or not targets:
        raise ConfigError(f"expected schemes and targets, got {list(schemes)} and {list(targets)}, name one of each")
    jobs = [(scheme, target) for scheme in dict.fromkeys(schemes) for target in dict.fromkeys(targets)]
    for scheme, target in jobs:
        get_scheme(scheme)
        get_target(target).check_scheme(scheme)
    return jobs


def _export_one(
    weights: Weights,
    model: str,
    scale: int,
    scheme: str,
    target: str,
    socs: Sequence[str],
    tile: tuple[int, int],
    out_dir: Path,
    overlap: OverlapChoice | int,
    overwrite: bool,
) -> ExportRow:
    start = time.perf_counter()
    artifact: Artifact | None = None
    error: EdgeSRError | None = None
    choice, given = (overlap, overlap.overlap) if isinstance(overlap, OverlapChoice) else (None, overlap)
    try:
        artifact = export_artifact(
            network=weights.network,
            scheme=scheme,
            target=target,
            socs=socs,
            tile=tile,
            out_dir=out_dir,
            overlap=given,
            measured=None if choice is None else {"seams": choice.to_json()},
            notes=() if choice is None or not choice.note else (choice.note,),
            checkpoint_sha256=weights.checkpoint_sha256,
            calibration_sha256=weights.calibration_sha256,
            overwrite=overwrite,
            weights_license=weights.license,
            weights_attribution=weights.attribution,
        )
    except (ConversionError, MissingToolError) as caught:
        error = caught
    meta = None if artifact is None else artifact.meta
    return ExportRow(
        model=model,
        scale=scale,
        scheme=scheme,
        target=target,
        tile=tile,
        weights=weights.origin,
        path=None if artifact is None else artifact.path,
        size_bytes=None if meta is None else meta.size_bytes,
        seconds=time.perf_counter() - start,
        delegates=None if meta is None else meta.delegation.delegates,
        ops_outside=None if meta is None else dict(meta.delegation.ops_outside),
        notes=() if meta is None else meta.notes,
        weights_license=weights.license,
        error=None if error is None else str(error),
    )
