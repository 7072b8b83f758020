"""The PyTorch networks behind artifacts, and what they score, each loaded and run once for all who ask.

An artifact names the checkpoint (and the calibration pixels) it was made from by SHA-256. A reference is that very
network or none: a number next to an artifact's is never another network's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from apps.progress import Progress, quiet
from apps.verification.rows import VerifyRow
from apps.verification.scoring import score
from apps.weights import resolve_weights
from converters.artifact import ArtifactMeta
from edge_sr.checkpoints import bundled_checkpoint, load_tensors, sha256_file
from edge_sr.datasets import ImageSet
from edge_sr.errors import CheckpointError
from edge_sr.evaluation import SetScore
from edge_sr.runner import TorchRunner
from edge_sr.sizes import format_size
from quantization.schemes import get_scheme

# What a quantized checkpoint says of the float network that it was trained from.
_FLOAT_PARENT = "float_checkpoint_sha256"
# Checkpoint, calibration, scheme ("float" for every float scheme).
_Subject = tuple[str, str | None, str]
_ArtifactKey = tuple[Path, str, str]


class References:
    """Networks behind artifacts, and their scores. Threads may share one: what one of them loads or scores, others wait
    for.

    Args:
        checkpoints: files to look among, float and quantized ones in any order; those bundled are always looked at.
        calibration: folder of the images that post-training quantization calibrated on; default the sample photos.
        progress: called after each image that is scored.
    """

    def __init__(
        self, checkpoints: Sequence[Path] = (), *, calibration: Path | None = None, progress: Progress = quiet
    ) -> None:
        self._given = tuple(Path(path) for path in checkpoints)
        self._calibration = calibration
        self._progress = progress
        self._lock = threading.RLock()
        self._hashes: dict[Path, str] = {}
        self._networks: dict[_Subject, nn.Module] = {}
        self._scores: dict[tuple[object, ...], SetScore] = {}
        self._known_whole: dict[tuple[Path, str], SetScore] = {}
        self._known_tiled: dict[tuple[Path, str], SetScore] = {}
        self._known_artifact: dict[_ArtifactKey, SetScore] = {}

    # ------------------------------------------------------------------------------------------------------ networks
    def network(self, meta: ArtifactMeta) -> nn.Module:
        """The network that an artifact was lowered from: deployed float, or a calibrated ``QuantizedNetwork``.

        Raises:
            CheckpointError: its checkpoint is not among those known here, or its calibration was on other pixels.
        """
        if not get_scheme(meta.scheme).quantized:
            return self.float_network(meta)
        key = (meta.checkpoint_sha256, meta.calibration_sha256, meta.scheme)
        with self._lock:
            if key not in self._networks:
                self._networks[key] = self._load_quantized(meta)
            return self._networks[key]

    def float_network(self, meta: ArtifactMeta) -> nn.Module:
        """The deployed float network that an artifact descends from.

        Raises:
            CheckpointError: that checkpoint is not among those known here.
        """
        with self._lock:
            sha256 = self._float_sha256(meta)
            key = (sha256, None, "float")
            if key not in self._networks:
                path = self._find(meta, sha256, what="float checkpoint")
                self._networks[key] = resolve_weights(meta.model, meta.scale, "fp32", checkpoint=path).network
            return self._networks[key]

    def _load_quantized(self, meta: ArtifactMeta) -> nn.Module:
        weights = resolve_weights(
            meta.model,
            meta.scale,
            meta.scheme,
            checkpoint=self._find(meta, meta.checkpoint_sha256, what="checkpoint"),
            calibration=self._calibration,
            progress=self._progress,
        )
        if weights.calibration_sha256 != meta.calibration_sha256:
            raise CheckpointError(
                f"expected the calibration images of {meta.name} ({_short(meta.calibration_sha256)}), got others "
                f"({_short(weights.calibration_sha256)}): name the folder they were in, or export again"
            )
        return weights.network

    def _float_sha256(self, meta: ArtifactMeta) -> str:
        if not get_scheme(meta.scheme).quantized:
            return meta.checkpoint_sha256
        stored = load_tensors(self._find(meta, meta.checkpoint_sha256, what="checkpoint"), expect_model=meta.model)
        if stored.kind == "float":  # quantized after training
            return meta.checkpoint_sha256
        parent = stored.metadata.get(_FLOAT_PARENT)
        if not isinstance(parent, str):
            raise CheckpointError(
                f"expected {_FLOAT_PARENT} in the quantized checkpoint of {meta.name}, got none; train it again"
            )
        return parent

    def _find(self, meta: ArtifactMeta, sha256: str, *, what: str) -> Path:
        candidates = list(self._given)
        for scheme in dict.fromkeys(("fp32", meta.scheme)):
            with contextlib.suppress(CheckpointError):  # not every scheme has weights of its own
                candidates.append(bundled_checkpoint(meta.model, meta.scale, scheme))
        for path in candidates:
            if self._sha256(path) == sha256:
                return path
        looked_at = ", ".join(path.name for path in candidates) or "none"
        raise CheckpointError(
            f"expected the {what} behind {meta.name} ({_short(sha256)}), got {looked_at}; name it with --checkpoint"
        )

    def _sha256(self, path: Path) -> str:
        if path not in self._hashes:
            if not path.is_file():
                raise CheckpointError(f"expected a checkpoint at {path}, got no file; check the path")
            self._hashes[path] = sha256_file(path)
        return self._hashes[path]

    # -------------------------------------------------------------------------------------------------------- scores
    def remember(self, rows: Sequence[VerifyRow]) -> None:
        """Take scores that verification has computed, so that nothing is scored twice in one command.

        The caller promises that the sets of that name are the same images.
        """
        for row in rows:
            place = (row.artifact_path, row.set_name)
            self._known_whole[place], self._known_tiled[place] = row.float_whole, row.float_tiled
            if row.artifact is not None:
                self._known_artifact[(*place, row.runtime)] = row.artifact

    def known_artifact_score(self, path: Path, set_name: str, runtime: str) -> SetScore | None:
        """The artifact's own score as it was remembered, or None."""
        return self._known_artifact.get((path, set_name, runtime))

    def float_whole(self, meta: ArtifactMeta, path: Path, image_set: ImageSet) -> SetScore:
        """The float network on whole images."""
        known = self._known_whole.get((path, image_set.name))
        return known or self._score(meta, image_set, "float", tiled=False)

    def float_tiled(self, meta: ArtifactMeta, path: Path, image_set: ImageSet) -> SetScore:
        """The float network through the artifact's tiles and overlap."""
        known = self._known_tiled.get((path, image_set.name))
        return known or self._score(meta, image_set, "float", tiled=True)

    def fake_quant_tiled(self, meta: ArtifactMeta, image_set: ImageSet) -> SetScore:
        """The quantized network in PyTorch, through the artifact's tiles and overlap."""
        return self._score(meta, image_set, "fake-quant", tiled=True)

    def _score(self, meta: ArtifactMeta, image_set: ImageSet, kind: str, *, tiled: bool) -> SetScore:
        network = self.float_network(meta) if kind == "float" else self.network(meta)
        cut = (meta.tile, meta.overlap) if tiled else (None, 0)
        key = (id(network), image_set, cut)
        with self._lock:
            if key not in self._scores:
                tile, overlap = cut
                how = "whole images" if tile is None else f"tiles {format_size(tile)}"
                runner = TorchRunner(network, name=kind, tile=tile)
                self._scores[key] = score(runner, image_set, f"{kind} network, {how}", overlap, self._progress)
            return self._scores[key]


def _short(sha256: str | None) -> str:
    return "none" if sha256 is None else f"{sha256[:12]}..."
