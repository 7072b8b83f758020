"""Muon for convolutions: momentum whose update is orthogonalised, kernel by kernel.

``torch.optim.Muon`` takes matrices only; here a kernel (out, in, k, k) is treated as a matrix (out, in*k*k).
Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the update's size is matched
to Adam's as in J. Liu et al., "Muon is scalable for LLM training" (2025), so that one learning rate serves both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

# Quintic Newton-Schulz iteration: five rounds bring singular values of a normalised matrix into about [0.7, 1.2].
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_ADAM_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum.

    Args:
        parameters: tensors of two or more dimensions; the first is the output.
        lr: learning rate on Adam's scale; a tensor can be changed between the replays of a CUDA graph.
        momentum: decay of the running gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float | Tensor, momentum: float = 0.95) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})
        for group in self.param_groups:  # now and not at the first step, which may be recorded as a CUDA graph
            for parameter in group["params"]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.flatten(1).shape), []).append(parameter)
            for alike in by_shape.values():
                self._update(alike, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update kernels whose matrices have one shape as one batch: a GPU spends its time starting small products."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        running = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(running, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, running, group["momentum"])
        updates = orthogonalised(torch.stack([direction.flatten(1) for direction in directions]))
        updates = updates * (-group["lr"] * _ADAM_RMS * math.sqrt(max(updates.shape[1:])))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.add_(update.reshape(parameter.shape))


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: same singular vectors, singular values in about [0.7, 1.2].

    Args:
        matrices: (count, rows, columns), float.
    Returns:
        the same shape and dtype.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-12)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def split_parameters(network: nn.Module, last: Iterable[Tensor]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Which parameters Muon trains and which are left to Adam.

    Muon gets hidden kernels. Adam keeps vectors, kernels with one output, kernels that read the image's three colours
    and those of ``last`` (the layer that makes the pixels).
    """
    kept = {id(parameter) for parameter in last}
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in network.parameters():
        is_kernel = parameter.ndim >= 2 and parameter.shape[0] > 1 and parameter.shape[1] != 3
        (hidden if is_kernel and id(parameter) not in kept else rest).append(parameter)
    return hidden, rest
