"""PSNR on held-out training photos: what checkpoints are chosen by."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edge_sr.errors import DataError
from edge_sr.metrics import mean_psnr_db, psnr_y
from edge_sr.resize import bicubic_resize
from edge_sr.runner import to_float, to_uint8
from edge_sr.training.crop_pool import CropPool

_SIDE = 64
_BATCH = 8


class HeldOut:
    """Centre crops of the held-out photos, at most ``side`` x ``side`` LR pixels, grouped by size.

    Args:
        pool: the packed photos.
        side: LR pixels.
    Raises:
        DataError: the pool holds no photo out.
    """

    def __init__(self, pool: CropPool, side: int = _SIDE) -> None:
        if not pool.held_out_images:
            raise DataError("expected held-out photos to validate on, got none; set hold_out to 1 or more")
        self.scale = pool.scale
        self.crops = []
        for image in pool.held_out_images:
            lr, hr = pool.pixels(image)
            (h, w), s = (min(side, full) for full in lr.shape[:2]), pool.scale
            top, left = (lr.shape[0] - h) // 2, (lr.shape[1] - w) // 2
            hr_crop = hr[top * s : (top + h) * s, left * s : (left + w) * s]
            self.crops.append((lr[top : top + h, left : left + w].copy(), hr_crop.copy()))

    @torch.no_grad()
    def psnr_y_db(self, network: nn.Module, device: torch.device) -> float:
        """Mean PSNR on luma in dB of a network (run in eval mode, fp32)."""
        was_training = network.training
        network.eval()
        scores = []
        for group in self._batches():
            lr = torch.cat([to_float(crop) for crop, _ in group]).to(device)
            outputs = network(lr).float().cpu()
            for output, (_, hr) in zip(outputs, group, strict=True):
                scores.append(psnr_y(to_uint8(output), hr, crop_border=self.scale))
        network.train(was_training)
        return mean_psnr_db(scores)

    def bicubic_psnr_y_db(self) -> float:
        """The same of bicubic upscaling: what every network must beat."""
        scores = [psnr_y(bicubic_resize(lr, *hr.shape[:2]), hr, crop_border=self.scale) for lr, hr in self.crops]
        return mean_psnr_db(scores)

    def _batches(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        by_shape: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
        for lr, hr in self.crops:
            by_shape.setdefault(lr.shape, []).append((lr, hr))
        return [group[i : i + _BATCH] for group in by_shape.values() for i in range(0, len(group), _BATCH)]
