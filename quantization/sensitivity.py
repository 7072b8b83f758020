"""Which parts of a network pay for int8: one part quantized at a time, and everything but one part.

Each place where int8 loses something (:mod:`quantization.places`) can be switched on by itself, with everything else
computing in float, so that it is weighed by what it does to the picture. Roundings are nearly independent of one
another, so the errors of the parts by themselves add up to about that of the whole; to somewhat more where a value is
rounded again on a grid about as fine, which then costs less than it does by itself.

What a float part does to its neighbours is not in it: a target rounds a float result again where the next int8 operator
reads it. :func:`measure_whole` measures a network prepared for another scheme as it is, for a choice between schemes.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edge_sr.errors import ConfigError
from edge_sr.metrics import mean_psnr_db, psnr_drop_db, psnr_y
from edge_sr.runner import check_lr, to_float, to_uint8
from quantization.fake_quant import Grid, Mode, QuantizedConv2d
from quantization.places import VIEWS, WEIGHTS, find_parts, find_places
from quantization.quantizer import QuantizedNetwork

Image = NDArray[np.uint8]
Progress = Callable[[int, int], None]

_LEVELS = 255.0
_NO_IMAGES = "expected at least one image to measure on, got none; pass (lr, hr) crops"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What some rounding does to the picture.

    Attributes:
        mse_levels2: mean squared error to the float network's output (clamped, not yet rounded to 8 bits), in squared
            levels of 255.
        drop_db: PSNR-Y of the float network against HR less that with the rounding; the mean over the images.
        drop_error_db: standard error of that mean; None for a single image.
    """

    mse_levels2: float
    drop_db: float
    drop_error_db: float | None


@dataclass(frozen=True, kw_only=True)
class PartSensitivity:
    """One part.

    Attributes:
        weights, values: how many weight tensors and how many computed values are rounded in it.
        alone: only this part is int8.
        others: everything but this part is int8.
    """

    view: str
    name: str
    weights: int
    values: int
    alone: Effect
    others: Effect


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """A network's parts, in each view the most harmful one first.

    Attributes:
        whole: every part is int8.
        network_drop_db: the same by the quantized network's own integer arithmetic; a check of ``whole``.
        parts: ordered by ``alone.mse_levels2`` within each view.
    """

    model: str
    scheme: str
    images: int
    float_psnr_y_db: float
    whole: Effect
    network_drop_db: float
    parts: tuple[PartSensitivity, ...]
    seconds: float

    def view(self, name: str) -> tuple[PartSensitivity, ...]:
        """The parts of one view, the most harmful one first."""
        return tuple(part for part in self.parts if part.view == name)

    def share_percent(self, part: PartSensitivity) -> float:
        """A part's error by itself, in percent of the whole's; independent ones add up to 100 over a view."""
        return 100.0 * part.alone.mse_levels2 / self.whole.mse_levels2 if self.whole.mse_levels2 else 0.0

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        for entry, part in zip(content["parts"], self.parts, strict=True):
            entry["share_percent"] = self.share_percent(part)
        return content


