"""What the doctor tries in a process of its own: convert one convolution, load the result, compare with PyTorch.

:mod:`apps.doctor` calls :func:`probe_target` through :func:`converters.isolation.run_in_child`: a toolchain that aborts
or hangs then costs one line of the doctor's table.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from apps.runnable import reason_not_runnable
from converters.artifact import Artifact
from converters.export import export_artifact
from converters.runners import open_runner
from converters.targets import get_target
from edge_sr.errors import EdgeSRError
from edge_sr.runner import TorchRunner

PROBE_TILE = (16, 16)
_SCALE = 2
# Float results differ by a rounding flip at most.
_MOST_LEVELS = 1


class ProbeNetwork(nn.Module):
    """One convolution and a pixel shuffle: the smallest thing that upscales."""

    model_name = "probe"
    scale = _SCALE
    tile_multiple = 1
    context = 1

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 3 * _SCALE * _SCALE, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.rand(self.conv.weight.shape, generator=generator) / 27)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pixel_shuffle(self.conv(x), _SCALE)  # (B, 3, 2H, 2W)


def probe_target(target: str) -> str:
    """Convert and, where possible, run the probe network; returns what worked, in words.

    Raises:
        EdgeSRError: what did not.
    """
    torch.set_num_threads(1)
    network = ProbeNetwork().eval()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edge-sr-doctor-") as scratch:
        artifact = export_artifact(
            network=network,
            scheme=get_target(target).schemes[0],
            target=target,
            tile=PROBE_TILE,
            out_dir=Path(scratch),
            checkpoint_sha256="0" * 64,
        )
        converted = f"converts ({time.perf_counter() - start:.1f} s)"
        reason = reason_not_runnable(target)
        return f"{converted}; {reason}" if reason is not None else f"{converted}, {_compare(artifact, network)}"


def _compare(artifact: Artifact, network: nn.Module) -> str:
    lr = np.random.default_rng(0).integers(0, 256, (*PROBE_TILE, 3), dtype=np.uint8)
    expected = TorchRunner(network).run(lr).astype(np.int16)
    got = open_runner(artifact).run(lr).astype(np.int16)
    levels = int(np.abs(expected - got).max())
    if levels > _MOST_LEVELS:
        raise EdgeSRError(f"expected the result of PyTorch within {_MOST_LEVELS} level, got {levels} levels off")
    return "runs, equal to PyTorch" if levels == 0 else f"runs, within {levels} level of PyTorch"
