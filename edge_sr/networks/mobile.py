"""``idsa_net_mobile``: IDSA-Net's three ideas in the arithmetic that int8 engines are fast at.

The paper's network (see :mod:`edge_sr.networks.idsa`) spends most of its time in attention, depthwise kernels and
normalisation, none of which integer kernels speed up. This family keeps the ideas and changes the spelling:

* **Shared attention.** One sigmoid map is computed once, from the head's features, and weights the distilled stream of
  every block; no block computes attention of its own.
* **Large-kernel purification.** The gathered streams are gated by a dense 3x3 followed by a dense 3x3 of dilation 3 (an
  11x11 field of view in LR pixels) on half of the channels.
* **Instance-normalised hybrid attention.** A spatial map is computed from instance-normalised features; the channel
  weights are computed from the very statistics the normalisation removes. For deployment the statistics are frozen to
  their running means, so that a tile gives what the whole image gives and both fold into 1x1 convolutions.

Everything deployed is a dense convolution, ReLU, sigmoid, add, multiply, channel slice, concatenation or pixel shuffle.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from edge_sr.errors import ConfigError

SCALES = (2, 3, 4)
_STATISTICS_MOMENTUM = 0.01
_STATISTICS_EPS = 1e-3


@dataclass(frozen=True, kw_only=True)
class IDSANetMobileConfig:
    """Shape of an :class:`IDSANetMobile`.

    Attributes:
        scale: upscaling factor, 2, 3 or 4.
        channels: width of the trunk; a multiple of 8 keeps integer kernels full.
        blocks: pairs of residual 3x3 convolutions, each giving one distilled stream.
        distilled: channels of a distilled stream.
    """

    scale: int
    channels: int = 32
    blocks: int = 4
    distilled: int = 8

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(f"scale must be one of {', '.join(map(str, SCALES))}, got {self.scale}")
        for name, value, least in (("channels", self.channels, 2), ("blocks", self.blocks, 1)):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        if not 1 <= self.distilled <= self.channels:
            raise ConfigError(f"distilled must be 1..{self.channels} (at most channels), got {self.distilled}")


class ResidualConv(nn.Conv2d):
    """A 3x3 convolution plus its input. The identity is added to the kernel, so that deployment has one convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)
        identity = torch.zeros(channels, channels, 3, 3)
        nn.init.dirac_(identity)
        self.register_buffer("identity", identity, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel(), self.bias, padding=1)

    def kernel(self) -> Tensor:
        """What the input is convolved with, (C, C, 3, 3)."""
        return self.weight + self.get_buffer("identity")

    def deployed(self) -> nn.Conv2d:
        """The same function as one plain convolution."""
        conv = nn.Conv2d(self.in_channels, self.out_channels, 3, padding=1)
        assert self.bias is not None
        assert conv.bias is not None
        with torch.no_grad():
            conv.weight.copy_(self.kernel())
            conv.bias.copy_(self.bias)
        return conv


class Block(nn.Module):
    """Two 3x3 convolutions, a ReLU after each; the first channels in between leave as the distilled stream.

    With residuals inside of the convolutions and a ReLU after every one: 0.08 dB more on held-out photos than one
    residual around two convolutions and the ReLU between them (2,000 equal steps, one seed each; the trial kept
    4 channels after every convolution).
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, distilled: int) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.distilled = distilled

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.relu(self.first(y))  # (B, C, H, W)
        return torch.relu(self.second(t)), t[:, : self.distilled]  # (B, C, H, W), (B, Q, H, W)


class ResidualBlock(Block):
    """The training form of a :class:`Block`."""

    first: ResidualConv
    second: ResidualConv

    def __init__(self, channels: int, distilled: int) -> None:
        super().__init__(ResidualConv(channels), ResidualConv(channels), distilled)

    def deployed(self) -> Block:
        """The same function in plain convolutions."""
        return Block(self.first.deployed(), self.second.deployed(), self.distilled)


class LargeKernelPurification(nn.Module):
    """Gates the gathered streams by what lies around a pixel: 3x3, then 3x3 of dilation 3, then 1x1 and sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.near = nn.Conv2d(inner, inner, 3, padding=1)
        self.far = nn.Conv2d(inner, inner, 3, padding=3, dilation=3)
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        g = torch.relu(self.near(torch.relu(self.squeeze(z))))  # (B, C/2, H, W)
        return z * torch.sigmoid(self.expand(torch.relu(self.far(g))))  # (B, C, H, W)


class HybridAttention(nn.Module):
    """Channel and spatial attention around an instance normalisation whose statistics can be frozen.

    ``frozen`` False: every image is normalised by its own statistics, whose running means are kept. ``frozen`` True,
    and always in eval mode: the running means are used, so that the module has no view of the whole image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 1)
        self.frozen = False
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.spatial = nn.Conv2d(inner, 1, 3, padding=1)
        self.channel_in = nn.Linear(2 * channels, inner)
        self.channel_out = nn.Linear(inner, channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def channel_weights(self, mean: Tensor, std: Tensor) -> Tensor:
        """Weights in (0, 1) from per-channel statistics, each (..., C)."""
        hidden = torch.relu(self.channel_in(torch.cat([mean, std], dim=-1)))
        return torch.sigmoid(self.channel_out(hidden))

    def statistics(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (B or 1, C): of each image while they are learned, else the frozen ones."""
        if self.frozen or not self.training:
            return self.mean[None], self.std[None]
        variance, mean = torch.var_mean(u.float(), dim=(2, 3), correction=0)
        std = (variance + _STATISTICS_EPS).sqrt()
        with torch.no_grad():
            self.mean.lerp_(mean.mean(0), _STATISTICS_MOMENTUM)
            self.std.lerp_(std.mean(0), _STATISTICS_MOMENTUM)
        return mean, std

    def forward(self, u: Tensor) -> Tensor:
        mean, std = self.statistics(u)
        n = (u - mean[:, :, None, None]) / std[:, :, None, None]  # (B, C, H, W)
        s = torch.sigmoid(self.spatial(torch.relu(self.squeeze(n))))  # (B, 1, H, W)
        return u * s * self.channel_weights(mean, std)[:, :, None, None]


