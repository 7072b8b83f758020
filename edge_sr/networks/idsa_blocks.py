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
from edge_sr.networks.idsa_config import SHUFFLE_GROUPS, IDSANetConfig
from edge_sr.networks.inam import INAM


class ASDB(nn.Module):
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
        self.middle = config.channels - config.distilled // 2  # first channel of the second half of what it keeps
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

    def forward(self, x: Tensor, matrices: Matrices | None) -> Tensor:
        """(B, channels, H, W) -> the same; ``matrices`` is None where each block computes its own."""
        out: Tensor = x + self.inam(self.body(x, matrices))
        return out

    def body(self, x: Tensor, matrices: Matrices | None) -> Tensor:
        """Everything before INAM and the residual: what INAM's statistics are taken of."""
        if self.matrices is not None:
            matrices = self.matrices(x)
        assert matrices is not None, "a block without matrices of its own must be given the shared ones"
        near, far = self.streams(x)
        y = attend(near, far, matrices, self.window)  # (B, 8 * distilled, H, W)
        y = self.output(functional.relu(self.hidden(y)))
        out: Tensor = self.purification(y)
        return out

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) -> first and second halves of the four streams, (B, 2 * distilled, H, W) each."""
        near, far = [], []
        for stage in self.stages:
            x = functional.relu(stage(x))
            near.append(x[:, self.rest : self.middle])
            far.append(x[:, self.middle :])
            x = x[:, : self.rest]
        x = functional.relu(self.last(x))
        near.append(x[:, : self.middle - self.rest])
        far.append(x[:, self.middle - self.rest :])
        return torch.cat(near, 1), torch.cat(far, 1)

    def deployed(self) -> ASDB:
        """The same block with its parts in deployment form."""
        block = copy.deepcopy(self).eval()
        if isinstance(self.purification, LCIPB):
            block.purification = self.purification.deployed()
        if isinstance(self.inam, INAM):
            block.inam = self.inam.deployed()
        if self.matrices is not None:
            block.matrices = self.matrices.deployed()
        return block


class LCIPB(nn.Module):
    """Large kernel channel information purification block: ``x + expand(p * LKA(p))``, ``p = screen(shuffle(x))``.

    Channels are shuffled (four groups), a 1x1 screens ``purified`` of them, and large-kernel attention (5x5 depthwise,
    7x7 depthwise with dilation 3, 1x1) reweights those at every position. The bias of LKA's 1x1 is each channel's
    enhancement and starts at 1, so a fresh block passes what it screens. (Ours: the shuffle is read through the
    screening weights, where it costs nothing; the screening is a learned 1x1 without statistics, so that it does not
    depend on the size of a tile.)
    """

    unshuffle: Tensor

    def __init__(self, channels: int, purified: int) -> None:
        super().__init__()
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
        p = functional.conv2d(x, self.screen.weight[:, self.unshuffle], self.screen.bias)
        out: Tensor = x + self.expand(p * self.mix(self.large(self.local(p))))
        return out

    def deployed(self) -> DeployedLCIPB:
        """The same function with the shuffle folded and no depthwise kernel above 25 taps."""
        return DeployedLCIPB(self)


class DeployedLCIPB(nn.Module):
    """:class:`LCIPB` with its 7x7 in three exact pieces: 5x5 core, two outer rows, two outer columns.

    XNNPACK's fast depthwise kernels end at 25 taps (seen in ai-edge-litert 2.3.0 and executorch 1.4.1): a 49-tap
    one takes five times as long as the three pieces and their sum.
    """

    def __init__(self, trained: LCIPB) -> None:
        super().__init__()
        self.screen, self.local = copy.deepcopy(trained.screen), copy.deepcopy(trained.local)
        self.mix, self.expand = copy.deepcopy(trained.mix), copy.deepcopy(trained.expand)
        count = trained.large.out_channels
        self.core = nn.Conv2d(count, count, 5, padding=6, dilation=3, groups=count)
        self.rows = nn.Conv2d(count, count, (2, 7), padding=(9, 9), dilation=(18, 3), groups=count, bias=False)
        self.columns = nn.Conv2d(count, count, (5, 2), padding=(6, 9), dilation=(3, 18), groups=count, bias=False)
        weight = trained.large.weight
        with torch.no_grad():
            self.screen.weight.copy_(trained.screen.weight[:, trained.unshuffle])
            self.core.weight.copy_(weight[:, :, 1:6, 1:6])
            _bias(self.core).copy_(_bias(trained.large))
            self.rows.weight.copy_(weight[:, :, 0::6, :])
            self.columns.weight.copy_(weight[:, :, 1:6, 0::6])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        p = self.screen(x)
        y = self.local(p)
        y = self.core(y) + self.rows(y) + self.columns(y)
        out: Tensor = x + self.expand(p * self.mix(y))
        return out


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
