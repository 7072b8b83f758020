"""What float training minimises."""

from __future__ import annotations

import torch
from torch import Tensor

from edge_sr.errors import ConfigError

LOSSES = ("l1", "l2")
# Luma of BT.601, as PSNR-Y has it up to its range.
_LUMA = (0.299, 0.587, 0.114)


def pixel_loss(sr: Tensor, hr: Tensor, kind: str = "l1", *, luma_weight: float = 0.0) -> Tensor:
    """Mean absolute ("l1") or squared ("l2") error of colours, of luma, or of both.

    Args:
        sr, hr: (B, 3, H, W) RGB in [0, 1], float32.
        kind: one of :data:`LOSSES`.
        luma_weight: share of the error of luma in the loss, 0..1; the rest is that of the colours. A small network
            spends its parameters where the loss looks, and PSNR-Y looks at luma alone; the colours' share keeps them
            true.
    Returns:
        a scalar.
    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in LOSSES:
        raise ConfigError(f"loss must be one of {', '.join(LOSSES)}, got {kind!r}")
    error = sr - hr
    size = torch.abs if kind == "l1" else torch.square
    colours = size(error).mean()
    if luma_weight == 0:
        return colours
    # Scalars, not a tensor of weights: its copy to a GPU could not be recorded in a CUDA graph.
    luma = sum(share * error[:, channel] for channel, share in enumerate(_LUMA))
    assert isinstance(luma, Tensor)
    return luma_weight * size(luma).mean() + (1 - luma_weight) * colours
