"""What upscales: an artifact in its runtime, or a float network in PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from apps.artifact_paths import one_artifact_at
from apps.verification.scoring import closing_runner
from apps.weights import resolve_weights
from converters.artifact import Artifact, load_artifact
from converters.runners import accuracy_runtimes
from converters.self_test import open_checked_runner
from edge_sr.errors import ConfigError
from edge_sr.runner import Runner, TorchRunner

# Tiles of the float network: large enough that little is computed twice, small enough for any memory.
_TORCH_TILE = 256


@dataclass(frozen=True, kw_only=True)
class Upscaler:
    """An open runner.

    Attributes:
        name: artifact or network, and what runs it, for people.
        runner: has a tile.
        overlap: LR pixels that neighbouring tiles share unless told otherwise.
        weights_license: what is recorded with the weights; empty where nothing is.
    """

    name: str
    runner: Runner
    overlap: int
    weights_license: str = ""


@dataclass(frozen=True, kw_only=True)
class UpscalerChoice:
    """What to open.

    Attributes:
        artifact: artifact folder, or what :mod:`apps.artifact_paths` takes for one; None for the float network.
        model, scale, checkpoint: the float network; default the bundled checkpoint. Only without ``artifact``.
        threads: CPU threads; None for all physical cores.
        isolated: run the artifact in a child process, because runtimes may abort on a bad file.
    """

    artifact: Path | None = None
    model: str = "idsa_net_mobile"
    scale: int = 4
    checkpoint: Path | None = None
    threads: int | None = None
    isolated: bool = True

    def __post_init__(self) -> None:
        if self.artifact is not None and self.checkpoint is not None:
            raise ConfigError("expected an artifact or a checkpoint, got both, leave one of them out")

    def loaded(self) -> Artifact | None:
        """The artifact, its hashes checked; None for the float network.

        Raises:
            ArtifactError: missing, damaged or altered.
            ConfigError: the path means several.
        """
        if self.artifact is None:
            return None
        return load_artifact(one_artifact_at(self.artifact))


@contextmanager
def opened(choice: UpscalerChoice) -> Iterator[Upscaler]:
    """Open what was chosen, and close it.

    Core ML packages run in this project's evaluator where there is no macOS, as verification does.

    Raises:
        ArtifactError, CheckpointError, MissingToolError, RunnerError: nothing to upscale with.
    """
    threads = choice.threads or physical_cores()
    artifact = choice.loaded()
    if artifact is not None:
        runtime = accuracy_runtimes(artifact.meta)[0]
        runner = open_checked_runner(artifact, threads=threads, isolated=choice.isolated, runtime=runtime)
        with closing_runner(runner):
            name = f"{artifact.path.resolve().name} ({runner.name})"
            meta = artifact.meta
            yield Upscaler(name=name, runner=runner, overlap=meta.overlap, weights_license=meta.weights_license)
        return
    weights = resolve_weights(choice.model, choice.scale, "fp32", checkpoint=choice.checkpoint)
    deployed = weights.network
    multiple, context = int(deployed.tile_multiple), int(deployed.context)  # type: ignore[arg-type]
    side = _TORCH_TILE // multiple * multiple
    torch.set_num_threads(threads)
    torch_runner = TorchRunner(deployed, name=f"PyTorch {torch.__version__}", tile=(side, side))
    # Tiles are cut in the middle of what they share, so that exact ones share twice what the network reaches.
    name = f"{choice.model} x{choice.scale} float ({torch_runner.name})"
    overlap = min(2 * context, side // 2)
    yield Upscaler(name=name, runner=torch_runner, overlap=overlap, weights_license=weights.license)


def physical_cores() -> int:
    """Physical cores that this process may use; hyperthreads of one core only get in each other's way."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or usable, usable)
