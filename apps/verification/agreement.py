"""Do the artifacts compute what the network computes? Every participant on the same tiles, compared in pairs."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apps.progress import Progress, quiet
from apps.results import plain
from apps.verification.agreement_limits import rounds_its_own_way
from apps.verification.divergence import Divergence, find_divergence
from apps.verification.references import References
from apps.verification.sample_tiles import NOISE, SampleTile, pick_tiles
from apps.verification.scoring import closing_runner
from converters.artifact import Artifact, ArtifactMeta
from converters.runners import RUNTIMES, accuracy_runtimes, open_runner
from edge_sr.errors import ConfigError, EdgeSRError
from edge_sr.metrics import ONE_LEVEL_DB
from edge_sr.runner import Runner, TorchRunner
from edge_sr.scorable import load_scorable_sets
from edge_sr.sizes import format_size
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork

Image = NDArray[np.uint8]

DEFAULT_TILES = 8
# Two results that are further apart than this, in levels of 0..255, make a search for the layer that diverges.
ALLOWED_LEVELS = 2
FAKE_QUANT, QDQ, FLOAT = "fake-quant", "QDQ", "float"


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One way to compute the network.

    Attributes:
        name: as in tables: "fake-quant", "QDQ" and "float" are PyTorch; others are artifacts in a runtime.
        runtime: "torch", or the runtime's name for :func:`converters.runners.open_runner`.
        runner: what ran, with its version; empty where nothing did.
        artifact_name: folder of the artifact; None for PyTorch.
        psnr_y_db: mean over the tiles that have ground truth, ``scale`` HR pixels ignored on each edge of a tile, each
            counted up to :data:`edge_sr.metrics.ONE_LEVEL_DB`; None without a result or without such a tile.
        reason: why there is no result; None where there is one.
    """

    name: str
    runtime: str
    runner: str = ""
    artifact_name: str | None = None
    psnr_y_db: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two participants' results on all tiles, channel values of 0..255 compared one by one.

    Attributes:
        first, second: names of the participants.
        max_levels, mean_levels: largest and mean absolute difference.
        share_equal, share_over_1, share_over_2: shares of all channel values, 0..1.
        psnr_db: between the two, all channels, peak 255; ``inf`` where they are identical.
        worst_tile: index of the tile with the largest difference (then the largest mean).
        max_levels_by_tile, mean_levels_by_tile: the same for each tile alone.
    """

    first: str
    second: str
    max_levels: int
    mean_levels: float
    share_equal: float
    share_over_1: float
    share_over_2: float
    psnr_db: float
    worst_tile: int
    max_levels_by_tile: tuple[int, ...]
    mean_levels_by_tile: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class AgreementMatrix:
    """All participants of one network, scheme and tile, and every pair of those that ran.

    ``divergences`` holds one entry per artifact that was more than :data:`ALLOWED_LEVELS` from anyone, and one for QDQ
    where it was as far from the fake-quantized network; NPUs, which round in their own way, stand aside.
    ``divergence_reasons`` says why one of them has no entry: the search failed, or its pictures are those of one that
    has.
    """

    model: str
    scale: int
    scheme: str
    tile: tuple[int, int]
    checkpoint_sha256: str
    tiles: tuple[SampleTile, ...]
    participants: tuple[Participant, ...]
    pairs: tuple[Agreement, ...]
    divergences: tuple[Divergence, ...] = ()
    divergence_reasons: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        return f"{self.model} x{self.scale} {self.scheme} {format_size(self.tile)}"

    @property
    def max_levels(self) -> int | None:
        """Of all pairs; None where there is no pair."""
        return max((pair.max_levels for pair in self.pairs), default=None)

    def photo_max_levels(self, pair: Agreement) -> int:
        """A pair's largest difference on tiles of photos, noise left out."""
        own = zip(self.tiles, pair.max_levels_by_tile, strict=True)
        return max((levels for tile, levels in own if tile.kind != NOISE), default=0)

    def pair(self, first: str, second: str) -> Agreement | None:
        """The pair of that name in either order, or None."""
        wanted = {first, second}
        return next((pair for pair in self.pairs if {pair.first, pair.second} == wanted), None)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = plain(
            {
                "model": self.model,
                "scale": self.scale,
                "scheme": self.scheme,
                "tile": self.tile,
                "checkpoint_sha256": self.checkpoint_sha256,
                "allowed_levels": ALLOWED_LEVELS,
                "tiles": [tile.to_json() for tile in self.tiles],
                "participants": [vars(participant) for participant in self.participants],
                "pairs": [vars(pair) for pair in self.pairs],
                "divergences": [divergence.to_json() for divergence in self.divergences],
                "divergence_reasons": dict(self.divergence_reasons),
            }
        )
        return content


