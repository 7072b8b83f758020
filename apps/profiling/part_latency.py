"""What each part of a network costs in time, in float and in int8, as LiteRT's operator profile tells.

The parts are those of :mod:`quantization.places`. Two things limit how far a file's operators can be given to them:

- a convolution is one operator, so ``conv weights`` and ``conv outputs`` share one row, ``convolutions``;
- int8 files name no modules, so only convolutions can be given to blocks and roles: the file has them in the network's
  order, which their shapes confirm. What else a block computes is in the rows of the operators alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apps.profiling.layer_results import OPERATOR_PROFILE, LayerProfile
from apps.results import plain
from edge_sr.errors import ConfigError
from quantization.fake_quant import QuantizedConv2d
from quantization.places import BLOCK, OP, ROLE, block_of, role_of
from quantization.quantizer import QuantizedNetwork

CONVOLUTIONS = "convolutions"
MOVES = "moves"
OUTSIDE = "outside of operators"

_CONVOLUTION_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# What the file and XNNPACK call operators (up to the first bracket) -> the part of the ``op`` view. XNNPACK's names
# stand where its operators could not be paired with the file's. A 1x1 convolution becomes its fully connected layer.
_PARTS: dict[str, str] = {
    **dict.fromkeys((*_CONVOLUTION_KINDS, "Convolution", "Fully Connected"), CONVOLUTIONS),
    **dict.fromkeys(("ADD", "Add"), "add"),
    **dict.fromkeys(("MUL", "Multiply"), "mul"),
    **dict.fromkeys(("LOGISTIC", "Sigmoid"), "sigmoid"),
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "Convert"), "requantize"),
    **dict.fromkeys(("BATCH_MATMUL", "Batch Matrix Multiply"), "matrix products"),
    **dict.fromkeys(("SOFTMAX", "Softmax"), "softmax"),
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "CONCATENATION", "PAD"), MOVES),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPLIT", "PACK", "Depth To Space", "Copy", "Concatenate"), MOVES),
    **dict.fromkeys(("Static Reshape", "Reshape", "Transpose", "Slice", "Constant Pad"), MOVES),
}


@dataclass(frozen=True, kw_only=True)
class PartLatency:
    """One part's time in one tile.

    Attributes:
        view: of :mod:`quantization.places`; of blocks and roles, the convolutions only.
        latency_ms: scheme -> milliseconds, medians of its operators added up; None where ``reason`` says why.
    """

    view: str
    name: str
    latency_ms: Mapping[str, float | None]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class LatencyByPart:
    """All parts of one network at one tile, the dearest in float first.

    Attributes:
        total_ms: scheme -> milliseconds of the whole, without profiler.
    """

    tile: tuple[int, int]
    threads: int
    total_ms: Mapping[str, float]
    rows: tuple[PartLatency, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def latency_by_part(network: QuantizedNetwork, profiles: Sequence[LayerProfile]) -> LatencyByPart:
    """Add up the operators of profiles by the parts of the network behind them.

    Args:
        network: the quantized network; it tells which convolutions there are, and in which order.
        profiles: operator profiles of one network's TFLite artifacts at one tile, one of each scheme.
    Raises:
        ConfigError: no profile, two of one scheme, another tile or number of threads, or one without operators.
    """
    if not profiles or len({profile.scheme for profile in profiles}) != len(profiles):
        raise ConfigError(
            f"expected profiles of different schemes, got {[profile.scheme for profile in profiles]}; give one of each"
        )
    if len({(profile.tile, profile.threads) for profile in profiles}) != 1:
        raise ConfigError("expected profiles at one tile and number of threads, got several; profile them alike")
    if any(profile.method != OPERATOR_PROFILE for profile in profiles):
        raise ConfigError("expected operator profiles, got cuts of a network; profile TFLite artifacts")
    by_scheme = {profile.scheme: _by_op(profile) for profile in profiles}
    rows = _rows(OP, by_scheme, {})
    convolutions = {profile.scheme: _convolutions_ms(network, profile) for profile in profiles}
    reasons = {scheme: found for scheme, found in convolutions.items() if isinstance(found, str)}
    for view, part_of in ((BLOCK, block_of), (ROLE, role_of)):
        sums: dict[str, dict[str, float]] = {scheme: {} for scheme in convolutions}
        for scheme, found in convolutions.items():
            for layer, cost in [] if isinstance(found, str) else found:
                name = part_of(layer)
                if name is not None:
                    sums[scheme][name] = sums[scheme].get(name, 0.0) + cost
        rows += _rows(view, sums, reasons)
    first = profiles[0]
    return LatencyByPart(
        tile=first.tile,
        threads=first.threads,
        total_ms={profile.scheme: profile.total_ms for profile in profiles},
        rows=tuple(rows),
        notes=tuple(f"{scheme}: {reason}" for scheme, reason in reasons.items()),
    )


def _rows(view: str, sums: Mapping[str, Mapping[str, float]], reasons: Mapping[str, str]) -> list[PartLatency]:
    names = dict.fromkeys(name for parts in sums.values() for name in parts)
    reason = "; ".join(f"{scheme}: {text}" for scheme, text in reasons.items()) or None
    rows = [
        PartLatency(
            view=view,
            name=name,
            # A part that a scheme's file has no operator of takes no time there; an unmapped one takes an unknown one.
            latency_ms={scheme: None if scheme in reasons else parts.get(name, 0.0) for scheme, parts in sums.items()},
            reason=reason,
        )
        for name in names
    ]
    return sorted(rows, key=lambda row: -max(cost or 0.0 for cost in row.latency_ms.values()))


def _by_op(profile: LayerProfile) -> dict[str, float]:
    costs: dict[str, list[float]] = {}
    for layer in profile.layers:
        kind = layer.kind.partition("(")[0].strip()
        costs.setdefault(_PARTS.get(kind, f"other: {kind}"), []).append(layer.median_ms)
    return {name: math.fsum(cost) for name, cost in costs.items()} | {OUTSIDE: profile.residual_ms}


def _convolutions_ms(network: QuantizedNetwork, profile: LayerProfile) -> list[tuple[str, float]] | str:
    """(layer, milliseconds) of each convolution; a sentence where the file's cannot be told from one another."""
    expected = _convolutions(network)
    found = [layer for layer in profile.layers if layer.kind in _CONVOLUTION_KINDS]
    if len(found) != len(expected):
        return f"{len(found)} named convolutions for the network's {len(expected)}, so none can be given to a block"
    for (layer, shape), cost in zip(expected, found, strict=True):
        if not cost.name.endswith(f" {shape}"):
            return f"{cost.name} where {layer} {shape} was expected, so no convolution can be given to a block"
    return [(layer, cost.median_ms) for (layer, _), cost in zip(expected, found, strict=True)]


def _convolutions(network: QuantizedNetwork) -> list[tuple[str, str]]:
    """(layer, shape as :func:`apps.profiling.layer_names.op_label` writes it) in the graph's order."""
    found = []
    for node in network.graph_module.graph.nodes:
        conv = network.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(conv, QuantizedConv2d):
            out, inner, height, width = conv.weight.shape
            channels = f"{out} depthwise" if conv.groups > 1 and inner == 1 else f"{inner}->{out}"
            found.append((str(node.target), f"{height}x{width} {channels}"))
    return found
