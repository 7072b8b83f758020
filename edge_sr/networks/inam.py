"""INAM, the instance normalised hybrid attention module of IDSA-Net, and its deployment forms."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sr.networks.forms import pointwise

_EPSILON = 1e-5
_MOMENTUM = 0.01
# sigmoid(2) = 0.88
_OPEN = 2.0


class INAM(nn.Module):
    """Instance normalised hybrid attention: channel and spatial attention behind one sigmoid.

    The input is normalised per image and channel and reduced by a 1x1; a 3x3 sees the reduced map (spatial), a 1x1 its
    mean over the image (channel); their sum, ReLU, 1x1 and sigmoid weigh every value of the input.

    ``statistics="image"`` always takes mean, variance and pooled mean of the image at hand. ``"frozen"`` does so in
    training mode only and keeps running means of them; in eval mode, and in training mode once ``frozen`` is set, it
    uses those as constants. The normalisation then is part of the reducing 1x1, the channel attention part of the 3x3's
    bias, and a tile is treated as its image would be. (Ours: the order of the parts, their sum under one sigmoid, and
    no gain and offset of the normalisation, which the 1x1 behind it contains.)
    """

    mean: Tensor
    variance: Tensor
    pooled: Tensor

    def __init__(self, channels: int, reduced: int, *, statistics: str) -> None:
        super().__init__()
        self.statistics = statistics
        self.frozen = False
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.spatial = nn.Conv2d(reduced, reduced, 3, padding=1)
        self.channel = nn.Conv2d(reduced, reduced, 1, bias=False)
        self.expand = nn.Conv2d(reduced, channels, 1)
        with torch.no_grad():  # a gate that knows nothing lets through what it weighs, and still learns
            self.expand.weight.mul_(0.5)
            assert self.expand.bias is not None
            self.expand.bias.fill_(_OPEN)
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("variance", torch.ones(1, channels, 1, 1))
        self.register_buffer("pooled", torch.zeros(1, reduced, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same; under autocast the statistics are taken in float32."""
        if self.statistics == "frozen" and (self.frozen or not self.training):
            reduced, pooled = self.reduced(x, self.mean, self.variance), self.pooled
        else:
            mean, variance = image_moments(x)
            reduced = self.reduced(x, mean, variance)
            pooled = reduced.float().mean((2, 3), keepdim=True)
            if self.training and self.statistics == "frozen":
                self._track(mean, variance, pooled)
        gate = functional.relu(self.spatial(reduced) + pointwise(self.channel, pooled))
        return x * torch.sigmoid(pointwise(self.expand, gate))

    def reduced(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, reduced, H, W): normalised, reduced, ReLU."""
        return functional.relu(pointwise(self.reduce, (x - mean) * torch.rsqrt(variance + _EPSILON)))

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, pooled: Tensor) -> None:
        for running, values in ((self.mean, mean), (self.variance, variance), (self.pooled, pooled)):
            running.lerp_(values.detach().mean(0, keepdim=True).to(running.dtype), _MOMENTUM)

    @torch.no_grad()
    def calibrate(self, inputs: Sequence[Tensor]) -> None:
        """Replace the running means by means over the images in ``inputs``, batches of this module's input."""
        moments = [image_moments(x) for x in inputs]
        self.mean.copy_(torch.cat([mean for mean, _ in moments]).mean(0, keepdim=True))
        self.variance.copy_(torch.cat([variance for _, variance in moments]).mean(0, keepdim=True))
        reduced = [self.reduced(x, self.mean, self.variance).mean((2, 3), keepdim=True) for x in inputs]
        self.pooled.copy_(torch.cat(reduced).mean(0, keepdim=True))

    def deployed(self) -> nn.Module:
        """The same function; frozen statistics are folded into the convolutions around them."""
        return FrozenINAM(self) if self.statistics == "frozen" else ImageINAM(self)


class ImageINAM(nn.Module):
    """:class:`INAM` with the statistics of the image at hand, by hand: toolchains split a library's instance norm."""

    def __init__(self, trained: INAM) -> None:
        super().__init__()
        self.reduce, self.spatial = copy.deepcopy(trained.reduce), copy.deepcopy(trained.spatial)
        self.channel, self.expand = copy.deepcopy(trained.channel), copy.deepcopy(trained.expand)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        centred = x - x.mean((2, 3), keepdim=True)
        variance = (centred * centred).mean((2, 3), keepdim=True)
        reduced = functional.relu(self.reduce(centred * torch.rsqrt(variance + _EPSILON)))
        channel = self.channel(reduced.mean((2, 3), keepdim=True))
        return x * torch.sigmoid(self.expand(functional.relu(self.spatial(reduced) + channel)))


class FrozenINAM(nn.Module):
    """:class:`INAM` with constants for statistics: three convolutions, a sigmoid, a product; nothing global."""

    def __init__(self, trained: INAM) -> None:
        super().__init__()
        self.reduce, self.spatial = copy.deepcopy(trained.reduce), copy.deepcopy(trained.spatial)
        self.expand = copy.deepcopy(trained.expand)
        assert self.reduce.bias is not None
        assert self.spatial.bias is not None
        with torch.no_grad():
            gain = torch.rsqrt(trained.variance + _EPSILON)
            self.reduce.bias.add_(functional.conv2d(-trained.mean * gain, trained.reduce.weight).flatten())
            self.reduce.weight.mul_(gain)
            self.spatial.bias.add_(trained.channel(trained.pooled).flatten())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        weights = self.expand(functional.relu(self.spatial(functional.relu(self.reduce(x)))))
        return x * torch.sigmoid(weights)


def image_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> mean and variance over the pixels of each image and channel, (B, C, 1, 1) float32."""
    variance, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
    return mean, variance
