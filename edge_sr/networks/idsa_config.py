"""The configuration of IDSA-Net."""

from __future__ import annotations

import dataclasses

from edge_sr.errors import ConfigError

SCALES = (2, 3, 4)
STATISTICS = ("image", "frozen")
SHUFFLE_GROUPS = 4
_COUNTS = ("channels", "blocks", "window", "distilled", "attention_dim", "hidden", "purified", "gate_channels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IDSANetConfig:
    """Widths and switches; the defaults are the 752k parameters of the paper at x4.

    Args:
        scale: upscaling factor, 2, 3 or 4.
        channels: width of the trunk; a multiple of 4.
        blocks: number of attention sharing distillation blocks.
        window: pixels per side of a window and of a grid; inputs are multiples of it.
        distilled: channels each distillation stage keeps; even, less than ``channels``.
        attention_dim: width of queries and keys.
        hidden: width of the feed-forward.
        purified: channels that LCIPB screens and reweights.
        gate_channels: width inside INAM.
        share_attention: False gives every block matrices of its own, from its own input (ablation).
        lcipb: False leaves LCIPB out (ablation).
        inam: False leaves INAM out (ablation).
        statistics: "frozen" (constants once trained) or "image", see :class:`~edge_sr.networks.inam.INAM`.
    Raises:
        ConfigError: a value is out of range.
    """

    scale: int = 4
    channels: int = 48
    blocks: int = 8
    window: int = 8
    distilled: int = 16
    attention_dim: int = 48
    hidden: int = 128
    purified: int = 24
    gate_channels: int = 16
    share_attention: bool = True
    lcipb: bool = True
    inam: bool = True
    statistics: str = "frozen"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(f"scale must be one of 2, 3, 4, got {self.scale}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.channels % SHUFFLE_GROUPS:
            raise ConfigError(f"channels must be a multiple of {SHUFFLE_GROUPS}, got {self.channels}")
        if self.distilled % 2 or self.distilled >= self.channels:
            raise ConfigError(f"distilled must be even and less than channels, got {self.distilled} of {self.channels}")
        if self.statistics not in STATISTICS:
            raise ConfigError(f"statistics must be one of {', '.join(STATISTICS)}, got {self.statistics!r}")
