"""Ranges of activations without training: true minimum and maximum, then a search for tighter ones."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from edge_sr.errors import ConfigError
from quantization.fake_quant import Mode
from quantization.quantizer import QuantizedNetwork
from quantization.replay import Replay

SEARCH_FACTORS = (0.9, 0.81, 0.73, 0.66, 0.59, 0.53)
# Of intermediate values that the range search keeps in memory.
_MOST_KEPT_BYTES = 2 << 30

Progress = Callable[[int, int], None]


@torch.no_grad()
def calibrate(network: QuantizedNetwork, batches: Iterable[Tensor], *, progress: Progress | None = None) -> None:
    """Sets every grid's range to the smallest and largest value that any batch reaches, and switches to QUANTIZE.

    Ranges are merged, never averaged: averaging clips the whites of bright images, which costs tenths of a dB.

    Args:
        network: prepared network; its weights stay.
        batches: (B, 3, H, W) float in [0, 1].
        progress: called with (batches done, batches in all; 0 where that is unknown).
    Raises:
        ConfigError: there is no batch, or an activation is not finite.
    """
    network.eval()
    for _, grid in network.grids():
        grid.forget_range()
    network.set_mode(Mode.OBSERVE)
    count = 0
    try:
        for batch in batches:
            network(batch)
            count += 1
            if progress is not None:
                progress(count, operator.length_hint(batches))
    finally:
        network.set_mode(Mode.FLOAT)
    if count == 0:
        raise ConfigError("expected at least one batch to calibrate on, got none; pass image tiles")
    for _, grid in network.grids():
        grid.set_range(float(grid.low), float(grid.high))
    network.set_mode(Mode.QUANTIZE)


@torch.no_grad()
def search_ranges(
    network: QuantizedNetwork,
    float_network: nn.Module,
    batches: Sequence[Tensor],
    *,
    factors: Sequence[float] = SEARCH_FACTORS,
    rounds: int = 1,
    progress: Progress | None = None,
) -> float:
    """Tightens ranges where that brings the quantized output closer to the float one.

    Walks the grids from output to input; each is shrunk to the next factor of its calibrated scale for as long as the
    mean squared error of the network's output (clamped to [0, 1]) falls. A pass that is already worse is broken off.

    Args:
        network: calibrated network; its grids change.
        float_network: what to come close to.
        batches: (B, 3, H, W) float in [0, 1]; for every grid what lies behind it is computed once or twice for all
            of them, which is minutes for a large network: a few dozen small tiles are enough.
        factors: multiples of the calibrated scale to try in this order, each > 0.
        rounds: how many times to walk all grids.
        progress: called with (grids done, grids in all).
    Returns:
        The final mean squared error.
    Raises:
        ConfigError: no batch, or a factor that is not positive.
    """
    if not batches or any(factor <= 0 for factor in factors):
        raise ConfigError(f"expected batches and positive factors, got {len(batches)} batches and factors {factors}")
    network.eval().set_mode(Mode.QUANTIZE)
    float_network.eval()
    targets: list[Tensor] = [float_network(batch).clamp(0, 1) for batch in batches]
    free = [grid for _, grid in network.grids() if not grid.fixed]
    best = math.inf
    for turn in range(rounds):
        # Walking backwards leaves everything before the current grid as it was when the walk began.
        replay = Replay(network, batches, most_bytes=_MOST_KEPT_BYTES)
        best = _squared_error(replay, targets, 0, math.inf)
        changed = math.inf
        for done, grid in enumerate(reversed(free)):
            changed = min(changed, replay.first_node(grid))
            start = grid.scale.clone()
            kept = start
            for factor in factors:
                grid.scale.copy_(start * factor)
                error = _squared_error(replay, targets, int(changed), best)
                if error >= best:
                    break
                best, kept = error, start * factor
            grid.scale.copy_(kept)
            if progress is not None:
                progress(turn * len(free) + done + 1, rounds * len(free))
    return best / sum(target.numel() for target in targets)


def _squared_error(replay: Replay, targets: Sequence[Tensor], start: int, limit: float) -> float:
    """Sum of squared errors of the clamped output, computed from a node on; inf as soon as it passes the limit."""
    total = 0.0
    for index, target in enumerate(targets):
        total += float((replay.output(index, start).clamp(0, 1) - target).square().sum())
        if total > limit:
            return math.inf
    return total
