"""Where the decibels go: float, whole images -> float, tiled -> fake-quantized, tiled -> the artifact, tiled."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apps.progress import Progress, quiet
from apps.results import plain
from apps.verification.accuracy import VerifyReport
from apps.verification.references import References
from apps.verification.scoring import closing_runner, score
from apps.verification.worst_tile import WorstTile, find_worst_tile
from converters.artifact import Artifact
from converters.runners import accuracy_runtimes, open_runner
from edge_sr.datasets import ImageSet
from edge_sr.errors import CheckpointError, ConfigError, EdgeSRError
from edge_sr.evaluation import ImageScore, SetScore, image_drops, mean_drop
from edge_sr.runner import Runner, TorchRunner
from edge_sr.scorable import load_scorable_sets
from quantization.schemes import get_scheme

FLOAT_SCHEME = "a float scheme: nothing is quantized"


@dataclass(frozen=True, kw_only=True)
class ImageDrop:
    """One image, and what it loses from the float network on the whole image to the artifact in tiles, in dB."""

    name: str
    drop_db: float


@dataclass(frozen=True, kw_only=True)
class WaterfallRow:
    """One artifact in one runtime on one image set.

    Four scores on the same images; each drop is what a step costs, in dB of the set's mean PSNR-Y (negative for a
    gain); the drops add up to ``drop_db``. A score is None where it cannot be had, and its reason is set.

    Attributes:
        float_whole: float network, whole images.
        float_tiled: float network through the artifact's tiles and overlap.
        fake_quant: the quantized network in PyTorch, through the same tiles. None for float schemes, and where the
            network behind the artifact was not found.
        artifact: the artifact's own file, executed by ``runtime``.
        worst_tile: of the image that loses most, the tile whose squared error grows most from float to artifact.
        worst_tile_reason: why there is none.
    """

    artifact_path: Path
    model: str
    scale: int
    scheme: str
    target: str
    runtime: str
    tile: tuple[int, int]
    overlap: int
    float_whole: SetScore | None
    float_tiled: SetScore | None
    fake_quant: SetScore | None
    artifact: SetScore | None
    float_reason: str | None = None
    fake_quant_reason: str | None = None
    artifact_reason: str | None = None
    set_name: str
    worst_tile: WorstTile | None = None
    worst_tile_reason: str | None = None

    @property
    def label(self) -> str:
        """The artifact's name, and the runtime where it is not the target's own."""
        name = self.artifact_path.name
        return name if self.runtime == self.target else f"{name} ({self.runtime})"

    @property
    def tiling_drop_db(self) -> float | None:
        """Float network: whole images against tiles."""
        return _drop(self.float_whole, self.float_tiled)

    @property
    def quantization_drop_db(self) -> float | None:
        """Tiles: float network against the fake-quantized one. None where there is none."""
        return _drop(self.float_tiled, self.fake_quant)

    @property
    def conversion_drop_db(self) -> float | None:
        """Tiles: the network in PyTorch (fake-quantized, or float for a float scheme) against the artifact.

        None where the network behind a quantized artifact was not found: what quantization and conversion cost together
        is then in ``drop_db`` less ``tiling_drop_db``, and nobody can say whose it is.
        """
        quantized = get_scheme(self.scheme).quantized
        return _drop(self.fake_quant if quantized else self.float_tiled, self.artifact)

    @property
    def drop_db(self) -> float | None:
        """Float network on whole images against the artifact in tiles: the sum of the others."""
        return _drop(self.float_whole, self.artifact)

    @property
    def culprit(self) -> str | None:
        """The step that costs most: "tiling", "quantization" or "conversion"; None where nothing is lost."""
        steps = {
            "tiling": self.tiling_drop_db,
            "quantization": self.quantization_drop_db,
            "conversion": self.conversion_drop_db,
        }
        known = {name: drop for name, drop in steps.items() if drop is not None and drop > 0}
        return max(known, key=lambda name: known[name]) if known else None

    @property
    def largest_drop(self) -> ImageDrop | None:
        """The image that loses most from the float network to the artifact."""
        if self.float_whole is None or self.artifact is None:
            return None
        drops = image_drops(self.float_whole, self.artifact)
        name = max(drops, key=lambda image: drops[image])
        return ImageDrop(name=name, drop_db=drops[name])

    @property
    def lowest(self) -> ImageScore | None:
        """The image that the artifact scores lowest on."""
        return None if self.artifact is None else self.artifact.worst

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why numbers are missing, one line each; a float scheme's missing stage is no reason."""
        found = (self.float_reason, self.fake_quant_reason, self.artifact_reason)
        return tuple(dict.fromkeys(reason for reason in found if reason not in (None, FLOAT_SCHEME)))

    def to_json(self) -> dict[str, Any]:
        """Every number, reasons for those that are missing, and where the worst tile is (its pixels are not in it)."""
        scores = ("float_whole", "float_tiled", "fake_quant", "artifact")
        drops = ("drop_db", "tiling_drop_db", "quantization_drop_db", "conversion_drop_db")
        facts = ("model", "scale", "scheme", "target", "runtime", "tile", "overlap", "culprit")
        lines = ("float_reason", "fake_quant_reason", "artifact_reason", "worst_tile_reason")
        lowest = self.lowest
        content: dict[str, Any] = {
            "artifact_name": self.artifact_path.name,
            "set": self.set_name,
            **{name: getattr(self, name) for name in (*facts, *drops, *lines)},
            **{f"{name}_psnr_y_db": _mean(getattr(self, name)) for name in scores},
            "largest_drop": None if self.largest_drop is None else vars(self.largest_drop),
            "lowest": None if lowest is None else {"name": lowest.name, "psnr_y_db": lowest.psnr_y_db},
            "worst_tile": None if self.worst_tile is None else self.worst_tile.to_json(),
        }
        saved: dict[str, Any] = plain(content)
        return saved


