"""A network of known shape to measure others by: IMDN's, untrained, at x4 with 715k parameters.

Nobody's weights are in it, and it is none of ``edge_sr.networks.MODELS``: it says how long 715k parameters of dense
3x3 convolutions take in the same runtime, on the same machine, in the same minutes. Its shape is the published one (Hui
et al., "Lightweight Image Super-Resolution with Information Multi-distillation Network", ACM MM 2019). Ours is the
spelling only: statistics as means by hand and the 1x1 over all blocks in two halves, so that toolchains take it whole.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 64
KEPT = CHANNELS // 4
BLOCKS = 6
SLOPE = 0.05
_REDUCTION = 16
_EPSILON = 1e-6


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of the published slope; any shape -> the same."""
    return functional.leaky_relu(x, SLOPE)


class ContrastAttention(nn.Module):
    """Contrast-aware channel attention: each channel's standard deviation plus mean, two 1x1, sigmoid, product."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(CHANNELS, CHANNELS // _REDUCTION, 1)
        self.expand = nn.Conv2d(CHANNELS // _REDUCTION, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, CHANNELS, H, W) -> the same."""
        mean = x.mean((2, 3), keepdim=True)
        centred = x - mean
        contrast = torch.sqrt((centred * centred).mean((2, 3), keepdim=True) + _EPSILON)
        weights = torch.sigmoid(self.expand(functional.relu(self.reduce(contrast + mean))))
        return x * weights


class DistillationBlock(nn.Module):
    """Four 3x3 convolutions, each but the last hands three quarters on and keeps one; attention, 1x1, residual."""

    def __init__(self) -> None:
        super().__init__()
        rest = CHANNELS - KEPT
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(rest, CHANNELS, 3, padding=1)
        self.third = nn.Conv2d(rest, CHANNELS, 3, padding=1)
        self.fourth = nn.Conv2d(rest, KEPT, 3, padding=1)
        self.attention = ContrastAttention()
        self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, CHANNELS, H, W) -> the same."""
        kept: list[Tensor] = []
        y = x
        for stage in (self.first, self.second, self.third):
            y = activate(stage(y))
            kept.append(y[:, :KEPT])
            y = y[:, KEPT:]
        kept.append(self.fourth(y))
        out: Tensor = self.mix(self.attention(torch.cat(kept, 1))) + x
        return out


class Yardstick(nn.Module):
    """IMDN's shape at x4: head, six blocks, 1x1 over all their outputs, 3x3, residual, 3x3 and pixel shuffle."""

    model_name: ClassVar[str] = "imdn_yardstick"
    scale: ClassVar[int] = 4
    tile_multiple: ClassVar[int] = 8
    context: ClassVar[int] = 16

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(DistillationBlock() for _ in range(BLOCKS))
        # One 1x1 over all blocks' outputs, in two halves: LiteRT's XNNPACK concatenates at most four (ai-edge-litert
        # 2.3.0), and the converter undoes a concatenation of concatenations.
        self.early = nn.Conv2d(BLOCKS // 2 * CHANNELS, CHANNELS, 1)
        self.late = nn.Conv2d(BLOCKS // 2 * CHANNELS, CHANNELS, 1, bias=False)
        self.tail = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.up = nn.Conv2d(CHANNELS, 3 * self.scale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> (B, 3, 4 * H, 4 * W)."""
        shallow = self.head(x)
        y, outputs = shallow, []
        for block in self.blocks:
            y = block(y)
            outputs.append(y)
        together = self.early(torch.cat(outputs[: BLOCKS // 2], 1)) + self.late(torch.cat(outputs[BLOCKS // 2 :], 1))
        y = self.tail(activate(together)) + shallow
        return functional.pixel_shuffle(self.up(y), self.scale)

    def deployed(self) -> Yardstick:
        """A copy in eval mode: it has one form only."""
        return copy.deepcopy(self).eval()


def create_yardstick(seed: int = 0) -> Yardstick:
    """The yardstick with seeded weights: its times do not depend on their values, its files' hashes do."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Yardstick().eval()
