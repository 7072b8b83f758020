"""A 3x3 convolution with training-only branches that live in weight space.

Multi-branch convolutions train better than plain ones and collapse into one kernel for deployment. The usual way runs
every branch on the feature maps; summing the *kernels* instead gives the same function and the same gradients for the
price of a few small matrix products per step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


class RepConv2d(nn.Module):
    """3x3 convolution, zero padding 1, whose kernel is ``weight + squeeze @ expand`` while it trains.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        expansion: inner width of the 3x3 -> 1x1 branch in multiples of ``out_channels``; 0 leaves the branch out.
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int) -> None:
        super().__init__()
        plain = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.weight = plain.weight
        self.bias = plain.bias
        self.expand: nn.Parameter | None = None
        self.squeeze: nn.Parameter | None = None
        if expansion:
            inner = expansion * out_channels
            self.expand = nn.Parameter(torch.randn(inner, in_channels * 9) * (1.0 / (in_channels * 9)) ** 0.5)
            # Zero at the start: the branch joins in without changing the plain initialisation.
            self.squeeze = nn.Parameter(torch.zeros(out_channels, inner))

    def kernel(self) -> Tensor:
        """The effective kernel, (out, in, 3, 3)."""
        if self.expand is None or self.squeeze is None:
            return self.weight
        return self.weight + (self.squeeze @ self.expand).reshape(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel(), self.bias, padding=1)

    @torch.no_grad()
    def collapsed(self) -> nn.Conv2d:
        """A plain convolution that computes the same."""
        kernel = self.kernel()
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
        conv.weight.copy_(kernel)
        assert conv.bias is not None and self.bias is not None
        conv.bias.copy_(self.bias)
        return conv