@dataclass(frozen=True, kw_only=True)
class WaterfallReport:
    """One row per artifact, runtime and set, in that order."""

    rows: tuple[WaterfallRow, ...]

    def to_json(self) -> dict[str, Any]:
        return {"rows": [row.to_json() for row in self.rows]}


def measure_waterfall(
    artifacts: Sequence[Artifact],
    *,
    data: Path | None,
    sets: Sequence[str] | None,
    checkpoint: Path | None = None,
    references: References | None = None,
    verified: VerifyReport | None = None,
    threads: int = 1,
    isolated: bool = True,
    worst_tiles: bool = True,
    progress: Progress = quiet,
) -> WaterfallReport:
    """Split what each artifact loses on each set into tiling, quantization and conversion.

    Args:
        artifacts: verified artifact folders.
        data, sets: as :func:`edge_sr.datasets.load_image_sets` takes them.
        checkpoint: what the artifacts were made from, where that is not bundled. Ignored beside ``references``.
        references: networks and scores that are there already.
        verified: what verification of the same artifacts on the same data gave; nothing in it is scored again.
        threads: CPU threads of the runtimes.
        isolated: run artifacts in child processes.
        worst_tiles: find the worst tile; runs the float network and the artifact once more on one image per row.
        progress: called after each image.
    Raises:
        ConfigError, DataError: nothing to measure, or no such data.
    """
    if not artifacts:
        raise ConfigError("expected at least one artifact, got none, give the folder that export wrote")
    known = references or References([] if checkpoint is None else [checkpoint], progress=progress)
    if verified is not None:
        known.remember(verified.rows)
    scales = dict.fromkeys(artifact.meta.scale for artifact in artifacts)
    image_sets = {scale: load_scorable_sets(data, sets, scale) for scale in scales}
    rows: list[WaterfallRow] = []
    for artifact in artifacts:
        for runtime in accuracy_runtimes(artifact.meta):
            with _ArtifactRunner(artifact, runtime, threads=threads, isolated=isolated) as runner:
                subject = _Subject(artifact=artifact, runner=runner, references=known, progress=progress)
                rows += [subject.measure(one, worst_tile=worst_tiles) for one in image_sets[artifact.meta.scale]]
    return WaterfallReport(rows=tuple(rows))


