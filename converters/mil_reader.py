"""Read a saved ``.mlpackage``: its operations, its constants and its weight file, on any operating system.

Only the protobuf classes come from coremltools; the weight file is parsed here, so that what is read is what a phone
would read and not what the converter remembers. A program's operations are in execution order.
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.coreml_package import PROGRAM, WEIGHTS
from converters.coreml_toolchain import import_coremltools
from edge_sr.errors import ArtifactError, refuse_damaged

Array = np.ndarray[Any, np.dtype[Any]]

# MIL.proto's DataType by name, in whole bytes ...
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "FLOAT16": np.dtype("<f2"),
    "FLOAT32": np.dtype("<f4"),
    "FLOAT64": np.dtype("<f8"),
    "INT8": np.dtype("i1"),
    "UINT8": np.dtype("u1"),
    "INT16": np.dtype("<i2"),
    "UINT16": np.dtype("<u2"),
    "INT32": np.dtype("<i4"),
    "UINT32": np.dtype("<u4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
}
# ... and in parts of bytes: bits of each, packed without gaps, the lowest bits of a byte first.
_PACKED_BITS: dict[str, int] = {"UINT1": 1, "UINT2": 2, "UINT3": 3, "UINT4": 4, "UINT6": 6, "INT4": 4}
# The same types as weight.bin numbers them (BlobDataType of coremltools 9.0's MILBlob).
_BLOB_TYPES: dict[str, int] = {
    "FLOAT16": 1,
    "FLOAT32": 2,
    "UINT8": 3,
    "INT8": 4,
    "INT16": 6,
    "UINT16": 7,
    "INT4": 8,
    "UINT1": 9,
    "UINT2": 10,
    "UINT4": 11,
    "UINT3": 12,
    "UINT6": 13,
    "INT32": 14,
    "UINT32": 15,
}
UNKNOWN_SIZE = -1
# Name under which coremltools' protobuf classes are imported on their own.
_PROTOBUFS = "coremltools_protobufs"
# weight.bin: a 64-byte header, then for each blob 64 bytes (mark, type, size, position of the data) and its data.
_BLOB_MARK = 0xDEADBEEF
_BLOB_HEADER = struct.Struct("<IIQQ")
_BLOB_HEADER_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """``dtype`` in MIL's spelling, lower case ("float16", "int8", "string"), or "list", "state" and the like for what
    is no tensor; ``shape`` () for a scalar, with :data:`UNKNOWN_SIZE` where a size is known only when the program runs.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation. ``inputs`` maps a parameter to the values it names; ``constants`` to those written in place.

    Of a parameter with several values, one that is written in place is named "parameter[0]" in both.
    """

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
    """A package's protobuf (``spec``), the operations of one of its functions and their constants.

    Args:
        path: the ``.mlpackage``.
        function: its name; None for the package's default, which is "main" where it names none.
    Raises:
        ArtifactError: a file is missing or is not what it should be, or there is no such function.
    """

    def __init__(self, path: Path, function: str | None = None) -> None:
        self.path = path
        with refuse_damaged(f"a Core ML package at {path}", ArtifactError):
            self._open(function)

    def _open(self, function: str | None) -> None:
        self.spec = _parse_program(self.path)
        functions = self.spec.mlProgram.functions
        self.function_names: tuple[str, ...] = tuple(sorted(functions))
        self.function_name: str = function or self.spec.description.defaultFunctionName or "main"
        if self.function_name not in functions:
            found = ", ".join(self.function_names) or "none"
            raise ArtifactError(
                f"expected an ML program with a function {self.function_name!r} in {self.path}, got {found}: export it "
                "again"
            )
        self._load_function(functions[self.function_name])
        weights = self.path / WEIGHTS
        self._weights = weights.read_bytes() if weights.exists() else b""

    def _load_function(self, function: Any) -> None:
        self.opset: str = function.opset
        if self.opset not in function.block_specializations:
            raise ArtifactError(f"expected operations of {self.opset!r} in {self.path}, got none: export it again")
        block = function.block_specializations[self.opset]
        self.input_types = {value.name: tensor_type(value.type) for value in function.inputs}
        self.output_names: tuple[str, ...] = tuple(block.outputs)
        self.operations = tuple(_operation(operation) for operation in block.operations)
        self._producers = {name: operation for operation in self.operations for name, _ in operation.outputs}

    @property
    def features(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What goes in and what comes out of the function, as ``FeatureDescription`` protobufs."""
        description = self.spec.description
        for function in description.functions:
            if function.name == self.function_name:
                return tuple(function.input), tuple(function.output)
        return tuple(description.input), tuple(description.output)

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
            return self.decode(operation.constants[parameter])
        source = self.producer(operation, parameter)
        if source is None or source.kind != "const":
            return None
        return self.decode(source.constants["val"])

    def constant_type(self, operation: Operation, parameter: str) -> TensorType | None:
        """Type of a constant parameter, None where it is absent or not constant."""
        if parameter in operation.constants:
            return tensor_type(operation.constants[parameter].type)
        source = self.producer(operation, parameter)
        return source.outputs[0][1] if source is not None and source.kind == "const" else None

    def decode(self, value: Any) -> Any:
        """A ``MIL.proto`` Value as an array or a string; values of less than a byte come as int8 or uint8."""
        value_type = tensor_type(value.type)
        if value.WhichOneof("value") == "blobFileValue":
            return self._blob(int(value.blobFileValue.offset), value_type)
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if kind is None:
            raise ArtifactError(
                f"expected a constant tensor in {self.path / PROGRAM}, got {value_type.dtype}: no other is known"
            )
        if kind == "strings":
            return "".join(tensor.strings.values)
        values = getattr(tensor, kind).values
        if kind == "bytes":
            return self._from_bytes(values, value_type)
        flat = np.array(values, _numpy_type(value_type.dtype))
        if flat.size != _count(value_type):
            raise ArtifactError(
                f"expected a constant of shape {value_type.shape} in {self.path / PROGRAM}, got {flat.size} values: "
                "export it again"
            )
        return flat.reshape(value_type.shape)

    def _from_bytes(self, values: bytes, value_type: TensorType) -> Array:
        if len(values) != _size_bytes(value_type):
            raise ArtifactError(
                f"expected {_size_bytes(value_type)} bytes for a constant of shape {value_type.shape} in "
                f"{self.path / PROGRAM}, got {len(values)}: export it again"
            )
        dtype = value_type.dtype.upper()
        if dtype not in _PACKED_BITS:
            return np.frombuffer(values, _numpy_type(dtype)).reshape(value_type.shape)
        bits = _PACKED_BITS[dtype]
        places = np.unpackbits(np.frombuffer(values, np.uint8), bitorder="little")[: _count(value_type) * bits]
        numbers: Array = (places.reshape(-1, bits) << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
        if dtype.startswith("INT"):  # two's complement
            half = 1 << (bits - 1)
            numbers = ((numbers.astype(np.int8) ^ half) - half).astype(np.int8)
        return numbers.reshape(value_type.shape)

    def _blob(self, offset: int, value_type: TensorType) -> Array:
        size = _size_bytes(value_type)
        if offset + _BLOB_HEADER_BYTES > len(self._weights):
            raise ArtifactError(f"expected weights at byte {offset} of {self.path / WEIGHTS}, got a shorter file")
        mark, blob_type, blob_size, start = _BLOB_HEADER.unpack_from(self._weights, offset)
        known_type = _BLOB_TYPES.get(value_type.dtype.upper(), blob_type)
        if mark != _BLOB_MARK or blob_type != known_type or blob_size != size or start + size > len(self._weights):
            raise ArtifactError(
                f"expected a blob of {size} bytes of {value_type.dtype} at byte {offset} of {self.path / WEIGHTS}, "
                "got other data: export it again"
            )
        return self._from_bytes(self._weights[start : start + size], value_type)


def _parse_program(path: Path) -> Any:
    program = path / PROGRAM
    if not program.is_file():
        raise ArtifactError(f"expected a Core ML package with {PROGRAM}, got {path}: export it again")
    spec = _protobufs("Model_pb2").Model()
    protobuf_error = importlib.import_module("google.protobuf.message").DecodeError
    try:
        spec.ParseFromString(program.read_bytes())
    except protobuf_error as error:
        raise ArtifactError(f"expected a Core ML protobuf, got a damaged {program}: export it again") from error
    return spec


def _protobufs(module: str) -> Any:
    """A module of ``coremltools.proto``, without the rest of coremltools.

    Importing coremltools 9.0 imports torchao, executorch and torch's compilers where they are installed: 7 CPU seconds
    and 300 MB for every process that only reads a file. Its protobuf classes need nothing of it, and a process that
    imports coremltools afterwards gets the same classes.
    """
    if "coremltools" in sys.modules:
        return importlib.import_module(f"{import_coremltools().__name__}.proto.{module}")
    if _PROTOBUFS not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            import_coremltools()  # says what is missing
            raise ArtifactError("expected coremltools to be a package, got a module: install coremltools==9.0")
        package = types.ModuleType(_PROTOBUFS)
        package.__path__ = [str(Path(folder) / "proto") for folder in found.submodule_search_locations]
        sys.modules[_PROTOBUFS] = package
    return importlib.import_module(f"{_PROTOBUFS}.{module}")


def _operation(proto: Any) -> Operation:
    inputs: dict[str, tuple[str, ...]] = {}
    constants = {name: value for name, value in proto.attributes.items() if name != "name"}
    for parameter, argument in proto.inputs.items():
        bindings = argument.arguments
        if len(bindings) == 1 and bindings[0].WhichOneof("binding") == "value":
            constants[parameter] = bindings[0].value
        else:
            inputs[parameter] = tuple(binding.name or f"{parameter}[{index}]" for index, binding in enumerate(bindings))
            written = {f"{parameter}[{index}]": each.value for index, each in enumerate(bindings) if not each.name}
            constants.update(written)
    label = proto.attributes["name"].immediateValue.tensor.strings.values if "name" in proto.attributes else ()
    return Operation(
        kind=proto.type,
        name=label[0] if label else proto.outputs[0].name,
        inputs=inputs,
        constants=constants,
        outputs=tuple((value.name, tensor_type(value.type)) for value in proto.outputs),
    )


def tensor_type(proto: Any) -> TensorType:
    """A ``MIL.proto`` ValueType."""
    kind = proto.WhichOneof("type")
    if kind != "tensorType":
        return TensorType(dtype=(kind or "unknown").removesuffix("Type"), shape=())
    tensor = proto.tensorType
    data_type = _protobufs("MIL_pb2").DataType
    return TensorType(
        dtype=data_type.Name(tensor.dataType).lower(),
        shape=tuple(
            int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else UNKNOWN_SIZE
            for dimension in tensor.dimensions
        ),
    )


def _count(value_type: TensorType) -> int:
    return int(np.prod(value_type.shape, dtype=np.int64))


def _size_bytes(value_type: TensorType) -> int:
    bits = _PACKED_BITS.get(value_type.dtype.upper()) or _numpy_type(value_type.dtype).itemsize * 8
    return -(-_count(value_type) * bits // 8)


def _numpy_type(dtype: str) -> np.dtype[Any]:
    try:
        return _NUMPY_TYPES[dtype.upper()]
    except KeyError:
        known = ", ".join(sorted(name.lower() for name in (*_NUMPY_TYPES, *_PACKED_BITS)))
        raise ArtifactError(f"expected a constant of type {known}, got {dtype}: this reader does not know it") from None
