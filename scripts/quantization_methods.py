"""The ways of quantizing that scripts/measure_quantization.py compares, on the same crops of training photos."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.progress import Progress
from edge_sr.checkpoints import load_checkpoint
from edge_sr.errors import CheckpointError
from edge_sr.training import HeldOut, open_pool
from edge_sr.training.crop_pool import CropPool
from quantization.bias_correction import correct_biases
from quantization.calibration import calibrate, search_ranges
from quantization.qat import QATConfig, measure, train_qat
from quantization.quantizer import QuantizedNetwork, prepare
from quantization.rounding import learn_rounding
from quantization.state import load_quantized, save_quantized

SCHEME = "w8a8"

# Method -> the one whose network it starts from.
METHODS: dict[str, str | None] = {
    "minmax": None,
    "search": "minmax",
    "search_bias": "search",
    "search_rounding": "search",
    "qat_hr": "search",
    "qat_distillation": "search",
}
# Crops for ranges, means and moments come from other seeds than those trained on.
_SEED, _CALIBRATION_SEED = 1, 1_000_001


def packed_photos(folder: Path, scale: int, cache: Path, progress: Progress) -> CropPool:
    """The pool of training photos, packed into ``cache`` where that was not done before.

    Raises:
        DataError: missing or empty folder, or fewer photos than are held out.
    """
    return open_pool(
        folder, scale=scale, cache=cache, progress=lambda done, total: progress("pack photos", done, total)
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How much data and time the methods get.

    Attributes:
        batches, crops, side: for ranges, biases and roundings: batches of so many LR crops of side x side pixels.
        searched, searched_side: the range search takes the first so many batches, cut to this side.
        steps, train_crops, patch: steps of quantization-aware training, crops per step and their side in LR pixels.
    """

    batches: int
    crops: int
    side: int
    searched: int
    searched_side: int
    steps: int
    train_crops: int
    patch: int

    def quick(self) -> Recipe:
        """Just enough to run every line."""
        return replace(self, batches=1, crops=1, searched=1, searched_side=16, steps=2, train_crops=1, patch=16)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


RECIPES = {
    "idsa_net_mobile": Recipe(
        batches=16, crops=4, side=64, searched=4, searched_side=64, steps=600, train_crops=8, patch=48
    ),
    # Twenty times the arithmetic and five times the grids: fewer and smaller crops keep each method within minutes.
    "idsa_net": Recipe(batches=6, crops=4, side=48, searched=3, searched_side=32, steps=160, train_crops=4, patch=48),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A quantized network and what it took.

    Attributes:
        seconds: wall clock from the float network on, methods it starts from included.
        held_out_psnr_y_db: on the held-out photos' crops.
        facts: what the method says of itself.
    """

    network: QuantizedNetwork
    path: Path
    seconds: float
    held_out_psnr_y_db: float
    facts: dict[str, Any]


class Workshop:
    """Makes and keeps the quantized networks of one float checkpoint.

    Args:
        checkpoint: float weights.
        pool: photos; crops are cut from those for training, scores are taken on those held out.
        recipe: how much of them.
        folder: keeps every network, so that none is made twice from the same weights, photos and recipe.
        progress: called after each step.
    """

    def __init__(self, checkpoint: Path, pool: CropPool, recipe: Recipe, folder: Path, progress: Progress) -> None:
        loaded = load_checkpoint(checkpoint)
        self.deployed: nn.Module = loaded.network.deployed()  # type: ignore[operator]
        self.made_of = {
            "float_checkpoint_sha256": loaded.sha256,
            "pool_sha256": pool.sha256,
            "recipe": recipe.to_json(),
        }
        self._recipe, self._folder, self._progress = recipe, folder, progress
        self._held_out = HeldOut(pool).crops
        self._train = pool.sampler(recipe.patch)
        sampler = pool.sampler(recipe.side)
        self._batches = [
            sampler.batch(recipe.crops, seed=_CALIBRATION_SEED, step=step).lr for step in range(recipe.batches)
        ]
        side = recipe.searched_side
        self._searched = [batch[:, :, :side, :side].contiguous() for batch in self._batches[: recipe.searched]]

    def float_held_out_psnr_y_db(self) -> float:
        """The float network's score on the held-out crops."""
        return measure(self.deployed, self._held_out)

    def make(self, method: str) -> Made:
        """The network of a method, from the folder where it was made before."""
        path = self._folder / f"{method}.safetensors"
        kept = self._kept(path)
        if kept is not None:
            return kept
        before = METHODS[method]
        start = None if before is None else self.make(before)
        network = prepare(self.deployed, SCHEME) if start is None else start.network
        began = time.perf_counter()
        facts = self._apply(method, network)
        seconds = time.perf_counter() - began + (0.0 if start is None else start.seconds)
        score = measure(network, self._held_out)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {"made_of": self.made_of, "seconds": seconds, "held_out_psnr_y_db": score, "facts": facts}
        save_quantized(path, network, known)
        return Made(network=network, path=path, seconds=seconds, held_out_psnr_y_db=score, facts=facts)

    def _kept(self, path: Path) -> Made | None:
        if not path.is_file():
            return None
        try:
            loaded = load_quantized(path)
        except CheckpointError as error:
            print(f"{path.stem} is made again: {error}", file=sys.stderr, flush=True)
            return None
        known = loaded.metadata
        if known.get("made_of") != self.made_of:
            return None
        return Made(
            network=loaded.qnet,
            path=path,
            seconds=known["seconds"],
            held_out_psnr_y_db=known["held_out_psnr_y_db"],
            facts=known["facts"],
        )

    def _apply(self, method: str, network: QuantizedNetwork) -> dict[str, Any]:
        def report(done: int, total: int) -> None:
            self._progress(method, done, total)

        match method:
            case "minmax":
                calibrate(network, self._batches, progress=report)
                return {}
            case "search":
                return {"mse": search_ranges(network, self.deployed, self._searched, progress=report)}
            case "search_bias":
                shifts = correct_biases(network, self.deployed, self._batches, progress=report)
                return {"largest_shift_steps": max(shift.largest_steps for shift in shifts)}
            case "search_rounding":
                rows = learn_rounding(network, self.deployed, self._batches, progress=report)
                gained = [row.learned_mse / row.nearest_mse for row in rows if row.nearest_mse > 0]
                return {"mean_error_left": sum(gained) / len(gained), "layers": len(rows)}
            case "qat_hr":
                return self._train_qat(
                    method, network, QATConfig(steps=self._recipe.steps, distillation_weight=0.0, hr_weight=1.0)
                )
            case _:
                return self._train_qat(method, network, QATConfig(steps=self._recipe.steps))

    def _train_qat(self, method: str, network: QuantizedNetwork, config: QATConfig) -> dict[str, Any]:
        def crops() -> Iterator[tuple[Tensor, Tensor]]:
            for step in count():
                both = self._train.batch(self._recipe.train_crops, seed=_SEED, step=step)
                yield both.lr, both.hr

        result = train_qat(
            network,
            self.deployed,
            crops(),
            config,
            held_out=self._held_out,
            progress=lambda record: self._progress(method, record.step, record.steps, f"loss {record.loss:.5f}"),
        )
        return {**result.to_json(), "config": asdict(config), "threads": torch.get_num_threads()}
