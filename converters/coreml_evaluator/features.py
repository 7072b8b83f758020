"""What goes into a function and what comes out of it: pictures and tensors, as a package describes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converters.coreml_evaluator.value_types import FLOATS, STORAGE, rounded
from converters.mil_reader import UNKNOWN_SIZE, TensorType
from edge_sr.errors import ArtifactError, RunnerError, ShapeError

Picture = NDArray[np.uint8]
Colour = Literal["RGB", "BGR", "GRAYSCALE"]
# Numbers of FeatureTypes.proto's ArrayFeatureType.ArrayDataType.
_ARRAY_TYPES = {65568: "float32", 65552: "float16", 131104: "int32", 131080: "int8"}


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An input or an output.

    Attributes:
        name: of the feature.
        kind: "image": (h, w, 3) uint8 RGB outside, or (h, w) where it is grey; "tensor": a tensor outside.
        shape: of what is given or returned; of a flexible one the default, () where there is none.
        dtype: MIL's type of the tensor, "uint8" for a picture.
        colour: order of the channels inside, "" for a tensor. Outside it is always RGB.
        value_type: the program's own type, with unknown sizes where they are flexible.
        description: as the author of the package wrote it.
    """

    name: str
    kind: Literal["image", "tensor"]
    shape: tuple[int, ...]
    dtype: str
    colour: Colour | Literal[""]
    value_type: TensorType
    description: str

    @property
    def is_image(self) -> bool:
        return self.kind == "image"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_feature(proto: Any, value_type: TensorType, where: str) -> Feature:
    """A feature of a ``FeatureDescription`` and the program's value behind it.

    Raises:
        RunnerError: neither a tensor nor an 8-bit picture.
        ArtifactError: the program's value has another rank than a picture.
    """
    kind = proto.type.WhichOneof("Type")
    if kind == "multiArrayType":
        array = proto.type.multiArrayType
        dtype = _ARRAY_TYPES.get(int(array.dataType), "")
        if dtype not in STORAGE:
            raise RunnerError(
                f"expected {proto.name!r} of {where} to be of a known type, got {array.dataType}: the evaluator knows "
                f"{', '.join(_ARRAY_TYPES.values())}"
            )
        return Feature(
            name=proto.name,
            kind="tensor",
            shape=tuple(map(int, array.shape)),
            dtype=dtype,
            colour="",
            value_type=value_type,
            description=proto.shortDescription,
        )
    if kind != "imageType":
        raise RunnerError(f"expected tensors and pictures in {where}, got {proto.name!r} of type {kind}")
    picture = proto.type.imageType
    colour = type(picture).ColorSpace.Name(picture.colorSpace)
    if colour not in ("RGB", "BGR", "GRAYSCALE"):
        raise RunnerError(f"expected {proto.name!r} of {where} to be RGB, BGR or GRAYSCALE, got {colour}")
    if len(value_type.shape) != 4 or value_type.dtype not in FLOATS:
        raise ArtifactError(
            f"expected the picture {proto.name!r} of {where} to be 4 axes of floats, got {value_type.shape} "
            f"{value_type.dtype}: export it again"
        )
    size = (int(picture.height), int(picture.width))
    return Feature(
        name=proto.name,
        kind="image",
        shape=size if colour == "GRAYSCALE" else (*size, 3),
        dtype="uint8",
        colour=colour,
        value_type=value_type,
        description=proto.shortDescription,
    )


def to_value(feature: Feature, given: Tensor | np.ndarray[Any, Any], *, halve: bool) -> Tensor:
    """What the program computes with, of what a caller gives.

    Args:
        feature: the input.
        given: (h, w, 3) or (h, w) uint8 for a picture, else a tensor or an array of the feature's shape. Whole numbers
            are taken for floats, never the reverse.
        halve: round float16 inputs.
    Raises:
        ShapeError: another shape or type.
    """
    tensor = torch.as_tensor(given).detach()
    value_type = feature.value_type
    if feature.is_image:
        rank = 2 if feature.colour == "GRAYSCALE" else 3
        if tensor.dtype != torch.uint8 or tensor.ndim != rank or (rank == 3 and tensor.shape[2] != 3):
            expected = "(height, width)" if rank == 2 else "(height, width, 3)"
            raise ShapeError(f"expected {expected} uint8 as {feature.name!r}, got {tuple(tensor.shape)} {tensor.dtype}")
        planes = tensor[None] if rank == 2 else tensor.permute(2, 0, 1)
        if feature.colour == "BGR":
            planes = planes.flip(0)
        value = planes[None].to(torch.float32).contiguous()
    else:
        floats = value_type.dtype in FLOATS
        if tensor.is_complex() or (tensor.is_floating_point() and not floats):
            raise ShapeError(f"expected {value_type.dtype} as {feature.name!r}, got {tensor.dtype}")
        value = tensor.to("cpu", STORAGE[value_type.dtype])
    if len(value.shape) != len(value_type.shape) or any(
        wanted not in (UNKNOWN_SIZE, size) for wanted, size in zip(value_type.shape, value.shape, strict=True)
    ):
        sizes = ", ".join("any" if size == UNKNOWN_SIZE else str(size) for size in value_type.shape)
        raise ShapeError(f"expected {feature.name!r} to become ({sizes}) in the program, got {tuple(value.shape)}")
    return rounded(value) if halve and value_type.dtype == "float16" else value


def from_value(feature: Feature, value: Tensor, blame: Callable[[], str]) -> Tensor | Picture:
    """What a caller gets of what the program computed.

    A picture's values are clamped to [0, 255] and rounded to the nearest level, halves upwards. Core ML does not
    document what it does with fractions; a program that rounds by itself leaves it no choice.

    Raises:
        RunnerError: a value is NaN or infinite; ``blame`` says where that comes from.
    """
    if value.is_floating_point() and value.numel():
        low, high = torch.aminmax(value)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise RunnerError(f"expected finite values as {feature.name!r}, got NaN or infinity{blame()}")
    if not feature.is_image:
        return value.to(torch.float16 if feature.dtype == "float16" else STORAGE[feature.dtype], copy=True)
    if value.ndim != 4 or value.shape[:2] != (1, 1 if feature.colour == "GRAYSCALE" else 3):
        raise RunnerError(f"expected one picture as {feature.name!r}, got values of shape {tuple(value.shape)}")
    planes = value[0].clamp(0, 255).add_(0.5).to(torch.uint8)
    if feature.colour == "BGR":
        planes = planes.flip(0)
    picture: Picture = (planes[0] if feature.colour == "GRAYSCALE" else planes.permute(1, 2, 0)).contiguous().numpy()
    return picture
