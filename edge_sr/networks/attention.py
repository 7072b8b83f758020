"""One pair of attention matrices, computed once and applied by every block to all of its streams.

A token is one pixel. A *window* is 8x8 neighbouring pixels; a *grid* is 8x8 pixels spread evenly over the whole input
(every ``height // 8``-th row and ``width // 8``-th column), so one matrix sees details and the other sees far.
Everything is spelled in moves of rank <= 4, which is what GPUs take, that hold for any batch, and ``torch.bmm`` on rank
3: the form that Core ML, LiteRT and XNNPACK take whole. Quantized checkpoints name their grids by counting the products
and permutes of the traced network, so these functions keep their number of both.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sr.networks.forms import pointwise

Matrices = tuple[Tensor, Tensor]
"""(windows, tokens, tokens) twice: softmaxed weights within 8x8 windows, and within 8x8 grids."""


def window_tokens(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * H/window * W/window, window**2, C): the pixels of each window."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch * (height // window), window, width // window, window * channels).permute(0, 2, 1, 3)
    return x.reshape(-1, window * window, channels)


def window_pixels(tokens: Tensor, like: Tensor, window: int) -> Tensor:
    """Inverse of :func:`window_tokens`; ``like`` is any (B, H, W, ?) tensor of the wanted batch and size."""
    batch, height, width, _ = like.shape
    channels = tokens.shape[2]
    x = tokens.reshape(batch * (height // window), width // window, window, window * channels).permute(0, 2, 1, 3)
    return x.reshape(batch, height, width, channels)


def grid_tokens(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (W/window * H/window * B, window**2, C): pixels that lie H/window rows, W/window columns apart.

    Grids are ordered by column, row and image, and the tokens within one by column: the order that a single move of
    rank 4 reaches, because rows of grids then stay beside columns of tokens. The move leaves the images between columns
    and rows of tokens, and the transposition behind it takes them out: for one image, it moves nothing.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(-1, height, width // window, channels).permute(2, 1, 0, 3)
    x = x.reshape(-1, window, batch, window * channels).transpose(1, 2)
    return x.reshape(-1, window * window, channels)


def grid_pixels(tokens: Tensor, like: Tensor, window: int) -> Tensor:
    """Inverse of :func:`grid_tokens`; ``like`` is any (B, H, W, ?) tensor of the wanted batch and size."""
    batch, height, width, _ = like.shape
    channels = tokens.shape[2]
    x = tokens.reshape(-1, batch, window, window * channels).transpose(1, 2)
    x = x.reshape(width // window, height, -1, channels).permute(2, 1, 0, 3)
    return x.reshape(batch, height, width, channels)


def attend(near: Tensor, far: Tensor, matrices: Matrices, window: int) -> tuple[Tensor, Tensor]:
    """Apply the shared matrices: one ``bmm`` by window for ``near``, one by grid for ``far``.

    Args:
        near, far: (B, H, W, C), H and W multiples of ``window``.
    Returns:
        (B, H, W, C) each: attended near, attended far.
    """
    attended_near = window_pixels(torch.bmm(matrices[0], window_tokens(near, window)), near, window)
    attended_far = grid_pixels(torch.bmm(matrices[1], grid_tokens(far, window)), far, window)
    return attended_near, attended_far


def relative_offsets(window: int) -> Tensor:
    """(window**2, window**2) int64: row of a table of (2 * window - 1)**2 biases, one per offset of two tokens."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    row_offset = rows[:, None] - rows[None, :] + window - 1
    column_offset = columns[:, None] - columns[None, :] + window - 1
    return row_offset * (2 * window - 1) + column_offset


class AttentionMatrix(nn.Module):
    """softmax(q k^T / sqrt(dim) + bias of the offset) among the tokens of each window, or of each grid."""

    offsets: Tensor

    def __init__(self, channels: int, dim: int, window: int, *, grid: bool) -> None:
        super().__init__()
        self.window, self.grid, self.gain = window, grid, dim**-0.5
        self.query = nn.Conv2d(channels, dim, 1)
        self.key = nn.Conv2d(channels, dim, 1, bias=False)  # a bias here cancels in the softmax
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2))
        offsets = relative_offsets(window)
        if grid:  # tokens go by column, see grid_tokens
            offsets = offsets.reshape(window, window, window, window).permute(1, 0, 3, 2).reshape(offsets.shape)
        self.register_buffer("offsets", offsets.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B * H/window * W/window, window**2, window**2), rows sum to 1."""
        query, key = pointwise(self.query, x) * self.gain, pointwise(self.key, x)
        scores = similarities(query, key, self.window, grid=self.grid)
        return functional.softmax(scores + self.bias[self.offsets], dim=-1)

    def deployed(self) -> DeployedAttentionMatrix:
        """The same matrix with the scaling folded into the query and the bias looked up."""
        return DeployedAttentionMatrix(self)


class DeployedAttentionMatrix(nn.Module):
    """:class:`AttentionMatrix` without the lookup and the scaling."""

    bias: Tensor

    def __init__(self, trained: AttentionMatrix) -> None:
        super().__init__()
        self.window, self.grid = trained.window, trained.grid
        self.query, self.key = copy.deepcopy(trained.query), copy.deepcopy(trained.key)
        with torch.no_grad():
            for parameter in self.query.parameters():
                parameter.mul_(trained.gain)
        self.register_buffer("bias", trained.bias.detach()[trained.offsets][None].clone())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`AttentionMatrix.forward`."""
        scores = similarities(self.query(x), self.key(x), self.window, grid=self.grid)
        return functional.softmax(scores + self.bias, dim=-1)


def similarities(query: Tensor, key: Tensor, window: int, *, grid: bool) -> Tensor:
    """Two (B, dim, H, W) -> (B * H/window * W/window, window**2, window**2): products of the tokens' vectors."""
    tokens = grid_tokens if grid else window_tokens
    queries, keys = tokens(query.permute(0, 2, 3, 1), window), tokens(key.permute(0, 2, 3, 1), window)
    return torch.bmm(queries, keys.permute(0, 2, 1))


class AttentionMatrices(nn.Module):
    """The pair of matrices from one tensor of features.

    ``context`` puts a 3x3 convolution with ReLU before the queries and keys, so that a token knows its surroundings:
    wanted where the features are the head's, which have seen 3x3 pixels only.
    """

    def __init__(self, channels: int, dim: int, window: int, *, context: bool) -> None:
        super().__init__()
        self.context = nn.Conv2d(channels, channels, 3, padding=1) if context else None
        self.near: AttentionMatrix | DeployedAttentionMatrix = AttentionMatrix(channels, dim, window, grid=False)
        self.far: AttentionMatrix | DeployedAttentionMatrix = AttentionMatrix(channels, dim, window, grid=True)

    def forward(self, x: Tensor) -> Matrices:
        """(B, channels, H, W), H and W multiples of the window -> the pair."""
        if self.context is not None:
            x = functional.relu(self.context(x))
        return self.near(x), self.far(x)

    def deployed(self) -> AttentionMatrices:
        """A copy with both matrices in deployment form."""
        matrices = copy.deepcopy(self).eval()
        assert isinstance(self.near, AttentionMatrix)
        assert isinstance(self.far, AttentionMatrix)
        matrices.near, matrices.far = self.near.deployed(), self.far.deployed()
        return matrices