class IDSANetMobile(nn.Module):
    """The training form. Input (B, 3, H, W) RGB in [0, 1], output (B, 3, scale*H, scale*W), not clamped."""

    model_name = "idsa_net_mobile"
    tile_multiple = 1

    def __init__(self, config: IDSANetMobileConfig) -> None:
        super().__init__()
        self.config = config
        channels, streams = config.channels, config.blocks * config.distilled
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.attention = nn.Conv2d(channels, config.distilled, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels, config.distilled) for _ in range(config.blocks))
        self.purify = LargeKernelPurification(streams)
        self.gather = nn.Conv2d(streams, channels, 1)
        self.hybrid = HybridAttention(channels)
        self.up = nn.Conv2d(channels, 3 * config.scale**2, 3, padding=1)
        nn.init.normal_(self.up.weight, std=1e-3)

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        return self.config.scale

    @property
    def context(self) -> int:
        """LR pixels beyond a position that its result can depend on: head, blocks, purification, attention, tail."""
        return 1 + 2 * self.config.blocks - 1 + 1 + 3 + 1 + 1

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Use the running statistics as constants also while training (or stop doing so)."""
        self.hybrid.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)  # (B, C, H, W)
        a = torch.sigmoid(self.attention(h))  # (B, Q, H, W), shared by every stream
        y, streams = h, []
        for block in self.blocks:
            y, stream = block(y)
            streams.append(stream * a)
        z = self.purify(_joined(streams))  # (B, N*Q, H, W)
        y = y + self.hybrid(self.gather(z))
        base = x.repeat_interleave(self.scale**2, dim=1)  # nearest upsampling once it is shuffled
        return functional.pixel_shuffle(self.up(y + h) + base, self.scale)

    def deployed(self) -> DeployedMobile:
        """A new eval-mode module of plain convolutions that computes the same function (to 1e-5)."""
        return DeployedMobile(self)


class DeployedMobile(nn.Module):
    """Deployment form of :class:`IDSANetMobile`; made by :meth:`IDSANetMobile.deployed`."""

    model_name = IDSANetMobile.model_name
    tile_multiple = IDSANetMobile.tile_multiple

    def __init__(self, net: IDSANetMobile) -> None:
        super().__init__()
        self.config = net.config
        self.scale = net.scale
        self.context = net.context
        self.head = deepcopy(net.head)
        self.attention = deepcopy(net.attention)
        self.blocks = nn.ModuleList(block.deployed() for block in net.blocks if isinstance(block, ResidualBlock))
        self.purify = deepcopy(net.purify)
        self.gather, self.squeeze = _fold_hybrid(net.gather, net.hybrid)
        self.spatial = deepcopy(net.hybrid.spatial)
        self.up = deepcopy(net.up)
        self.base = _replicating_conv(net.scale)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)  # (B, C, H, W)
        a = torch.sigmoid(self.attention(h))  # (B, Q, H, W)
        y, streams = h, []
        for block in self.blocks:
            y, stream = block(y)
            streams.append(stream * a)
        u = self.gather(self.purify(_joined(streams)))  # (B, C, H, W)
        y = y + u * torch.sigmoid(self.spatial(torch.relu(self.squeeze(u))))
        return functional.pixel_shuffle(self.up(y + h) + self.base(x), self.scale)


def _joined(streams: list[Tensor]) -> Tensor:
    # XNNPACK (executorch 1.4.1) leaves a concatenation of one tensor outside of its delegate.
    return torch.cat(streams, dim=1) if len(streams) > 1 else streams[0]


@torch.no_grad()
def _fold_hybrid(gather: nn.Conv2d, hybrid: HybridAttention) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Frozen statistics make the channel weights c constant: u' = c*u comes out of ``gather``, and ``squeeze`` reads
    (u'/c - mean)/std. Both are 1x1 convolutions without padding, so the folding is exact."""
    c = hybrid.channel_weights(hybrid.mean, hybrid.std)
    gather, squeeze = deepcopy(gather), deepcopy(hybrid.squeeze)
    assert gather.bias is not None
    assert squeeze.bias is not None
    gather.weight.mul_(c[:, None, None, None])
    gather.bias.mul_(c)
    squeeze.bias.sub_((squeeze.weight[:, :, 0, 0] * (hybrid.mean / hybrid.std)).sum(1))
    squeeze.weight.div_((hybrid.std * c)[None, :, None, None])
    return gather, squeeze


def _replicating_conv(scale: int) -> nn.Conv2d:
    """1x1 convolution of ones and zeros that repeats each colour scale**2 times, as pixel shuffle wants it.

    The same picture as a nearest-neighbour upsampling, which XNNPACK does not take.
    """
    conv = nn.Conv2d(3, 3 * scale**2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3).repeat_interleave(scale**2, dim=0)[:, :, None, None])
    return conv
