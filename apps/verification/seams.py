"""The seam certificate: from which overlap on nobody can see where an artifact's tiles meet.

What is compared. An artifact takes one tile size, so it has no whole image to be compared with. But where tiles overlap
by twice the network's *reach* (:func:`edge_sr.reach.measure_reach`), every kept pixel has everything around it that
its value depends on, and the tiled picture is the whole image's. That picture is the reference. Three measurements
stand behind the argument:

- the same picture through a shifted grid must agree with the reference (``disagreement_levels``): the runtime computes
  a pixel alike wherever it lies in a tile;
- away from the seams a smaller overlap must change nothing (``elsewhere_max_levels`` of 0), or the reach is wrong;
- the network itself, in PyTorch and in the artifact's own arithmetic, tiled against the real whole image
  (``cross_check``).

A network that sees its whole input (attention over a grid, statistics of the image) computes something else in every
tile: no overlap is exact. The reference then is the artifact at the largest overlap worth its price, half a tile, and
``disagreement_levels`` says how much any tiling of it can be trusted at all.

Pictures are two tiles high and wide, so that there is a seam of exactly the overlap in question in both directions
(the last tile of a row is shifted inwards and overlaps more): noise, saturated steps, and photos. A runtime that takes
seconds for a tile is shown noise and one photo, at no overlap, at the artifact's own and at the largest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apps.progress import Progress, quiet
from apps.verification.references import References
from apps.verification.scoring import closing_runner
from apps.verification.seam_certificate import SeamCertificate, SeamRow, WorstSeam
from apps.verification.seam_probe import (
    CachingRunner,
    SeamDifference,
    SeamPicture,
    compare_along_seams,
    cost_factor,
    largest_overlap,
    level_difference,
    photo_pictures,
    seam_mask,
    synthetic_pictures,
)
from converters.artifact import Artifact
from converters.runners import RUNTIMES, accuracy_runtimes, open_runner
from edge_sr.errors import ConfigError
from edge_sr.reach import Reach, measure_reach
from edge_sr.runner import Runner, TorchRunner
from edge_sr.tiling import plan_tiles, upscale_image
from quantization.fake_quant import Mode
from quantization.quantizer import QuantizedNetwork

Image = NDArray[np.uint8]

_STEP = 4
# LR pixels by which the second grid is shifted: odd and unequal, so that no period hides in them.
_SHIFT = (5, 3)
# LR pixels beside a cut that count as the seam where the reach is unknown or wide.
_BAND = 16
# Output pixels per side of the crop kept of the worst place.
_CROP = 96
# A reference of exact overlap is made only where tiles still advance by this many LR pixels.
_LEAST_ADVANCE = 4


def certify_seams(
    artifact: Artifact,
    *,
    data: Path | None = None,
    sets: Sequence[str] | None = None,
    checkpoint: Path | None = None,
    references: References | None = None,
    reach: Reach | None = None,
    threads: int = 1,
    isolated: bool = True,
    runtime: str | None = None,
    photos_per_set: int = 2,
    cross_check: bool = True,
    progress: Progress = quiet,
) -> SeamCertificate:
    """Measure an artifact's seams as a function of overlap. What is compared with what: see the module.

    Args:
        artifact: as ``load_artifact`` gave it.
        data, sets: photos to look at besides the made-up pictures; default the sample photos.
        checkpoint: the one the artifact was made from; default the bundled one.
        references: networks already loaded, in place of ``checkpoint``.
        reach: of the network behind the artifact, where :func:`reach_of` has measured it; while it does, torch.fx
            patches every module's call, so nothing else may run a network.
        threads: CPU threads of the runtime.
        isolated: run the artifact in a child process.
        runtime: what executes the artifact; default the first of ``accuracy_runtimes``.
        photos_per_set: how many photos of each set; a picture costs about 50 tiles.
        cross_check: also run the network in PyTorch, tiled and whole.
        progress: called after each picture.
    Raises:
        CheckpointError: the weights are not those of the artifact.
        RunnerError, MissingToolError: nothing here executes the artifact.
        ConfigError, DataError: no such sets.
    """
    meta = artifact.meta
    if photos_per_set < 1:
        raise ConfigError(f"expected at least one photo per set, got {photos_per_set}")
    if references is None:
        references = References([] if checkpoint is None else [checkpoint], progress=progress)
    network = references.network(meta)
    reach = reach_of(network) if reach is None else reach
    height, width = (2 * side for side in meta.tile)
    pictures = synthetic_pictures(height, width) + photo_pictures(
        height, width, scale=meta.scale, data=data, sets=sets, per_set=photos_per_set
    )
    if runtime is None:
        runtime = accuracy_runtimes(meta)[0]
    first_photo = next(picture for picture in pictures if picture.photo)
    slow = RUNTIMES[runtime].slow
    if slow:
        pictures = (pictures[0], first_photo)
    probe = _Probe(reach, meta.tile, meta.overlap, meta.scale, few=slow)
    what = f"seams of {artifact.path.name}"
    measured = []
    runner = open_runner(artifact, threads=threads, isolated=isolated, runtime=runtime)
    with closing_runner(runner):
        for done, picture in enumerate(pictures):
            progress(what, done, len(pictures))

            def computed(tiles: int, done: int = done) -> None:
                progress(what, done + min(tiles / probe.tiles, 0.99), len(pictures))

            measured.append(probe.measure(runner, picture, computed))
        progress(what, len(pictures), len(pictures))
    rows = tuple(
        SeamRow(
            overlap=overlap,
            cost_factor=cost_factor(meta.tile, overlap),
            differences=tuple(entry.differences[index] for entry in measured),
            worst=max((entry.worst[index] for entry in measured), key=lambda seam: seam.max_levels),
        )
        for index, overlap in enumerate(probe.overlaps)
    )
    certificate = SeamCertificate(
        artifact=artifact.path.name,
        model=meta.model,
        scale=meta.scale,
        scheme=meta.scheme,
        target=meta.target,
        runtime=runtime,
        tile=meta.tile,
        overlap=meta.overlap,
        reach=reach,
        declared_context=int(network.context),  # type: ignore[arg-type]
        band=probe.band,
        rows=rows,
        reference_overlap=probe.reference_overlap,
        reference_exact=probe.reference_exact,
        disagreement_levels=max(entry.disagreement for entry in measured),
        cross_check=(),
    )
    if not cross_check:
        return certificate
    wanted = {0, meta.overlap, probe.overlaps[-1], certificate.certified_overlap or 0}
    checked = _cross_check(network, probe, (pictures[0], first_photo), sorted(wanted), progress)
    return replace(certificate, cross_check=checked)


def reach_of(network: nn.Module) -> Reach:
    """:func:`measure_reach` of a float or a quantized network; the network is not changed."""
    if isinstance(network, QuantizedNetwork):
        network = copy.deepcopy(network)
        network.set_mode(Mode.FLOAT)
    return measure_reach(network)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One picture: a difference and a worst place per overlap."""

    differences: tuple[SeamDifference, ...]
    worst: tuple[WorstSeam, ...]
    disagreement: int