def measure_agreement(
    artifacts: Sequence[Artifact],
    *,
    data: Path | None,
    sets: Sequence[str] | None,
    checkpoint: Path | None = None,
    references: References | None = None,
    tiles: int = DEFAULT_TILES,
    threads: int = 1,
    isolated: bool = True,
    diverging: bool = True,
    thorough: bool = False,
    progress: Progress = quiet,
) -> tuple[AgreementMatrix, ...]:
    """Run everything that computes a network on the same tiles and compare the results in pairs.

    Artifacts are grouped by network, scheme and tile; one matrix per group, in order of appearance. Quantized groups
    start with the fake-quantized network and the quantize/dequantize graph in PyTorch, float ones with the float
    network.

    Args:
        artifacts: verified artifact folders.
        data, sets: where tiles are cut, as :func:`edge_sr.datasets.load_image_sets` takes them.
        checkpoint: what the artifacts were made from, where that is not bundled. Ignored beside ``references``.
        references: networks that are loaded already.
        tiles: how many; see :func:`apps.verification.sample_tiles.pick_tiles`.
        threads: CPU threads of the runtimes.
        isolated: run artifacts in child processes.
        diverging: where an artifact is more than :data:`ALLOWED_LEVELS` off, lower the network again with taps and name
            the first layer that diverges. It takes the time of one more export or a few.
        thorough: slow runtimes take part too, see :func:`converters.runners.accuracy_runtimes`.
        progress: called after each tile of each participant.
    Raises:
        ConfigError, DataError: nothing to compare, or no such data.
    """
    if not artifacts:
        raise ConfigError("expected at least one artifact, got none, give the folder that export wrote")
    known = references or References([] if checkpoint is None else [checkpoint], progress=progress)
    groups: dict[tuple[Any, ...], list[Artifact]] = {}
    for artifact in artifacts:
        meta = artifact.meta
        key = (meta.model, meta.scale, meta.scheme, meta.tile, meta.checkpoint_sha256, meta.calibration_sha256)
        groups.setdefault(key, []).append(artifact)
    chosen: dict[tuple[int, tuple[int, int]], tuple[SampleTile, ...]] = {}
    matrices = []
    for group in groups.values():
        meta = group[0].meta
        place = (meta.scale, meta.tile)
        if place not in chosen:
            chosen[place] = pick_tiles(load_scorable_sets(data, sets, meta.scale), meta.tile, tiles)
        settings = _Settings(
            threads=threads, isolated=isolated, diverging=diverging, thorough=thorough, progress=progress
        )
        matrices.append(_measure_group(group, chosen[place], known, settings))
    return tuple(matrices)


