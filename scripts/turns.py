"""Time artifacts of several networks in turns, so that what else a machine does falls on all of them alike.

Latencies of a shared or warm machine drift; ratios within one round do not. :func:`export_candidate` makes the
artifacts (made once, used again while network and scheme are the same), :func:`time_rounds` times each of them once in
every round, in a process of its own, and :func:`ratios` sets them against one of them, round by round.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from apps.profiling.host import profile_artifacts
from apps.progress import Progress
from apps.results import Timing
from apps.weights import calibration_batches
from converters.artifact import Artifact, artifact_name
from converters.export import export_artifact
from edge_sr.errors import ConfigError
from quantization import calibrate, prepare
from quantization.schemes import get_scheme
from scripts.kept import kept_artifact
from scripts.measure import parameters

# LR pixels of a 1280x720 picture at x4, the size that papers count multiply-accumulates for.
HD_OUTPUT = (720, 1280)
_COUNTING_TILE = (32, 32)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that takes part.

    Attributes:
        name: for folders and rows.
        deployed: its deployment form, in eval mode.
        weights: where its numbers come from, such as ``untrained, seed 0``.
    """

    name: str
    deployed: nn.Module
    weights: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it computes: its traced code, shapes and weights."""
        digest = hashlib.sha256(fx.symbolic_trace(self.deployed).code.encode())
        for name, tensor in self.deployed.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Name, where the weights come from, their hash, parameters and multiply-accumulates as deployed."""
        return {
            "name": self.name,
            "weights": self.weights,
            "deployed_sha256": self.fingerprint,
            "deployed_parameters": parameters(self.deployed),
            "deployed_macs_hd": hd_macs(self.deployed),
        }


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One artifact's latency over another's: the median over the rounds, and the smallest and largest round."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"median": self.median, "low": self.low, "high": self.high, "rounds": list(self.rounds)}


def hd_macs(network: nn.Module) -> int:
    """Multiply-accumulates of a 1280x720 output: convolutions and matrix products, counted by PyTorch.

    A network whose work grows with the number of pixels is counted on a small tile.

    Args:
        network: with ``scale``; (1, 3, H, W) -> (1, 3, scale * H, scale * W).
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, *_COUNTING_TILE))
    outputs = _COUNTING_TILE[0] * _COUNTING_TILE[1] * int(network.scale) ** 2  # type: ignore[arg-type]
    return round(counter.get_total_flops() / 2 * HD_OUTPUT[0] * HD_OUTPUT[1] / outputs)


def export_candidate(
    candidate: Candidate, scheme: str, target: str, *, tile: tuple[int, int], work: Path, calibration: Sequence[Tensor]
) -> Artifact:
    """The artifact of a candidate, exported unless ``work`` holds it already.

    Quantized schemes get ranges from ``calibration`` and no search: how fast integers are does not depend on them.

    Raises:
        MissingToolError, ConversionError: the toolchain is missing or refused.
    """
    network = candidate.deployed
    folder = work / candidate.name
    fingerprint = candidate.fingerprint
    name = artifact_name(
        model=str(network.model_name),
        scale=int(network.scale),  # type: ignore[arg-type]
        scheme=scheme,
        target=target,
        tile=tile,
    )
    kept = kept_artifact(folder, name, weights_sha256=fingerprint)
    if kept is not None:
        return kept
    print(f"exporting {candidate.name} {scheme} for {target}", file=sys.stderr, flush=True)
    if get_scheme(scheme).quantized:
        network = prepare(network, scheme)
        calibrate(network, calibration)
    return export_artifact(
        network=network,
        scheme=scheme,
        target=target,
        tile=tile,
        out_dir=folder,
        overlap=min(16, min(tile) // 2),
        checkpoint_sha256=fingerprint,
        overwrite=True,
    )


def calibration_tiles(scale: int, multiple: int) -> list[Tensor]:
    """One crop (1, 3, side, side) of each sample photo: enough for ranges that only have to be sane."""
    return [batch[:1] for batch in calibration_batches(None, scale=scale, multiple=multiple)]


def time_rounds(
    artifacts: Mapping[str, Artifact], *, rounds: int, runs: int, threads: int, progress: Progress
) -> dict[str, list[Timing]]:
    """Time every artifact once per round, each in a process of its own.

    The order turns round every second time, so that no artifact always follows the same one.

    Args:
        artifacts: by a name of the caller's.
        rounds: turns of all of them.
        runs: timed runs per turn, after warm-up; at least ten are made.
        threads: CPU threads of the runtime.
    Returns:
        for each name its timings, one per round.
    Raises:
        ConfigError: a number is out of range, or an artifact could not be timed here.
    """
    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}; use --rounds 7")
    taken: dict[str, list[Timing]] = {name: [] for name in artifacts}
    for number in range(rounds):
        names = list(artifacts)[:: 1 if number % 2 == 0 else -1]
        for done, name in enumerate(names):
            progress("timing", number * len(names) + done, rounds * len(names))
            report = profile_artifacts([artifacts[name].path], threads=(threads,), runs=runs, until_settled=False)
            timing = report.rows[0].timing
            if timing is None:
                raise ConfigError(f"expected a latency of {name}, got none: {report.rows[0].reason}")
            taken[name].append(timing)
    progress("timing", rounds * len(artifacts), rounds * len(artifacts))
    return taken


def ratios(own: Sequence[Timing], base: Sequence[Timing]) -> Ratio:
    """Medians of one artifact's rounds over those of another in the same rounds.

    Raises:
        ConfigError: not the same number of rounds, or none.
    """
    if not own or len(own) != len(base):
        raise ConfigError(f"expected as many rounds of both, got {len(own)} and {len(base)}; time them together")
    values = [mine.median_ms / theirs.median_ms for mine, theirs in zip(own, base, strict=True)]
    return Ratio(median=statistics.median(values), low=min(values), high=max(values), rounds=tuple(values))


def summary(artifact: Artifact, timings: Sequence[Timing]) -> dict[str, Any]:
    """What a row tells of one artifact: latency, size, delegates, operators outside, notes of the toolchain."""
    medians = [timing.median_ms for timing in timings]
    return {
        "target": artifact.meta.target,
        "scheme": artifact.meta.scheme,
        "size_bytes": artifact.meta.size_bytes,
        "delegates": artifact.meta.delegation.delegates,
        "ops_outside": dict(artifact.meta.delegation.ops_outside),
        "notes": list(artifact.meta.notes),
        "median_ms": statistics.median(medians),
        "round_medians_ms": medians,
        "samples": sum(len(timing.samples_ms) for timing in timings),
    }
