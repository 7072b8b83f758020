"""The blocks of IDSA-Net: ASDB and LCIPB, each with its deployment form (INAM has a file of its own).

``deployed()`` of a module returns a new one in eval mode that computes the same function without lookups, shuffles,
large depthwise kernels and frozen normalisations. Where the paper's abstracts are silent the choice is ours, and the
docstrings say what was chosen.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sr.networks.attention import AttentionMatrices, Matrices, attend
from edge_sr.networks.forms import DEPTHWISE_FORMS, depthwise, pointwise
from edge_sr.networks.idsa_config import SHUFFLE_GROUPS, IDSANetConfig
from edge_sr.networks.inam import INAM


class _Block(nn.Module):
    """What a block's training form and its deployment form have in common."""

    window: int
    hidden: nn.Conv2d
    output: nn.Conv2d
    matrices: AttentionMatrices | None
    purification: nn.Module
    inam: nn.Module

    def forward(self, x: Tensor, matrices: Matrices | None) -> Tensor:
        """(B, channels, H, W) -> the same; ``matrices`` is None where each block computes its own."""
        out: Tensor = x + self.inam(self.body(x, matrices))
        return out

    def body(self, x: Tensor, matrices: Matrices | None) -> Tensor:
        """Everything before INAM and the residual: what INAM's statistics are taken of."""
        if self.matrices is not None:
            matrices = self.matrices(x)
        assert matrices is not None, "a block without matrices of its own must be given the shared ones"
        out: Tensor = self.purification(self.feed_forward(self.mixed(x, matrices)))
        return out

    def feed_forward(self, y: Tensor) -> Tensor:
        """(B, 8 * distilled, H, W) -> (B, channels, H, W)."""
        out: Tensor = self.output(functional.relu(self.hidden(y)))
        return out

    def mixed(self, x: Tensor, matrices: Matrices) -> Tensor:
        """(B, channels, H, W) -> (B, 8 * distilled, H, W): the four streams, and them attended."""
        raise NotImplementedError


