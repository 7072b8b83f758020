"""Core ML's MIL programs as a :class:`~converters.graphs.graph.ComputeGraph`.

Constants, whether in the program or in ``weight.bin``, become values. So do compressed weights (``constexpr``
operations with int8 data), and what ``quantize`` makes carries its grid: the same picture as in the other formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from converters.graphs.graph import Array, ComputeGraph, Node, Quantization, Value
from converters.mil_reader import MilPackage, Operation, TensorType
from edge_sr.errors import ArtifactError
from edge_sr.sizes import short_size

# Compressed weights: parameter with the stored integers, with the zero point.
_COMPRESSED = {
    "constexpr_affine_dequantize": ("quantized_data", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "offset"),
}


def read_coreml(path: Path) -> ComputeGraph:
    """The main function of an ``.mlpackage``.

    Raises:
        ArtifactError: it is damaged, or no ML program.
        MissingToolError: coremltools, which brings the protobuf classes, is not installed.
    """
    package = MilPackage(path)
    build = _Build(package)
    for name, kind in package.input_types.items():
        build.add_value(name, kind)
    count = len(build.values)
    for operation in package.operations:
        build.add(operation)
    outputs = []
    for name in package.output_names:
        if name not in build.index_of:
            raise ArtifactError(f"expected the result {name!r} in {path}, got none: export it again")
        outputs.append(build.index_of[name])
    return ComputeGraph(
        values=tuple(build.values),
        nodes=tuple(build.nodes),
        inputs=tuple(range(count)),
        outputs=tuple(outputs),
        interface=tuple(_interface(feature) for side in package.features for feature in side),
        flexible={feature.name: spelled for feature in package.features[0] if (spelled := _flexibility(feature))},
    )


def _interface(feature: Any) -> str:
    kind = feature.type.WhichOneof("Type")
    if kind != "imageType":
        return str(kind)
    picture = feature.type.imageType
    return f"{type(picture).ColorSpace.Name(picture.colorSpace)} {short_size((picture.height, picture.width))}"


def _flexibility(feature: Any) -> str:
    """How several sizes of a picture or an array are spelled; "" where there is one."""
    kind = feature.type.WhichOneof("Type")
    fields = {"imageType": "SizeFlexibility", "multiArrayType": "ShapeFlexibility"}
    spelled = getattr(feature.type, kind).WhichOneof(fields[kind]) if kind in fields else None
    if spelled is None:
        return ""
    return "enumerated" if "enumerated" in spelled.lower() else "range"


class _Build:
    """Values and nodes so far."""

    def __init__(self, package: MilPackage) -> None:
        self.values: list[Value] = []
        self.nodes: list[Node] = []
        self.index_of: dict[str, int] = {}
        self._texts: dict[str, str] = {}
        self._package = package

    def add_value(
        self, name: str, kind: TensorType, data: Array | None = None, quantization: Quantization | None = None
    ) -> int:
        self.index_of[name] = len(self.values)
        self.values.append(Value(name=name, dtype=kind.dtype, shape=kind.shape, data=data, quantization=quantization))
        return self.index_of[name]

    def add(self, operation: Operation) -> None:
        name, kind = operation.outputs[0]
        if operation.kind == "const":
            self._add_constant(name, kind, self._package.decode(operation.constants["val"]))
        elif operation.kind in _COMPRESSED:
            self._add_compressed(operation)
        else:
            self._add_node(operation)

    def _add_constant(self, name: str, kind: TensorType, content: Any) -> None:
        if isinstance(content, str):
            self._texts[name] = content
        else:
            self.add_value(name, kind, np.asarray(content))

    def _add_compressed(self, operation: Operation) -> None:
        stored_name, point_name = _COMPRESSED[operation.kind]
        stored = self._package.constant(operation, stored_name)
        scale = self._package.constant(operation, "scale")
        if stored is None or scale is None:
            raise ArtifactError(f"expected constant weights in {operation.name!r}, got computed ones: export it again")
        axis = self._package.constant(operation, "axis")
        place = int(axis) if axis is not None else _scale_axis(scale)
        grid = _grid(scale, self._package.constant(operation, point_name), place)
        name, kind = operation.outputs[0]
        self.add_value(name, TensorType(dtype=str(stored.dtype), shape=kind.shape), stored, grid)

    def _add_node(self, operation: Operation) -> None:
        attributes: dict[str, Any] = {}
        inputs: list[int | None] = []
        parameters = []
        for parameter in sorted({*operation.inputs, *operation.constants}):
            if parameter in operation.constants:
                names = [f"{operation.output}.{parameter}"]
                content = self._package.decode(operation.constants[parameter])
                kind = self._package.constant_type(operation, parameter)
                self._add_constant(names[0], kind or TensorType(dtype="unknown", shape=()), content)
            else:
                names = list(operation.inputs[parameter])
            for name in names:
                if name in self._texts:
                    attributes[parameter] = self._texts[name]
                elif name in self.index_of:
                    inputs.append(self.index_of[name])
                    parameters.append(parameter)
                else:
                    raise ArtifactError(f"expected a value {name!r} in the program, got none: export it again")
        attributes["parameters"] = parameters
        quantization = self._quantization_of(operation)
        outputs = [self.add_value(name, kind, None, quantization) for name, kind in operation.outputs]
        self.nodes.append(
            Node(
                kind=operation.kind,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                attributes=attributes,
                name=operation.name,
            )
        )

    def _quantization_of(self, operation: Operation) -> Quantization | None:
        if operation.kind != "quantize":
            return None
        scale = self._package.constant(operation, "scale")
        if scale is None:
            return None
        axis = self._package.constant(operation, "axis")
        return _grid(scale, self._package.constant(operation, "zero_point"), 0 if axis is None else int(axis))


def _grid(scale: Array, zero_point: Array | None, axis: int) -> Quantization:
    scales = np.asarray(scale).reshape(-1)
    points = np.zeros(1, np.int32) if zero_point is None else np.asarray(zero_point).reshape(-1)
    points = np.broadcast_to(points, scales.shape)
    return Quantization(qscale=scales, zero_point=points.astype(np.int32), axis=axis if scales.size > 1 else 0)


def _scale_axis(scale: Array) -> int:
    """Of blockwise scales: the axis along which there are several."""
    several = [axis for axis, size in enumerate(scale.shape) if size > 1]
    if len(several) > 1:
        raise ArtifactError("expected one scale per channel, got scales per block: not looked into")
    return several[0] if several else 0
