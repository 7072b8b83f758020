"""What a saved ``.mlpackage`` holds: operations, types, sizes, pictures in and out, and which convolutions are int8.

It reads the files and runs on any operating system. Which engine takes which operation is decided on the device, when
Core ML loads the package there: nothing here guesses at it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.mil_reader import MilPackage, Operation
from edge_sr.errors import ArtifactError, ConversionError, refuse_damaged

CONSTANT_KINDS = ("const", "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale")
# Parameter of each constexpr operation that holds the int8 values.
_STORED_VALUES = {"constexpr_affine_dequantize": "quantized_data", "constexpr_blockwise_shift_scale": "data"}
_INT8_TYPES = ("int8", "uint8")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that goes in or comes out, in pixels."""

    name: str
    height: int
    width: int
    channels: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution of the program.

    Attributes:
        weight_dtype: type the weight is stored in.
        input_kind: kind of the operation that makes its input; "" for the network's input.
    """

    name: str
    weight_shape: tuple[int, ...]
    weight_dtype: str
    input_kind: str

    @property
    def is_int8(self) -> bool:
        """Whether weight and input are both stored in 8 bits."""
        return self.weight_dtype in _INT8_TYPES and self.input_kind == "dequantize"


@dataclass(frozen=True, kw_only=True)
class CoreMLInspection:
    """Summary of a package.

    Attributes:
        specification_version: of the protobuf (8: iOS 17, 9: iOS 18); ``opset``: of the operations.
        operations: kind -> count, constants left out.
        quantize_ops, dequantize_ops: on activations; ``constexpr_ops``: weights stored compressed.
        value_dtypes: type -> number of computed values that have it.
        weight_bytes: weight.bin; ``program_bytes``: model.mlmodel (graph, small constants, metadata).
        smallest_qscale: of activations and weights (channels of zeros aside); None where nothing is quantized.
    """

    specification_version: int
    opset: str
    operations: dict[str, int]
    value_dtypes: dict[str, int]
    convolutions: tuple[Convolution, ...]
    inputs: tuple[Picture, ...]
    outputs: tuple[Picture, ...]
    metadata: dict[str, str]
    weight_bytes: int
    program_bytes: int
    smallest_qscale: float | None

    @property
    def quantize_ops(self) -> int:
        return self.operations.get("quantize", 0)

    @property
    def dequantize_ops(self) -> int:
        return self.operations.get("dequantize", 0)

    @property
    def constexpr_ops(self) -> int:
        return sum(count for kind, count in self.operations.items() if kind.startswith("constexpr_"))

    @property
    def size_bytes(self) -> int:
        """Weights and program: what the model costs in an application."""
        return self.weight_bytes + self.program_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "quantize_ops": self.quantize_ops,
            "dequantize_ops": self.dequantize_ops,
            "constexpr_ops": self.constexpr_ops,
            "size_bytes": self.size_bytes,
        }


def inspect_package(path: Path) -> CoreMLInspection:
    """Read the ``.mlpackage`` at ``path``.

    Raises:
        ArtifactError: it is damaged, or is not an ML program with pictures in and out.
        MissingToolError: coremltools, which brings the protobuf classes, is not installed.
    """
    with refuse_damaged(f"a Core ML package at {path}", ArtifactError):
        return _inspection(MilPackage(path))


def _inspection(package: MilPackage) -> CoreMLInspection:
    computed = [operation for operation in package.operations if operation.kind not in CONSTANT_KINDS]
    metadata = package.spec.description.metadata
    return CoreMLInspection(
        specification_version=int(package.spec.specificationVersion),
        opset=package.opset,
        operations=_counts(operation.kind for operation in package.operations if operation.kind != "const"),
        value_dtypes=_counts(value_type.dtype for operation in computed for _, value_type in operation.outputs),
        convolutions=tuple(_convolution(package, operation) for operation in computed if operation.kind == "conv"),
        inputs=tuple(_picture(feature) for feature in package.spec.description.input),
        outputs=tuple(_picture(feature) for feature in package.spec.description.output),
        metadata={
            "author": metadata.author,
            "license": metadata.license,
            "version": metadata.versionString,
            "short_description": metadata.shortDescription,
            **dict(sorted(metadata.userDefined.items())),
        },
        weight_bytes=package.weight_bytes,
        program_bytes=package.program_bytes,
        smallest_qscale=min(_scales(package), default=None),
    )


def require_int8_convolutions(inspection: CoreMLInspection) -> None:
    """Make sure that every convolution has an int8 weight and reads dequantized values.

    Raises:
        ConversionError: names those that do not; also where there is no convolution at all.
    """
    wrong = [convolution for convolution in inspection.convolutions if not convolution.is_int8]
    if not inspection.convolutions:
        raise ConversionError(
            "expected int8 convolutions in the Core ML package, got no convolution: check the network"
        )
    if wrong:
        listed = "; ".join(
            f"{convolution.name} ({convolution.weight_dtype} weight, input from {convolution.input_kind or 'outside'})"
            for convolution in wrong[:5]
        )
        raise ConversionError(
            f"expected {len(inspection.convolutions)} int8 convolutions in the Core ML package, got {len(wrong)} that "
            f"are not: {listed}; quantize them, or use a scheme that leaves them in float"
        )


def _convolution(package: MilPackage, operation: Operation) -> Convolution:
    weight = package.producer(operation, "weight")
    stored = package.constant_type(operation, "weight")
    if weight is not None and weight.kind in _STORED_VALUES:
        stored = package.constant_type(weight, _STORED_VALUES[weight.kind])
    source = package.producer(operation, "x")
    return Convolution(
        name=operation.name,
        weight_shape=stored.shape if stored is not None else (),
        weight_dtype=stored.dtype if stored is not None else "computed",
        input_kind=source.kind if source is not None else "",
    )


def _picture(feature: Any) -> Picture:
    kind = feature.type.WhichOneof("Type")
    if kind != "imageType":
        raise ArtifactError(
            f"expected a picture as {feature.name!r} of the Core ML package, got {kind}: export it again"
        )
    picture = feature.type.imageType
    return Picture(
        name=feature.name,
        height=int(picture.height),
        width=int(picture.width),
        channels=type(picture).ColorSpace.Name(picture.colorSpace),
        description=feature.shortDescription,
    )


def _scales(package: MilPackage) -> Iterator[float]:
    """Every scale that something depends on: a channel of zeros is zero whatever its scale."""
    for operation in package.operations:
        if operation.kind in ("quantize", "dequantize", *_STORED_VALUES):
            scale = package.constant(operation, "scale")
            if scale is None:
                raise ArtifactError(f"expected a constant scale in {operation.name!r}, got none: export it again")
            if operation.kind in _STORED_VALUES:
                integers = package.constant(operation, _STORED_VALUES[operation.kind])
                if scale.size > 1:  # one per output channel
                    scale = scale.reshape(-1)[np.any(integers.reshape(scale.size, -1), axis=1)]
            yield from map(float, scale.reshape(-1))


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