class _Probe:
    """What is measured on every picture."""

    def __init__(self, reach: Reach, tile: tuple[int, int], own_overlap: int, scale: int, *, few: bool) -> None:
        exact, largest = reach.exact_overlap, largest_overlap(tile)
        self.tile, self.scale = tile, scale
        self.reference_exact = exact is not None and exact + _LEAST_ADVANCE <= min(tile)
        self.reference_overlap = exact if exact is not None and self.reference_exact else largest
        overlaps = candidate_overlaps(tile, exact, also=own_overlap)
        self.overlaps = tuple(sorted({0, own_overlap, overlaps[-1]})) if few else overlaps
        self.band = min(_BAND if reach.reach_px is None else max(reach.reach_px, 1), _BAND)
        self.margin = min(tile) // 4 if reach.reach_px is None else reach.reach_px

    @property
    def tiles(self) -> int:
        """How many different tiles a picture takes, but for those that show the same."""
        plans = [(overlap, (0, 0)) for overlap in {*self.overlaps, self.reference_overlap}]
        places = {
            (tile.top + down, tile.left + right)
            for overlap, (down, right) in (*plans, (self.reference_overlap, _SHIFT))
            for tile in plan_tiles(2 * self.tile[0] - down, 2 * self.tile[1] - right, self.tile, overlap)
        }
        return len(places)

    def measure(self, runner: Runner, picture: SeamPicture, computed: Callable[[int], None]) -> _Measured:
        cached = CachingRunner(runner, computed)
        reference = upscale_image(cached, picture.pixels, overlap=self.reference_overlap)
        differences, worst = [], []
        for overlap in self.overlaps:
            tiled = upscale_image(cached, picture.pixels, overlap=overlap)
            difference = self.compare(tiled, reference, picture, overlap)
            differences.append(difference)
            worst.append(_worst_place(tiled, reference, difference))
        return _Measured(
            differences=tuple(differences),
            worst=tuple(worst),
            disagreement=self._disagreement(cached, picture, reference),
        )

    def compare(self, tiled: Image, reference: Image, picture: SeamPicture, overlap: int) -> SeamDifference:
        plan = plan_tiles(picture.pixels.shape[0], picture.pixels.shape[1], self.tile, overlap)
        mask = seam_mask(plan, scale=self.scale, band=self.band)
        return compare_along_seams(tiled, reference, mask, picture=picture, overlap=overlap)

    def _disagreement(self, runner: Runner, picture: SeamPicture, reference: Image) -> int:
        down, right = _SHIFT
        shifted = upscale_image(
            runner, np.ascontiguousarray(picture.pixels[down:, right:]), overlap=self.reference_overlap
        )
        # The shifted picture has edges of its own at the top and the left, up to which nothing can be compared.
        inner = shifted[self.scale * self.margin :, self.scale * self.margin :]
        outer = reference[self.scale * (down + self.margin) :, self.scale * (right + self.margin) :]
        return int(level_difference(inner, outer).max(initial=0))


