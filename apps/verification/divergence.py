"""Which layer diverges first: a runtime's values layer by layer beside the network's.

The network is lowered once more with its inner values as outputs and run on one tile. Two differences are taken at each
layer. The *accumulated* one is that of the two values. The *own* one feeds the PyTorch layer with the very values that
the runtime had before it (teacher forcing): what is left is this layer's doing alone. A layer diverges where its own
difference is above the limit; roundings that merely add up along the network name no layer, and the report says so.

Values on an int8 grid are compared in its steps (LSB). Engines may round a half the other way, so one step is allowed.
Float values are compared in shares of the largest magnitude of the value in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from apps.progress import Progress, quiet
from apps.results import plain
from converters.tapped import run_tapped
from edge_sr.errors import RunnerError
from edge_sr.runner import to_float, to_uint8
from quantization.taps import LayerTaps, Tap

Image = NDArray[np.uint8]

# One LSB, and half of one for the float32 in which int8 values are compared.
LIMIT_LSB = 1.5
# Of the largest magnitude: float32 sums in another order reach 1e-5; one rounding to float16 is 5e-4.
LIMITS_RELATIVE = {"tflite": 1e-3, "executorch": 1e-3, "coreml": 1e-2, "coreml_evaluator": 1e-2}
MAX_TAPS = 64
MAX_BUILDS = 4


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """One layer's value in the runtime against PyTorch.

    Attributes:
        node, layer, op: see :class:`quantization.taps.Tap`.
        unit: "LSB" for a value on an int8 grid, else "of max".
        accumulated_max, accumulated_mean: against the network run from the picture.
        own_max, own_mean: against the PyTorch layer run from the runtime's own values before it.
        inputs: nodes that it was computed from.
    """

    node: str
    layer: str
    op: str
    unit: str
    accumulated_max: float
    accumulated_mean: float
    own_max: float
    own_mean: float
    inputs: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.layer or 'network'} ({self.op})"


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """What a search found.

    Attributes:
        participant, tile_label: whose result, on which tile.
        runtime: what ran the network with taps.
        layers: every value compared, in the order of the network.
        first: the first layer whose own difference is above the limit; None where roundings only added up.
        build_levels: largest difference between the artifact's own picture and that of the network with taps, in
            levels; None where there was no picture to compare, or none among the taps. Where it is not 0, the taps do
            not speak for the artifact's file.
        lowerings: how many times the network was lowered.
        complete: no value between the taps was left out around ``first``.
    """

    participant: str
    tile_label: str
    runtime: str
    layers: tuple[LayerDifference, ...]
    first: LayerDifference | None
    build_levels: int | None
    lowerings: int
    complete: bool
    limit_lsb: float
    limit_relative: float

    @property
    def inputs(self) -> tuple[LayerDifference, ...]:
        """The values just before ``first``."""
        wanted = () if self.first is None else self.first.inputs
        return tuple(layer for layer in self.layers if layer.node in wanted)

    @property
    def largest(self) -> LayerDifference:
        """The layer whose accumulated difference is largest among int8 values (among all where none is int8)."""
        int8 = [layer for layer in self.layers if layer.unit == "LSB"]
        return max(int8 or self.layers, key=lambda layer: layer.accumulated_max)

    def sentence(self) -> str:
        """One line for a person."""
        who = f"{self.participant} on {self.tile_label}"
        if self.first is None:
            last = self.largest
            said = (
                f"{who}: no single layer diverges (each within {self.limit_lsb:g} LSB of its own inputs' result); "
                f"roundings add up to {_amount(last.accumulated_max, last.unit)} at {last.label}"
            )
        else:
            first = self.first
            before = ", ".join(f"{layer.label} {_amount(layer.accumulated_max, layer.unit)}" for layer in self.inputs)
            said = (
                f"{who}: first diverging layer is {first.label}, {_amount(first.own_max, first.unit)} at most and "
                f"{_amount(first.own_mean, first.unit)} on average off by itself; before it: {before or 'the picture'}"
            )
            said += "" if self.complete else " (not narrowed down further)"
        if self.build_levels:
            said += f"; the artifact itself differs from this lowering by up to {self.build_levels} levels"
        return said

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = plain({**vars(self), "layers": [vars(layer) for layer in self.layers]})
        first = None if self.first is None else plain(vars(self.first))
        return {**content, "first": first, "sentence": self.sentence()}


def find_divergence(
    network: nn.Module,
    *,
    runtime: str,
    scheme: str,
    lr: Image,
    lowered: nn.Module | None = None,
    artifact_output: Image | None = None,
    participant: str = "",
    tile_label: str = "the tile",
    threads: int = 1,
    max_taps: int = MAX_TAPS,
    max_lowerings: int = MAX_BUILDS,
    limit_lsb: float = LIMIT_LSB,
    progress: Progress = quiet,
) -> Divergence:
    """Lower a network with taps, run it on a tile, and name the first layer that leaves PyTorch.

    A network of more than ``max_taps`` values gets taps spread evenly first; around the first that is off, it is
    lowered again with taps closer together.

    Args:
        network: what is right: a deployed float network, or a ``QuantizedNetwork``.
        runtime: "tflite", "executorch", "coreml_evaluator", or "qdq" for the quantize/dequantize graph in PyTorch.
        scheme: of the artifact.
        lr: (h, w, 3) uint8, the artifact's tile size.
        lowered: lower this network instead, one of the same structure; default ``network``.
        artifact_output: the artifact's own picture of ``lr``, to see that the taps speak for it.
        participant, tile_label: for the report.
        threads: CPU threads of the runtime.
        max_taps: values compared per lowering.
        max_lowerings: how often the network may be lowered.
        limit_lsb: own difference from which an int8 layer diverges.
        progress: called after each lowering.
    Raises:
        ConfigError, MissingToolError, ConversionError, RunnerError: see :func:`converters.tapped.run_tapped`.
    """
    x = to_float(lr)
    taps = LayerTaps(network, x)
    source = taps if lowered is None else LayerTaps(lowered, x)
    if source.taps.keys() != taps.taps.keys():
        raise RunnerError("expected two networks of one structure to compare, got others; prepare both alike")
    limit_relative = LIMITS_RELATIVE.get(runtime, min(LIMITS_RELATIVE.values()))
    values: dict[str, Tensor] = {}
    wanted: Sequence[str] = _spread(taps, max_taps)
    lowerings, complete = 0, True
    while True:
        expected = taps.reference(x, wanted)
        shapes = [tuple(expected[name].shape) for name in wanted]
        got = run_tapped(source.build(wanted), lr, shapes, runtime=runtime, scheme=scheme, threads=threads)
        values.update(zip(wanted, got, strict=True))
        lowerings += 1
        progress(f"taps, {participant or runtime}", lowerings, max_lowerings)
        layers = _compare(taps, taps.reference(x, list(values)), values, taps.replay(x, values))
        first = next((layer for layer in layers if _diverges(layer, limit_lsb, limit_relative)), None)
        if first is None:
            break
        between = taps.segment(first.node, list(values))[1]
        if not between:
            break
        if lowerings >= max_lowerings:
            complete = False
            break
        wanted = [*first.inputs, *_thin(between, max_taps), first.node]
    return Divergence(
        participant=participant or runtime,
        tile_label=tile_label,
        runtime=runtime,
        layers=layers,
        first=first,
        build_levels=_build_levels(values.get(taps.output), artifact_output),
        lowerings=lowerings,
        complete=complete,
        limit_lsb=limit_lsb,
        limit_relative=limit_relative,
    )


def _spread(taps: LayerTaps, most: int) -> list[str]:
    """All taps, or ``most`` of those that compute (the others only move values), evenly, the output among them."""
    names = list(taps.taps)
    if len(names) <= most:
        return names
    computing = [name for name in names if not taps.taps[name].moves]
    chosen = {*_thin(computing, most - 1), taps.output}
    return [name for name in names if name in chosen]


def _thin(names: Sequence[str], most: int) -> list[str]:
    if len(names) <= most:
        return list(names)
    return [names[(index + 1) * len(names) // most - 1] for index in range(most)]


def _compare(
    taps: LayerTaps, expected: Mapping[str, Tensor], got: Mapping[str, Tensor], replayed: Mapping[str, Tensor]
) -> tuple[LayerDifference, ...]:
    layers = []
    for name in (name for name in taps.taps if name in got):
        tap = taps.taps[name]
        size = _unit_size(tap, expected[name])
        accumulated = (got[name] - expected[name]).abs() / size
        own = (got[name] - replayed[name]).abs() / size
        layers.append(
            LayerDifference(
                node=name,
                layer=tap.layer,
                op=tap.op,
                unit="of max" if tap.qscale is None else "LSB",
                accumulated_max=float(accumulated.max()),
                accumulated_mean=float(accumulated.mean()),
                own_max=float(own.max()),
                own_mean=float(own.mean()),
                inputs=taps.segment(name, list(got))[0],
            )
        )
    return tuple(layers)


def _unit_size(tap: Tap, expected: Tensor) -> float:
    return tap.qscale if tap.qscale is not None else max(float(expected.abs().max()), 1e-12)


def _diverges(layer: LayerDifference, limit_lsb: float, limit_relative: float) -> bool:
    # "not <=", so that a NaN diverges.
    return not layer.own_max <= (limit_lsb if layer.unit == "LSB" else limit_relative)


def _build_levels(output: Tensor | None, picture: Image | None) -> int | None:
    if output is None or picture is None:
        return None
    return int(np.abs(to_uint8(output).astype(np.int16) - picture.astype(np.int16)).max())


def _amount(value: float, unit: str) -> str:
    return f"{value:.1f} LSB" if unit == "LSB" else f"{value:.2g} {unit}"