def measure_sensitivity(
    network: QuantizedNetwork, images: Sequence[tuple[Image, Image]], *, progress: Progress | None = None
) -> Sensitivity:
    """Switch parts of a quantized network to int8 one at a time, and all but one.

    The float network is the same network without rounding, so its weights must be the float ones: not those of
    quantization-aware training.

    Args:
        network: calibrated; it is not changed.
        images: (lr, hr) uint8 RGB, LR sides multiples of the network's ``tile_multiple``. A couple of dozen crops of
            64x64 do: errors are taken to the float output, which is far less noisy than PSNR.
        progress: called with (runs over the images done, in all).
    Raises:
        ConfigError: no image, no range yet, or nothing that is rounded.
        ShapeError: an LR image is not (h, w, 3) uint8.
    """
    if not images:
        raise ConfigError(_NO_IMAGES)
    start = time.perf_counter()
    parts = find_parts(network)
    if not parts:
        raise ConfigError("expected a network with quantized layers, got one without; prepare it for an int8 scheme")
    meter = _Meter(network, images)
    total = 2 * len(parts) + 1

    def effect(places: Iterable[str], done: int) -> Effect:
        found = meter.effect(frozenset(places))
        if progress is not None:
            progress(done, total)
        return found

    every = {place.node for part in parts for place in part.places}
    whole = effect(every, 1)
    rows = []
    for index, part in enumerate(parts):
        own = {place.node for place in part.places}
        rows.append(
            PartSensitivity(
                view=part.view,
                name=part.name,
                weights=sum(place.op == WEIGHTS for place in part.places),
                values=sum(place.op != WEIGHTS for place in part.places),
                alone=effect(own, 2 * index + 2),
                others=effect(every - own, 2 * index + 3),
            )
        )
    rows.sort(key=lambda row: (VIEWS.index(row.view), -row.alone.mse_levels2))
    return Sensitivity(
        model=str(getattr(network, "model_name", type(network).__name__)),
        scheme=network.scheme.name,
        images=len(images),
        float_psnr_y_db=mean_psnr_db(meter.float_psnr_y_db),
        whole=whole,
        network_drop_db=meter.network_drop_db(network),
        parts=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def measure_whole(network: QuantizedNetwork, images: Sequence[tuple[Image, Image]]) -> Effect:
    """What all roundings of a network do together; arguments and errors as for :func:`measure_sensitivity`."""
    if not images:
        raise ConfigError(_NO_IMAGES)
    return _Meter(network, images).effect(frozenset(place.node for place in find_places(network)))


class _Meter:
    """Runs the network with some places rounded and compares it with float."""

    def __init__(self, network: QuantizedNetwork, images: Sequence[tuple[Image, Image]]) -> None:
        for lr, _ in images:
            check_lr(lr, None)
        self.network = _PartlyQuantized(network)
        self.scale = network.scale
        self.hr = [hr for _, hr in images]
        self.inputs = [to_float(lr) for lr, _ in images]
        with torch.inference_mode():
            self.targets = [self.network.compute(x, frozenset()).clamp(0, 1) for x in self.inputs]
        self.float_psnr_y_db = [self._psnr(y, hr) for y, hr in zip(self.targets, self.hr, strict=True)]

    @torch.inference_mode()
    def effect(self, active: frozenset[str]) -> Effect:
        squares, pixels, drops = 0.0, 0, []
        for x, target, hr, best in zip(self.inputs, self.targets, self.hr, self.float_psnr_y_db, strict=True):
            y = self.network.compute(x, active).clamp(0, 1)
            squares += float(((y - target) * _LEVELS).square().sum())
            pixels += y.numel()
            drops.append(psnr_drop_db(best, self._psnr(y, hr)))
        error = statistics.stdev(drops) / len(drops) ** 0.5 if len(drops) > 1 else None
        return Effect(mse_levels2=squares / pixels, drop_db=statistics.fmean(drops), drop_error_db=error)

    @torch.inference_mode()
    def network_drop_db(self, network: QuantizedNetwork) -> float:
        quantized = copy.deepcopy(network).eval()
        quantized.set_mode(Mode.QUANTIZE)
        scores = [self._psnr(quantized(x), hr) for x, hr in zip(self.inputs, self.hr, strict=True)]
        return statistics.fmean(map(psnr_drop_db, self.float_psnr_y_db, scores))

    def _psnr(self, y: Tensor, hr: Image) -> float:
        return psnr_y(to_uint8(y), hr, crop_border=self.scale)


class _PartlyQuantized(fx.Interpreter):
    """A quantized network that rounds at chosen places only.

    Convolutions compute in float on rounded operands, where the network itself computes on integers: with every place
    chosen the two differ by float32's rounding, which now and then tips a value over to the next step of its grid.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        source = copy.deepcopy(network).eval().requires_grad_(False)
        source.set_mode(Mode.QUANTIZE)  # raises where a range is missing
        super().__init__(source.graph_module)
        self._modules: dict[str, nn.Module] = {
            node.name: source.graph_module.get_submodule(str(node.target))
            for node in source.graph_module.graph.nodes
            if node.op == "call_module"
        }
        self._rounded = {
            name: _rounded_weights(conv) for name, conv in self._modules.items() if isinstance(conv, QuantizedConv2d)
        }
        self._active: frozenset[str] = frozenset()

    def compute(self, x: Tensor, active: frozenset[str]) -> Tensor:
        self._active = active
        y: Tensor = self.run(x)
        return y

    def run_node(self, n: fx.Node) -> Any:
        module = self._modules.get(n.name)
        if not isinstance(module, Grid | QuantizedConv2d):
            return super().run_node(n)
        (x,), _ = self.fetch_args_kwargs_from_env(n)
        if isinstance(module, Grid):
            return module(x) if n.name in self._active else x
        weight, bias = self._rounded[n.name] if n.name in self._active else (module.weight, module.bias)
        return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation, module.groups)


def _rounded_weights(conv: QuantizedConv2d) -> tuple[Tensor, Tensor | None]:
    integers, scales, bias = conv.integer_parameters()
    return integers.float() * scales.view(-1, 1, 1, 1), bias