def candidate_overlaps(tile: tuple[int, int], exact: int | None, *, also: int = 0) -> tuple[int, ...]:
    """Overlaps to try: every fourth up to 32, then every sixteenth, up to the exact one or half of the tile."""
    last = largest_overlap(tile) if exact is None else min(exact, largest_overlap(tile))
    steps = {*range(0, min(last, 32) + 1, _STEP), *range(48, last + 1, 16), last, also}
    return tuple(sorted(steps))


def _worst_place(tiled: Image, reference: Image, difference: SeamDifference) -> WorstSeam:
    levels = level_difference(tiled, reference).max(axis=2)
    row, column = np.unravel_index(int(levels.argmax()), levels.shape)
    top = min(max(int(row) - _CROP // 2, 0), max(levels.shape[0] - _CROP, 0))
    left = min(max(int(column) - _CROP // 2, 0), max(levels.shape[1] - _CROP, 0))
    crop = (slice(top, top + _CROP), slice(left, left + _CROP))
    return WorstSeam(
        picture=difference.picture,
        overlap=difference.overlap,
        max_levels=int(levels.max()),
        top=top,
        left=left,
        tiled=tiled[crop].copy(),
        reference=reference[crop].copy(),
    )


def _cross_check(
    network: nn.Module, probe: _Probe, pictures: Sequence[SeamPicture], overlaps: Sequence[int], progress: Progress
) -> tuple[SeamDifference, ...]:
    """The network in PyTorch, tiled against the whole image."""
    found = []
    for done, picture in enumerate(pictures, start=1):
        whole = TorchRunner(network).run(picture.pixels)
        tiles = CachingRunner(TorchRunner(network, tile=probe.tile))
        for overlap in overlaps:
            tiled = upscale_image(tiles, picture.pixels, overlap=overlap)
            found.append(probe.compare(tiled, whole, picture, overlap))
        progress("seams in PyTorch", done, len(pictures))
    return tuple(found)
