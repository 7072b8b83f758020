"""A network cut after one convolution, after two, ... after all: what each cut costs in ExecuTorch.

Each cut computes everything up to the next convolution and gives out every value that the rest would read, so that
nothing before the cut can be left out. It is lowered as the artifact was. All cuts and the artifact's own file are held
by one child process that runs them in turns, so that what slows the machine slows all of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from apps.profiling.host_child import WARMUP_RUNS
from apps.progress import Progress, quiet
from apps.verification.references import References
from converters.artifact import Artifact
from converters.isolation import run_in_child
from edge_sr.runner import to_float
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import ACTIVATIONS
from quantization.taps import LayerTaps, Tap

# Lowering one takes seconds; layers in between are put together.
MAX_CUTS = 24
# The sign test's 95% interval needs six.
MIN_ROUNDS = 6
_STARTUP_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A piece of the network: from behind the cut before to this one.

    Attributes:
        name: its convolution, or its first and its last.
        kind: what it does, in order: ``conv + relu, add``.
        macs: of its convolutions.
        outputs: nodes whose values the network up to here gives out.
    """

    name: str
    kind: str
    macs: int
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TimedCuts:
    """``samples_ms[cut][round]`` and ``whole_ms[round]`` are the runs of the cuts and of the artifact's own file."""

    cuts: tuple[Cut, ...]
    samples_ms: tuple[tuple[tuple[float, ...], ...], ...]
    whole_ms: tuple[tuple[float, ...], ...]


def profile_prefixes(
    artifact: Artifact,
    *,
    checkpoints: Sequence[Path] = (),
    calibration: Path | None = None,
    threads: int,
    runs: int,
    max_seconds: float,
    progress: Progress = quiet,
) -> TimedCuts:
    """Cut the network behind an ExecuTorch artifact, lower the cuts, and time them in a child process.

    Raises:
        EdgeSRError: as :func:`apps.profiling.layers.profile_layers`.
    """
    network = References(checkpoints, calibration=calibration, progress=progress).network(artifact.meta)
    taps = LayerTaps(network, torch.zeros(1, 3, *artifact.meta.tile))
    cuts = find_cuts(taps, network, artifact.meta.tile)
    with tempfile.TemporaryDirectory(prefix="edge-sr-cuts-") as folder:
        files = []
        for index, cut in enumerate(cuts):
            progress(f"lower {artifact.path.name} in cuts", index, len(cuts), cut.name)
            path = Path(folder) / f"cut_{index}.pte"
            path.write_bytes(_lower(taps.build(cut.outputs), artifact.meta.tile))
            files.append(str(path))
        progress(f"lower {artifact.path.name} in cuts", len(cuts), len(cuts))
        arguments = {
            "files": [*files, str(artifact.main_path.resolve())],
            "tile": list(artifact.meta.tile),
            "threads": threads,
            "runs": runs,
            "max_seconds": max_seconds,
        }
        limit = _STARTUP_SECONDS + 10.0 * max_seconds
        times: list[list[list[float]]] = run_in_child(
            "apps.profiling.prefixes:time_programs", arguments, timeout_s=limit
        )
    samples = tuple(tuple(tuple(samples) for samples in rounds) for rounds in times)
    return TimedCuts(cuts=cuts, samples_ms=samples[:-1], whole_ms=samples[-1])


def find_cuts(
    taps: LayerTaps, network: nn.Module, tile: tuple[int, int], *, max_cuts: int = MAX_CUTS
) -> tuple[Cut, ...]:
    """Where to cut: behind each convolution and what follows it, or behind several where there are more."""
    order = list(taps.taps)
    convolutions = [index for index, name in enumerate(order) if _is_conv(taps.taps[name])]
    # What comes before the first convolution belongs to it; a piece ends where the next one starts.
    starts = [0, *convolutions[1:]]
    step = -(-len(starts) // max_cuts)
    starts = starts[::step]
    ends = [*starts[1:], len(order)]
    macs = _conv_macs(taps, network, tile)
    read = {name: taps.segment(name, order)[0] for name in order}
    cuts = []
    for start, end in zip(starts, ends, strict=True):
        pieces = [taps.taps[name] for name in order[start:end]]
        later = {source for name in order[end:] for source in read[name]}
        outputs = tuple(name for name in order[:end] if name in later) or (taps.output,)
        named = [tap.layer for tap in pieces if _is_conv(tap)]
        cuts.append(
            Cut(
                name=" … ".join(dict.fromkeys((named[0], named[-1]))) if named else "network",
                kind=", ".join(dict.fromkeys(tap.op for tap in pieces)),
                macs=sum(macs.get(tap.node, 0) for tap in pieces),
                outputs=outputs,
            )
        )
    return tuple(cuts)


def time_programs(
    *, files: Sequence[str], tile: Sequence[int], threads: int, runs: int, max_seconds: float
) -> list[list[list[float]]]:
    """Run ExecuTorch programs in turns in this process.

    Args:
        files: programs, all of the same input.
        tile: (height, width) of it.
        threads: CPU threads.
        runs: timed runs of each program, spread over the rounds.
        max_seconds: start no further round after this long, but make ``MIN_ROUNDS``.
    Returns:
        milliseconds as [program][round][run].
    """
    from converters.runners.executorch_runner import _Runtime

    runtime = _Runtime.get()
    runtime.resize(threads)
    x = to_float(np.random.default_rng(0).integers(0, 256, (*tile, 3), dtype=np.uint8))
    contents = [Path(file).read_bytes() for file in files]
    programs = [runtime.load_program(content) for content in contents]
    methods = [program.load_method("forward") for program in programs]
    for method in methods:
        for _ in range(WARMUP_RUNS):
            method([x])
    each = max(-(-runs // (2 * MIN_ROUNDS)), 1)
    times: list[list[list[float]]] = [[] for _ in methods]
    start = time.perf_counter()
    while len(times[0]) < MIN_ROUNDS or (len(times[0]) * each < runs and time.perf_counter() - start <= max_seconds):
        for method, rounds in zip(methods, times, strict=True):
            rounds.append(_timed_runs(method, x, each))
    return times


def _timed_runs(method: Any, x: torch.Tensor, count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        method([x])
        found.append((time.perf_counter() - start) * 1000.0)
    return found


def _lower(network: nn.Module, tile: tuple[int, int]) -> bytes:
    from converters.to_executorch import lower_network

    program, _ = lower_network(network, (1, 3, *tile), "a cut of the network")
    return program


def _is_conv(tap: Tap) -> bool:
    return tap.op in ("conv", *(f"conv + {kind.value}" for kind in ACTIVATIONS))


def _conv_macs(taps: LayerTaps, network: nn.Module, tile: tuple[int, int]) -> dict[str, int]:
    """Node -> multiply-accumulates: every value made takes one weight of each input channel and each kernel place."""
    inner = network.graph_module if isinstance(network, QuantizedNetwork) else network
    nodes = [name for name, tap in taps.taps.items() if _is_conv(tap)]
    values = taps.reference(torch.zeros(1, 3, *tile), nodes)
    weights: dict[str, Any] = {name: inner.get_submodule(taps.taps[name].layer).weight for name in nodes}
    return {name: values[name].numel() * weights[name][0].numel() for name in nodes}
