"""What timing the layers of an artifact yields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.profiling.certainty import median_interval
from apps.results import plain
from edge_sr.errors import ConfigError

OPERATOR_PROFILE = "operator profile"
PREFIXES = "prefixes"


def quantile(samples: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the samples lie, interpolated between two of them."""
    return float(np.quantile(np.asarray(samples, dtype=np.float64), share))


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One layer.

    Attributes:
        name: where it is in the network, as far as the file or the network tells.
        kind: the file's operator (``CONV_2D``) or what the network calls it (``conv + relu``).
        kernel: the runtime's name of what ran, where it tells one.
        macs: multiply-accumulates of one run; None where they cannot be assigned to it.
        samples_ms: one per run (operator profile) or per round (prefixes: a difference of medians, may be negative).
    """

    name: str
    kind: str
    kernel: str
    macs: int | None
    samples_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ConfigError("expected at least one timed run of each layer, got none, raise the number of runs")

    @property
    def median_ms(self) -> float:
        return quantile(self.samples_ms, 0.5)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """The first and the third quartile."""
        return quantile(self.samples_ms, 0.25), quantile(self.samples_ms, 0.75)

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """95% confidence interval of the median; None where the samples are too few for one (fewer than 6)."""
        return median_interval(self.samples_ms)

    @property
    def gmacs_per_second(self) -> float | None:
        """Billions of multiply-accumulates a second; None without any, or where the time may as well be zero."""
        interval = self.interval_ms
        if not self.macs or self.median_ms <= 0 or (interval is not None and interval[0] <= 0):
            return None
        return self.macs / (self.median_ms * 1e6)


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """An artifact's layers in execution order.

    Attributes:
        method: :data:`OPERATOR_PROFILE` or :data:`PREFIXES`.
        total_samples_ms: the whole artifact without any profiler, in turns with the layers. Kernels only: turning
            pixels into the file's input and its output into pixels is not in it, as it is in ``edge-sr profile``.
        macs: of the whole file.
        notes: what limits these numbers.
    """

    artifact_path: Path
    model: str
    scheme: str
    target: str
    tile: tuple[int, int]
    threads: int
    method: str
    layers: tuple[LayerCost, ...]
    total_samples_ms: tuple[float, ...]
    macs: int
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.artifact_path.name

    @property
    def total_ms(self) -> float:
        """Median of the whole."""
        return quantile(self.total_samples_ms, 0.5)

    @property
    def residual_ms(self) -> float:
        """What the medians of the layers leave of the whole's; negative where they add up to more."""
        return self.total_ms - math.fsum(layer.median_ms for layer in self.layers)

    @property
    def residual_percent(self) -> float:
        return 100.0 * self.residual_ms / self.total_ms

    def share_percent(self, layer: LayerCost) -> float:
        """A layer's part of the whole."""
        return 100.0 * layer.median_ms / self.total_ms

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """Kind -> (how many layers, their milliseconds together), dearest first."""
        found: dict[str, tuple[int, float]] = {}
        for layer in self.layers:
            count, cost = found.get(layer.kind, (0, 0.0))
            found[layer.kind] = (count + 1, cost + layer.median_ms)
        return dict(sorted(found.items(), key=lambda entry: -entry[1][1]))

    def to_json(self) -> dict[str, Any]:
        """Everything, with the raw samples."""
        fields = ("model", "scheme", "target", "tile", "threads", "method", "macs", "total_ms", "residual_ms")
        layer_fields = ("name", "kind", "kernel", "macs", "median_ms", "quartiles_ms", "interval_ms", "samples_ms")
        found = {
            "artifact_name": self.label,
            **{name: getattr(self, name) for name in fields},
            "residual_percent": self.residual_percent,
            "total_samples_ms": self.total_samples_ms,
            "notes": self.notes,
            "layers": [
                {
                    **{name: getattr(layer, name) for name in layer_fields},
                    "share_percent": self.share_percent(layer),
                    "gmacs_per_second": layer.gmacs_per_second,
                }
                for layer in self.layers
            ],
        }
        return plain(found)  # type: ignore[no-any-return]