class ASDB(_Block):
    """Attention sharing distillation block.

    Three dense 3x3 convolutions each keep ``distilled`` channels and hand the rest on; a fourth ends the chain: four
    streams. One half of every stream attends by window and one half by grid, with the matrices that all blocks share:
    two ``bmm`` for the block. A 1x1 feed-forward mixes streams and attended streams; LCIPB purifies, INAM weighs, and
    the block's input is added. (Ours: the matrices act on the streams without a value projection, because the
    feed-forward that follows is linear in them before its ReLU and so contains one.)
    """

    def __init__(self, config: IDSANetConfig) -> None:
        super().__init__()
        self.window = config.window
        self.rest = config.channels - config.distilled  # channels a stage hands on
        kept_half = config.distilled // 2
        self.shares = [self.rest, kept_half, kept_half]  # of a stage's channels: handed on, and two halves kept
        self.stages = nn.ModuleList(
            nn.Conv2d(inputs, config.channels, 3, padding=1) for inputs in (config.channels, self.rest, self.rest)
        )
        self.last = nn.Conv2d(self.rest, config.distilled, 3, padding=1)
        self.hidden = nn.Conv2d(8 * config.distilled, config.hidden, 1)
        self.output = nn.Conv2d(config.hidden, config.channels, 1)
        self.matrices = (
            None
            if config.share_attention
            else AttentionMatrices(config.channels, config.attention_dim, config.window, context=False)
        )
        self.purification: nn.Module = LCIPB(config.channels, config.purified) if config.lcipb else nn.Identity()
        self.inam: nn.Module = nn.Identity()
        if config.inam:
            self.inam = INAM(config.channels, config.gate_channels, statistics=config.statistics)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        # A stage starts near the identity (the shallow residual of distillation blocks, held by the weights, so it
        # costs nothing) and the block near its residual path.
        for stage in self.stages:
            assert isinstance(stage, nn.Conv2d)
            channel = torch.arange(min(stage.in_channels, stage.out_channels))
            stage.weight[channel, channel, 1, 1] += 1.0
        self.output.weight.mul_(0.2)

    def mixed(self, x: Tensor, matrices: Matrices) -> Tensor:
        """(B, channels, H, W) -> (B, 8 * distilled, H, W): halves for windows, for grids, both attended."""
        near, far = (half.permute(0, 2, 3, 1) for half in self.streams(x))
        return torch.cat([near, far, *attend(near, far, matrices, self.window)], 3).permute(0, 3, 1, 2)

    def feed_forward(self, y: Tensor) -> Tensor:
        """See :meth:`_Block.feed_forward`."""
        return pointwise(self.output, functional.relu(pointwise(self.hidden, y), inplace=True))

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) -> first and second halves of the four streams, (B, 2 * distilled, H, W) each."""
        near, far = [], []
        for stage in self.stages:
            # Split and not sliced: slices' gradients are each filled up with zeros, then added.
            x, first, second = torch.split(functional.relu(stage(x), inplace=True), self.shares, 1)
            near.append(first)
            far.append(second)
        first, second = functional.relu(self.last(x), inplace=True).chunk(2, 1)
        near.append(first)
        far.append(second)
        return torch.cat(near, 1), torch.cat(far, 1)

    def deployed(self) -> DeployedASDB:
        """The same function with its parts in deployment form."""
        return DeployedASDB(self)


class DeployedASDB(_Block):
    """:class:`ASDB` with two convolutions for each stage and fewer copies; the arithmetic is the same.

    One convolution makes what is handed on, one what is kept: nothing is cut out of a stage's output, and 32 and 16
    filters fill the tiles of XNNPACK's kernels, where 48 take as long as 64 (AVX-512 float, ai-edge-litert 2.3.0). The
    kept streams are joined once, in NHWC; their halves are cut out of that, and the weights of ``hidden`` are put in
    its order. Pixels become tokens and return in NHWC as well: converters cancel the two permutes against the layout of
    the convolutions around them.
    """

    def __init__(self, trained: ASDB) -> None:
        super().__init__()
        self.window, self.kept_half = trained.window, trained.last.out_channels // 2
        self.rests = nn.ModuleList(_filters(stage, 0, trained.rest) for stage in trained.stages)
        self.keeps = nn.ModuleList(_filters(stage, trained.rest, None) for stage in trained.stages)
        self.last = copy.deepcopy(trained.last)
        self.hidden, self.output = copy.deepcopy(trained.hidden), copy.deepcopy(trained.output)
        streams = torch.arange(8 * self.kept_half).reshape(2, 4, self.kept_half).permute(1, 0, 2).flatten()
        order = torch.cat([streams, 8 * self.kept_half + torch.arange(8 * self.kept_half)])
        with torch.no_grad():
            self.hidden.weight.copy_(trained.hidden.weight[:, order])
        self.matrices = None if trained.matrices is None else trained.matrices.deployed()
        self.purification, self.inam = copy.deepcopy(trained.purification), copy.deepcopy(trained.inam)
        if isinstance(trained.purification, LCIPB):
            self.purification = trained.purification.deployed()
        if isinstance(trained.inam, INAM):
            self.inam = trained.inam.deployed()
        self.eval()

    def mixed(self, x: Tensor, matrices: Matrices) -> Tensor:
        """(B, channels, H, W) -> (B, 8 * distilled, H, W): streams, attended first halves, attended second halves."""
        kept = []
        for rest, keep in zip(self.rests, self.keeps, strict=True):
            kept.append(functional.relu(keep(x)))
            x = functional.relu(rest(x))
        kept.append(functional.relu(self.last(x)))
        streams = torch.cat(kept, 1).permute(0, 2, 3, 1)
        batch, height, width, channels = streams.shape
        pairs = streams.reshape(batch, -1, 2 * self.kept_half)  # one stream of one pixel
        near = pairs[:, :, : self.kept_half].reshape(batch, height, width, channels // 2)
        far = pairs[:, :, self.kept_half :].reshape(batch, height, width, channels // 2)
        return torch.cat([streams, *attend(near, far, matrices, self.window)], 3).permute(0, 3, 1, 2)


def _filters(conv: nn.Module, start: int, stop: int | None) -> nn.Conv2d:
    """A convolution of some of the output channels of a 3x3 one."""
    assert isinstance(conv, nn.Conv2d)
    weight, bias = conv.weight.detach()[start:stop], _bias(conv).detach()[start:stop]
    part = nn.Conv2d(conv.in_channels, weight.shape[0], 3, padding=1)
    with torch.no_grad():
        part.weight.copy_(weight)
        _bias(part).copy_(bias)
    return part


# Bounds of what LCIPB multiplies; on photos few values reach them. Powers of two, so that folding them is exact.
_SCREENED = 8.0
_REWEIGHTED = 2.0


class LCIPB(nn.Module):
    """Large kernel channel information purification block: ``x + expand(p * LKA(p))``, ``p = screen(shuffle(x))``.

    Channels are shuffled (four groups), a 1x1 screens ``purified`` of them, and large-kernel attention (5x5 depthwise,
    7x7 depthwise with dilation 3, 1x1) reweights those at every position. The bias of LKA's 1x1 is each channel's
    enhancement and starts at 1, so a fresh block passes what it screens. (Ours: the shuffle is read through the
    screening weights, where it costs nothing; the screening is a learned 1x1 without statistics, so that it does not
    depend on the size of a tile; what is screened and what reweights it are clipped, because a product of two values
    that are not squares them, block after block: without it, trained weights took a one-pixel checkerboard beyond
    1e16, and clipped values take less of an int8 grid.)
    """

    unshuffle: Tensor

    def __init__(self, channels: int, purified: int) -> None:
        super().__init__()
        self.form = DEPTHWISE_FORMS[0]  # of the depthwise kernels; training may choose another
        self.screen = nn.Conv2d(channels, purified, 1)
        self.local = nn.Conv2d(purified, purified, 5, padding=2, groups=purified)
        self.large = nn.Conv2d(purified, purified, 7, padding=9, dilation=3, groups=purified)
        self.mix = nn.Conv2d(purified, purified, 1)
        self.expand = nn.Conv2d(purified, channels, 1)
        shuffle = torch.arange(channels).reshape(SHUFFLE_GROUPS, -1).t().flatten()
        self.register_buffer("unshuffle", torch.argsort(shuffle), persistent=False)
        with torch.no_grad():
            nn.init.ones_(_bias(self.mix))
            self.expand.weight.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        p = pointwise(self.screen, x, self.screen.weight[:, self.unshuffle])
        p = functional.hardtanh(p, -_SCREENED, _SCREENED)
        y = depthwise(self.large, depthwise(self.local, p, self.form), self.form)
        weights = functional.hardtanh(pointwise(self.mix, y), -_REWEIGHTED, _REWEIGHTED)
        return x + pointwise(self.expand, p * weights)

    def deployed(self) -> DeployedLCIPB:
        """The same function with shuffle and bounds folded and no depthwise kernel above 25 taps."""
        return DeployedLCIPB(self)


class DeployedLCIPB(nn.Module):
    """:class:`LCIPB` with its 7x7 in three exact pieces: the odd rows, the even rows, and the even rows' two ends.

    XNNPACK's fast depthwise kernels have 9 and 25 taps and a smaller one is filled up (seen in ai-edge-litert 2.3.0
    and executorch 1.4.1). Pieces of 21, 20 and 8 taps fit two of 25 and one of 9; each is symmetric, so none needs a
    padding of its own. One kernel of 49 taps takes five times as long.

    Both clippings are to [-1, 1], which toolchains fuse into the convolution before it; the weights contain the bounds.
    """

    def __init__(self, trained: LCIPB) -> None:
        super().__init__()
        self.screen, self.local = copy.deepcopy(trained.screen), copy.deepcopy(trained.local)
        self.mix, self.expand = copy.deepcopy(trained.mix), copy.deepcopy(trained.expand)
        count = trained.large.out_channels
        self.odd = nn.Conv2d(count, count, (3, 7), padding=(6, 9), dilation=(6, 3), groups=count)
        self.even = nn.Conv2d(count, count, (4, 5), padding=(9, 6), dilation=(6, 3), groups=count, bias=False)
        self.sides = nn.Conv2d(count, count, (4, 2), padding=(9, 9), dilation=(6, 18), groups=count, bias=False)
        weight = trained.large.weight
        with torch.no_grad():
            self.screen.weight.copy_(trained.screen.weight[:, trained.unshuffle])
            for conv, bound in ((self.screen, _SCREENED), (self.mix, _REWEIGHTED)):
                conv.weight.div_(bound)
                _bias(conv).div_(bound)
            self.local.weight.mul_(_SCREENED)
            self.expand.weight.mul_(_SCREENED * _REWEIGHTED)
            self.odd.weight.copy_(weight[:, :, 1::2, :])
            _bias(self.odd).copy_(_bias(trained.large))
            self.even.weight.copy_(weight[:, :, 0::2, 1:6])
            self.sides.weight.copy_(weight[:, :, 0::2, 0::6])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        p = functional.hardtanh(self.screen(x))
        y = self.local(p)
        y = self.odd(y) + self.even(y) + self.sides(y)
        out: Tensor = x + self.expand(p * functional.hardtanh(self.mix(y)))
        return out


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
