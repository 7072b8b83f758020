"""The training loss against arithmetic by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_sr.errors import ConfigError
from edge_sr.training.losses import pixel_loss

SR, HR = (np.random.default_rng(seed).random((2, 3, 5, 4)).astype(np.float32) for seed in (1, 2))
ERROR = (SR - HR).astype(np.float64)
# Rec. ITU-R BT.601-7, 2.5.1.
LUMA_ERROR = 0.299 * ERROR[:, 0] + 0.587 * ERROR[:, 1] + 0.114 * ERROR[:, 2]


def loss(kind: str = "l1", luma_weight: float = 0.0) -> float:
    return pixel_loss(torch.from_numpy(SR), torch.from_numpy(HR), kind, luma_weight=luma_weight).item()


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_loss_is_shared_by_colours_and_luma(weight: float) -> None:
    absolute = weight * np.abs(LUMA_ERROR).mean() + (1 - weight) * np.abs(ERROR).mean()
    squared = weight * (LUMA_ERROR**2).mean() + (1 - weight) * (ERROR**2).mean()
    assert loss("l1", weight) == pytest.approx(absolute, rel=1e-5)
    assert loss("l2", weight) == pytest.approx(squared, rel=1e-5)


def test_an_error_of_colour_alone_is_no_error_of_luma() -> None:
    hr = torch.full((1, 3, 2, 2), 0.5)
    # More red and less blue by amounts that luma does not see.
    shifted = hr + torch.tensor([0.114, 0.0, -0.299]).view(1, 3, 1, 1)
    assert pixel_loss(shifted, hr, luma_weight=1.0).item() == pytest.approx(0.0, abs=1e-7)
    assert pixel_loss(shifted, hr, luma_weight=0.5).item() == pytest.approx(0.5 * (0.114 + 0.299) / 3, rel=1e-5)


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ConfigError, match="loss must be one of l1, l2, got 'huber'"):
        loss("huber")
