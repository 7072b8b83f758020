"""IDSA-Net: information distillation and shared attention network, in a form that phones' toolchains take whole.

The paper (DOI 10.13374/j.issn2095-9389.2025.10.24.003) describes its modules in words; widths, orders and activations
are ours. We read "multiple distilled feature streams share the same attention matrices" literally: one pair of matrices
(8x8 windows, 8x8 grids) is computed from the head's features and applied in every block to all distilled streams at
once. The arithmetic is in dense 3x3 convolutions with ReLU, which int8 engines are fast at.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sr.errors import ConfigError, DataError, ShapeError
from edge_sr.networks.attention import AttentionMatrices, Matrices
from edge_sr.networks.idsa_blocks import ASDB
from edge_sr.networks.idsa_config import IDSANetConfig
from edge_sr.networks.inam import INAM

__all__ = ["DeployedIDSANet", "IDSANet", "IDSANetConfig"]


class _Skeleton(nn.Module):
    """What the training form and the deployment form have in common: the parts' order and the public attributes."""

    model_name: ClassVar[str] = "idsa_net"
    # LR pixels of context that a tile wants on each side. In principle one block reaches 23 pixels and a grid the whole
    # input, more than any tile has; this is the overlap that tiles use.
    context: ClassVar[int] = 16
    config: IDSANetConfig
    head: nn.Conv2d
    matrices: AttentionMatrices | None
    blocks: nn.ModuleList
    tail: nn.Conv2d
    up: nn.Conv2d

    @property
    def scale(self) -> int:
        """Upscaling factor."""
        return self.config.scale

    @property
    def tile_multiple(self) -> int:
        """Heights and widths of the deployment form are multiples of this."""
        return self.config.window

    def features(self, x: Tensor) -> tuple[Tensor, Matrices | None]:
        """(B, 3, H, W) -> the head's (B, channels, H, W) and the matrices, None where blocks have their own."""
        shallow = self.head(x)
        return shallow, None if self.matrices is None else self.matrices(shallow)

    def details(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3 * scale**2, H, W): what is added to the input, pixel by pixel, before the shuffle."""
        shallow, matrices = self.features(x)
        y = shallow
        for block in self.blocks:
            y = block(y, matrices)
        out: Tensor = self.up(self.tail(y) + shallow)
        return out


class IDSANet(_Skeleton):
    """The training form of IDSA-Net.

    Head (3x3), the shared matrices, blocks, tail (3x3) with a skip from the head, up-convolution (3x3), plus the input
    at every sub-pixel, pixel shuffle. The up-convolution starts small, so a fresh network is nearest-neighbour
    upscaling; the input is added outside autocast, so bf16 rounds details only and never the image.
    """

    def __init__(self, config: IDSANetConfig) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Conv2d(3, config.channels, 3, padding=1)
        self.matrices = None
        if config.share_attention:
            self.matrices = AttentionMatrices(config.channels, config.attention_dim, config.window, context=True)
        self.blocks = nn.ModuleList(ASDB(config) for _ in range(config.blocks))
        self.tail = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.up = nn.Conv2d(config.channels, 3 * config.scale**2, 3, padding=1)
        with torch.no_grad():
            self.up.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale images of any size.

        Args:
            x: (B, 3, H, W) float in [0, 1]; H and W not multiples of the window are mirrored up to one and cropped.
        Returns:
            (B, 3, scale * H, scale * W) float, not clamped.
        """
        height, width = x.shape[2:]
        x = mirror_to_multiple(x, self.config.window)
        y = self.details(x) + x.repeat_interleave(self.scale**2, dim=1)
        return functional.pixel_shuffle(y, self.scale)[:, :, : height * self.scale, : width * self.scale]

    def freeze_statistics(self, frozen: bool = True) -> None:
        """Use the running statistics as constants also while training, or stop doing so.

        Of no effect with ``statistics="image"``, where there are no constants, and without INAM.
        """
        for module in self.modules():
            if isinstance(module, INAM):
                module.frozen = frozen

    @torch.no_grad()
    def with_frozen_statistics(self, batches: Iterable[Tensor]) -> IDSANet:
        """A copy with ``statistics="frozen"``, calibrated block by block with everything before already frozen.

        Train it on for a while: constants are the images' statistics on average only.

        Args:
            batches: (B, 3, H, W) float in [0, 1]; all are kept in memory as features, so a few dozen tiles, not more.
        Raises:
            ConfigError: the network has no INAM.
            DataError: there are no batches.
        """
        if not self.config.inam:
            raise ConfigError("expected a network with INAM, got inam=False; it has no statistics to freeze")
        network = IDSANet(dataclasses.replace(self.config, statistics="frozen"))
        network.load_state_dict(self.state_dict())
        network.to(self.up.weight.device).eval()
        states = [network.features(mirror_to_multiple(batch, self.config.window)) for batch in batches]
        if not states:
            raise DataError("expected at least one batch to calibrate statistics on, got none; pass some images")
        for block in network.blocks:
            assert isinstance(block, ASDB)
            assert isinstance(block.inam, INAM)
            bodies = [block.body(y, matrices) for y, matrices in states]
            block.inam.calibrate(bodies)
            states = [(y + block.inam(body), matrices) for (y, matrices), body in zip(states, bodies, strict=True)]
        network.freeze_statistics()
        return network.train(self.training)

    def deployed(self) -> DeployedIDSANet:
        """A new module in eval mode that equals this one in eval mode to 1e-5, on sizes that are window multiples."""
        return DeployedIDSANet(self)


class DeployedIDSANet(_Skeleton):
    """The deployment form of IDSA-Net: no padding, no lookups, no depthwise kernel above 25 taps, folded statistics.

    Any batch and any multiple of the window; sizes are read from the input, so an exported graph is for one size.
    """

    def __init__(self, trained: IDSANet) -> None:
        super().__init__()
        self.config = trained.config
        self.head, self.tail, self.up = (copy.deepcopy(m) for m in (trained.head, trained.tail, trained.up))
        self.matrices = None if trained.matrices is None else trained.matrices.deployed()
        self.blocks = nn.ModuleList(block.deployed() for block in trained.blocks if isinstance(block, ASDB))
        self.spread = nn.Conv2d(3, 3 * self.scale**2, 1, bias=False)
        with torch.no_grad():
            self.spread.weight.copy_(torch.eye(3).repeat_interleave(self.scale**2, dim=0)[:, :, None, None])
        self.to(trained.up.weight.device).eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1], H and W multiples of the window -> (B, 3, scale * H, scale * W)."""
        return functional.pixel_shuffle(self.details(x) + self.spread(x), self.scale)


def mirror_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Extend (B, C, H, W) at the bottom and right to multiples, mirrored with the edge pixel repeated; any H, W >= 1.

    Raises:
        ShapeError: not four axes, or one of them empty.
    """
    if x.dim() != 4 or 0 in x.shape:
        raise ShapeError(f"expected a batch (B, C, H, W) with at least one pixel, got {tuple(x.shape)}; add the batch")
    for axis in (2, 3):
        size = x.shape[axis]
        if size % multiple:
            there_and_back = torch.arange(-(-size // multiple) * multiple, device=x.device) % (2 * size)
            x = x.index_select(axis, torch.minimum(there_and_back, 2 * size - 1 - there_and_back))
    return x
