"""Pictures as cameras and bitmaps on phones hold them, around a network that wants planes."""

from __future__ import annotations

from torch import Tensor, nn


class Pictures(nn.Module):
    """A network with NHWC pictures in and out: (1, h, w, 3) -> (1, scale*h, scale*w, 3)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> Tensor:
        result: Tensor = self.network(picture.permute(0, 3, 1, 2))
        return result.permute(0, 2, 3, 1)