class _ArtifactRunner:
    """An artifact's runner, opened when it is first needed: remembered scores may make it needless."""

    def __init__(self, artifact: Artifact, runtime: str, *, threads: int, isolated: bool) -> None:
        self.artifact, self.runtime = artifact, runtime
        self._threads, self._isolated = threads, isolated
        self._stack = ExitStack()
        self._runner: Runner | None = None

    def get(self) -> Runner:
        if self._runner is None:
            runner = open_runner(self.artifact, threads=self._threads, isolated=self._isolated, runtime=self.runtime)
            self._stack.enter_context(closing_runner(runner))
            self._runner = runner
        return self._runner

    def __enter__(self) -> _ArtifactRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """One artifact in one runtime."""

    artifact: Artifact
    runner: _ArtifactRunner
    references: References
    progress: Progress

    def measure(self, image_set: ImageSet, *, worst_tile: bool) -> WaterfallRow:
        meta, path = self.artifact.meta, self.artifact.path
        whole = tiled = fake_quant = own = None
        float_reason = fake_quant_reason = artifact_reason = None
        try:
            whole = self.references.float_whole(meta, path, image_set)
            tiled = self.references.float_tiled(meta, path, image_set)
        except CheckpointError as error:
            float_reason = str(error)
        if get_scheme(meta.scheme).quantized:
            try:
                fake_quant = self.references.fake_quant_tiled(meta, image_set)
            except CheckpointError as error:
                fake_quant_reason = str(error)
        else:
            fake_quant_reason = FLOAT_SCHEME
        try:
            own = self._own_score(image_set)
        except EdgeSRError as error:
            artifact_reason = str(error)
        row = WaterfallRow(
            artifact_path=path,
            model=meta.model,
            scale=meta.scale,
            scheme=meta.scheme,
            target=meta.target,
            runtime=self.runner.runtime,
            tile=meta.tile,
            overlap=meta.overlap,
            set_name=image_set.name,
            float_whole=whole,
            float_tiled=tiled,
            fake_quant=fake_quant,
            artifact=own,
            float_reason=float_reason,
            fake_quant_reason=fake_quant_reason,
            artifact_reason=artifact_reason,
        )
        return self._with_worst_tile(row, image_set) if worst_tile else row

    def _own_score(self, image_set: ImageSet) -> SetScore:
        path, runtime = self.artifact.path, self.runner.runtime
        known = self.references.known_artifact_score(path, image_set.name, runtime)
        if known is not None:
            return known
        return score(self.runner.get(), image_set, path.name, self.artifact.meta.overlap, self.progress)

    def _with_worst_tile(self, row: WaterfallRow, image_set: ImageSet) -> WaterfallRow:
        worst = row.largest_drop
        if worst is None:
            return replace(row, worst_tile_reason=row.reasons[0] if row.reasons else "no score")
        meta = self.artifact.meta
        pair = next(pair for pair in image_set if pair.name == worst.name)
        try:
            reference = TorchRunner(self.references.float_network(meta), name="float", tile=meta.tile)
            found = find_worst_tile(pair, reference, self.runner.get(), overlap=meta.overlap, set_name=image_set.name)
        except EdgeSRError as error:
            return replace(row, worst_tile_reason=str(error))
        return replace(row, worst_tile=found)


def _drop(before: SetScore | None, after: SetScore | None) -> float | None:
    return None if before is None or after is None else mean_drop(before, after)


def _mean(found: SetScore | None) -> float | None:
    return None if found is None else found.psnr_y_db
