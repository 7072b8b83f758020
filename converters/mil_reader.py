"""Read a saved ``.mlpackage``: its operations, its constants and its weight file, on any operating system.

Only the protobuf classes come from coremltools; the weight file is parsed here, so that what is read is what a phone
would read and not what the converter remembers. A program's operations are in execution order.
"""

from __future__ import annotations

import importlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.coreml_package import PROGRAM, WEIGHTS
from converters.coreml_toolchain import import_coremltools
from edge_sr.errors import ArtifactError

Array = np.ndarray[Any, np.dtype[Any]]

# MIL.proto's DataType by name, for the types a network of this project can hold.
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "FLOAT16": np.dtype("<f2"),
    "FLOAT32": np.dtype("<f4"),
    "INT8": np.dtype("i1"),
    "UINT8": np.dtype("u1"),
    "INT16": np.dtype("<i2"),
    "UINT16": np.dtype("<u2"),
    "INT32": np.dtype("<i4"),
}
# weight.bin: a 64-byte header, then for each blob 64 bytes (mark, type, size, position of the data) and its data.
_BLOB_MARK = 0xDEADBEEF
_BLOB_HEADER = struct.Struct("<IIQQ")
_BLOB_HEADER_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """``dtype`` in MIL's spelling, lower case ("float16", "int8", "string"); ``shape`` () for a scalar."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation. ``inputs`` maps a parameter to the values it names; ``constants`` to those written in place."""

    kind: str
    name: str
    inputs: dict[str, tuple[str, ...]]
    constants: dict[str, Any] = field(repr=False)
    outputs: tuple[tuple[str, TensorType], ...]

    @property
    def output(self) -> str:
        """Name of the first value it makes."""
        return self.outputs[0][0]


class MilPackage:
    """A package's protobuf (``spec``), the operations of its main function and their constants.

    Raises:
        ArtifactError: a file is missing or is not what it should be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = _parse_program(path)
        if "main" not in self.spec.mlProgram.functions:
            raise ArtifactError(f"expected an ML program with a function 'main' in {path}, got none: export it again")
        function = self.spec.mlProgram.functions["main"]
        self.opset: str = function.opset
        block = function.block_specializations[function.opset]
        self.input_types = {value.name: _tensor_type(value.type) for value in function.inputs}
        self.output_names: tuple[str, ...] = tuple(block.outputs)
        self.operations = tuple(_operation(operation) for operation in block.operations)
        self._producers = {name: operation for operation in self.operations for name, _ in operation.outputs}
        weights = path / WEIGHTS
        self._weights = weights.read_bytes() if weights.exists() else b""

    @property
    def weight_bytes(self) -> int:
        """Size of weight.bin; 0 where there is none."""
        return len(self._weights)

    @property
    def program_bytes(self) -> int:
        """Size of model.mlmodel: graph, small constants and metadata."""
        return (self.path / PROGRAM).stat().st_size

    def producer(self, operation: Operation, parameter: str) -> Operation | None:
        """The operation whose result ``parameter`` is; None for a network input or a constant written in place."""
        names = operation.inputs.get(parameter, ())
        return self._producers.get(names[0]) if names else None

    def constant(self, operation: Operation, parameter: str) -> Any:
        """Value of a constant parameter: an array, a string, or None where it is absent or not constant."""
        if parameter in operation.constants:
            return self._decode(operation.constants[parameter])
        source = self.producer(operation, parameter)
        if source is None or source.kind != "const":
            return None
        return self._decode(source.constants["val"])

    def constant_type(self, operation: Operation, parameter: str) -> TensorType | None:
        """Type of a constant parameter, None where it is absent or not constant."""
        if parameter in operation.constants:
            return _tensor_type(operation.constants[parameter].type)
        source = self.producer(operation, parameter)
        return source.outputs[0][1] if source is not None and source.kind == "const" else None

    def _decode(self, value: Any) -> Any:
        tensor_type = _tensor_type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            return self._blob(int(value.blobFileValue.offset), tensor_type)
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if kind == "strings":
            return "".join(tensor.strings.values)
        dtype = _numpy_type(tensor_type.dtype)
        values = getattr(tensor, kind).values
        flat = np.frombuffer(values, dtype) if kind == "bytes" else np.array(values, dtype)
        return flat.reshape(tensor_type.shape)

    def _blob(self, offset: int, tensor_type: TensorType) -> Array:
        dtype = _numpy_type(tensor_type.dtype)
        size = int(np.prod(tensor_type.shape, dtype=np.int64)) * dtype.itemsize
        if offset + _BLOB_HEADER_BYTES > len(self._weights):
            raise ArtifactError(f"expected weights at byte {offset} of {self.path / WEIGHTS}, got a shorter file")
        mark, _, blob_size, start = _BLOB_HEADER.unpack_from(self._weights, offset)
        if mark != _BLOB_MARK or blob_size != size or start + size > len(self._weights):
            raise ArtifactError(
                f"expected a blob of {size} bytes at byte {offset} of {self.path / WEIGHTS}, got other data: "
                "export it again"
            )
        return np.frombuffer(self._weights, dtype, count=size // dtype.itemsize, offset=start).reshape(
            tensor_type.shape
        )


def _parse_program(path: Path) -> Any:
    program = path / PROGRAM
    if not program.is_file():
        raise ArtifactError(f"expected a Core ML package with {PROGRAM}, got {path}: export it again")
    import_coremltools()
    protobuf_error = importlib.import_module("google.protobuf.message").DecodeError
    spec = importlib.import_module("coremltools.proto.Model_pb2").Model()
    try:
        spec.ParseFromString(program.read_bytes())
    except protobuf_error as error:
        raise ArtifactError(f"expected a Core ML protobuf, got a damaged {program}: export it again") from error
    return spec


def _operation(proto: Any) -> Operation:
    inputs: dict[str, tuple[str, ...]] = {}
    constants = {name: value for name, value in proto.attributes.items() if name != "name"}
    for parameter, argument in proto.inputs.items():
        bindings = argument.arguments
        if len(bindings) == 1 and bindings[0].WhichOneof("binding") == "value":
            constants[parameter] = bindings[0].value
        else:
            inputs[parameter] = tuple(binding.name for binding in bindings)
    label = proto.attributes["name"].immediateValue.tensor.strings.values if "name" in proto.attributes else ()
    return Operation(
        kind=proto.type,
        name=label[0] if label else proto.outputs[0].name,
        inputs=inputs,
        constants=constants,
        outputs=tuple((value.name, _tensor_type(value.type)) for value in proto.outputs),
    )


def _tensor_type(proto: Any) -> TensorType:
    tensor = proto.tensorType
    data_type = importlib.import_module("coremltools.proto.MIL_pb2").DataType
    return TensorType(
        dtype=data_type.Name(tensor.dataType).lower(),
        shape=tuple(int(dimension.constant.size) for dimension in tensor.dimensions),
    )


def _numpy_type(dtype: str) -> np.dtype[Any]:
    try:
        return _NUMPY_TYPES[dtype.upper()]
    except KeyError:
        known = ", ".join(sorted(name.lower() for name in _NUMPY_TYPES))
        raise ArtifactError(f"expected a constant of type {known}, got {dtype}: this reader does not know it") from None
