"""What float training minimises."""

from __future__ import annotations

import torch.nn.functional as functional
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
    criterion = functional.l1_loss if kind == "l1" else functional.mse_loss
    if luma_weight == 0:
        return criterion(sr, hr)
    weights = sr.new_tensor(_LUMA).view(1, 3, 1, 1)
    luma = criterion((sr * weights).sum(1), (hr * weights).sum(1))
    return luma_weight * luma + (1 - luma_weight) * criterion(sr, hr)