def compare_results(first: Sequence[Image], second: Sequence[Image], names: tuple[str, str]) -> Agreement:
    """Compare two participants' results, tile by tile.

    Args:
        first, second: (H, W, 3) uint8, the same shapes in the same order, at least one.
        names: of the participants.
    """
    counts = np.zeros(256, dtype=np.int64)
    by_tile: list[tuple[int, float]] = []
    for one, other in zip(first, second, strict=True):
        difference = np.abs(one.astype(np.int16) - other.astype(np.int16))
        counts += np.bincount(difference.ravel(), minlength=256)
        by_tile.append((int(difference.max()), float(difference.mean())))
    total, levels = int(counts.sum()), np.arange(256)
    mse = float((counts * levels**2).sum()) / total
    return Agreement(
        first=names[0],
        second=names[1],
        max_levels=int(np.flatnonzero(counts).max()),
        mean_levels=float((counts * levels).sum()) / total,
        share_equal=float(counts[0]) / total,
        share_over_1=float(counts[2:].sum()) / total,
        share_over_2=float(counts[3:].sum()) / total,
        psnr_db=math.inf if mse == 0 else 10 * math.log10(255**2 / mse),
        worst_tile=by_tile.index(max(by_tile)),
        max_levels_by_tile=tuple(largest for largest, _ in by_tile),
        mean_levels_by_tile=tuple(mean for _, mean in by_tile),
    )


@dataclass(frozen=True, kw_only=True)
class _Settings:
    threads: int
    isolated: bool
    diverging: bool
    thorough: bool
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Who is to run: ``open`` gives its runner, or raises an EdgeSRError that says why it cannot."""

    name: str
    runtime: str
    artifact: Artifact | None
    open: Callable[[], Runner]


def _measure_group(
    group: Sequence[Artifact], tiles: tuple[SampleTile, ...], references: References, settings: _Settings
) -> AgreementMatrix:
    meta = group[0].meta
    candidates = [*_torch_candidates(meta, references), *_artifact_candidates(group, settings)]
    participants: list[Participant] = []
    results: dict[str, list[Image]] = {}
    for candidate in candidates:
        participant, pictures = _run(candidate, tiles, meta.scale, settings.progress)
        participants.append(participant)
        if pictures is not None:
            results[candidate.name] = pictures
    pairs = [
        compare_results(results[first], results[second], (first, second))
        for first, second in itertools.combinations(results, 2)
    ]
    found, failed = _find_divergences(meta, candidates, pairs, results, tiles, references, settings)
    return AgreementMatrix(
        model=meta.model,
        scale=meta.scale,
        scheme=meta.scheme,
        tile=meta.tile,
        checkpoint_sha256=meta.checkpoint_sha256,
        tiles=tiles,
        participants=tuple(participants),
        pairs=tuple(pairs),
        divergences=tuple(found),
        divergence_reasons=tuple(failed),
    )


def _torch_candidates(meta: ArtifactMeta, references: References) -> list[_Candidate]:
    def quantized() -> Runner:
        return TorchRunner(references.network(meta), name=FAKE_QUANT, tile=meta.tile)

    def qdq() -> Runner:
        return TorchRunner(_qdq_network(references.network(meta)), name=QDQ, tile=meta.tile)

    def floating() -> Runner:
        return TorchRunner(references.float_network(meta), name=FLOAT, tile=meta.tile)

    openers = {FLOAT: floating} if meta.scheme in ("fp32", "fp16") else {FAKE_QUANT: quantized, QDQ: qdq}
    return [_Candidate(name=name, runtime="torch", artifact=None, open=opener) for name, opener in openers.items()]


def _qdq_network(network: nn.Module) -> nn.Module:
    """The graph that converters get, as a network that a runner takes."""
    if not isinstance(network, QuantizedNetwork):
        raise ConfigError(f"expected a QuantizedNetwork, got {type(network).__name__}; quantize it first")
    module: Any = to_qdq(network, weights="int8", duplicate_dequantize=False)
    module.scale, module.tile_multiple = network.scale, network.tile_multiple
    graph: nn.Module = module
    return graph


def _artifact_candidates(group: Sequence[Artifact], settings: _Settings) -> list[_Candidate]:
    def opener(artifact: Artifact, runtime: str) -> Callable[[], Runner]:
        return lambda: open_runner(artifact, threads=settings.threads, isolated=settings.isolated, runtime=runtime)

    candidates = []
    taken: set[str] = set()
    for artifact in group:
        for runtime in accuracy_runtimes(artifact.meta, thorough=settings.thorough):
            name = RUNTIMES[runtime].title
            if name in taken:  # the same target twice in one group: folders tell them apart
                name = f"{name}, {artifact.path.name}"
            name = _unique(name, taken)
            taken.add(name)
            candidates.append(_Candidate(name=name, runtime=runtime, artifact=artifact, open=opener(artifact, runtime)))
    return candidates


def _unique(name: str, taken: set[str]) -> str:
    numbered = (f"{name} ({count})" for count in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _run(
    candidate: _Candidate, tiles: Sequence[SampleTile], scale: int, progress: Progress
) -> tuple[Participant, list[Image] | None]:
    own = Participant(
        name=candidate.name,
        runtime=candidate.runtime,
        artifact_name=None if candidate.artifact is None else candidate.artifact.path.name,
    )
    pictures: list[Image] = []
    try:
        runner = candidate.open()
        with closing_runner(runner):
            for tile in tiles:
                pictures.append(runner.run(tile.lr))
                progress(f"agreement, {candidate.name}", len(pictures), len(tiles))
            ran = runner.name
    except EdgeSRError as error:
        return replace(own, reason=str(error)), None
    scores = [tile.psnr_y_db(picture, scale) for tile, picture in zip(tiles, pictures, strict=True)]
    known = [min(score, ONE_LEVEL_DB) for score in scores if score is not None]
    return replace(own, runner=ran, psnr_y_db=statistics.fmean(known) if known else None), pictures


def _find_divergences(
    meta: ArtifactMeta,
    candidates: Sequence[_Candidate],
    pairs: Sequence[Agreement],
    results: dict[str, list[Image]],
    tiles: Sequence[SampleTile],
    references: References,
    settings: _Settings,
) -> tuple[list[Divergence], list[tuple[str, str]]]:
    found: list[Divergence] = []
    failed: list[tuple[str, str]] = []
    alike = [candidate for candidate in candidates if not rounds_its_own_way(candidate.runtime)]
    names = {candidate.name for candidate in alike}
    among = [pair for pair in pairs if {pair.first, pair.second} <= names]
    for candidate in alike if settings.diverging else ():
        own = [pair for pair in among if candidate.name in (pair.first, pair.second)]
        if candidate.name in (FAKE_QUANT, FLOAT) or not _too_far(candidate, own):
            continue
        twin = _explained_twin(candidate.name, own, [divergence.participant for divergence in found])
        if twin is not None:
            failed.append((candidate.name, f"the same pictures as {twin}, whose layers are given"))
            continue
        worst = max(own, key=lambda pair: pair.max_levels).worst_tile
        try:
            found.append(
                find_divergence(
                    references.network(meta),
                    runtime="qdq" if candidate.artifact is None else candidate.runtime,
                    scheme=meta.scheme,
                    lr=tiles[worst].lr,
                    participant=candidate.name,
                    tile_label=tiles[worst].label,
                    artifact_output=results[candidate.name][worst],
                    threads=settings.threads,
                    progress=settings.progress,
                )
            )
        except EdgeSRError as error:
            failed.append((candidate.name, str(error)))
    return found, failed


def _too_far(candidate: _Candidate, pairs: Sequence[Agreement]) -> bool:
    """Whether an artifact is too far from anyone, or the PyTorch graph from the network it spells out."""
    own = [pair for pair in pairs if candidate.artifact is not None or FAKE_QUANT in (pair.first, pair.second)]
    return max((pair.max_levels for pair in own), default=0) > ALLOWED_LEVELS


def _explained_twin(name: str, pairs: Sequence[Agreement], explained: Sequence[str]) -> str | None:
    """Whose pictures are the same, bit by bit, among those that have an explanation."""
    equal = {other for pair in pairs if pair.max_levels == 0 for other in (pair.first, pair.second)} - {name}
    return next((other for other in explained if other in equal), None)
