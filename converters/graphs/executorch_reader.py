"""What an ExecuTorch program holds: its file format, and the operations and constants inside XNNPACK's payload.

The file is read by the schemas that the executorch wheel ships; no exporter and no runtime is imported.

    .pte    program flatbuffer (identifier "ET12"), extended header "eh00" at byte 8, then segments
    segment a delegate's payload: header "XH00", then XNNPACK's graph as a flatbuffer ("XN01"), then constants
    segment the bytes of one named constant
"""

from __future__ import annotations

import importlib.util
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from converters.graphs.flatbuffer_schema import FlatbufferSchema
from converters.graphs.graph import Array, ComputeGraph, Node, Quantization, Value
from edge_sr.errors import ArtifactError, MissingToolError, refuse_damaged

XNNPACK = "XnnpackBackend"
_PROGRAM_SCHEMA = ("exir/_serialize/scalar_type.fbs", "exir/_serialize/program.fbs")
_XNNPACK_SCHEMA = ("backends/xnnpack/serialization/schema.fbs",)
# "eh00": length, size of the program, position of the segments.
_EXTENDED_HEADER, _EXTENDED_AT = struct.Struct("<4sIQQ"), 8
# Four zeros, "XH00", length, position and size of the graph, position and size of the constants.
_XNNPACK_HEADER = struct.Struct("<I4sHIIIQ")
_NO_OFFSET = 2**64 - 1

# Datatype of XNNPACK's schema -> how its constants are stored.
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "qint8": np.dtype("i1"),
    "quint8": np.dtype("u1"),
    "qcint8": np.dtype("i1"),
    "qint32": np.dtype("<i4"),
    "qcint32": np.dtype("<i4"),
    "int32": np.dtype("<i4"),
}
# Fields of a node that name values, in the order in which they are read.
_INPUT_FIELDS = (
    *("input_id", "input1_id", "input2_id", "input3_id", "input4_id", "input5_id", "filter_id", "bias_id"),
    *("query_id", "key_id", "value_id", "scale_id", "mask_id"),
)
_OUTPUT_FIELDS = ("output_id", "output_value_id", "output_index_id")
_NO_VALUE = 2**32 - 1


class ExecuTorchProgram:
    """A ``.pte``, opened.

    Attributes:
        plan: the one method, "forward": values, operators outside of delegates, delegates.
        constants: key -> bytes, of the named constants.

    Raises:
        ArtifactError: it is damaged, or no program of this release's format.
        MissingToolError: executorch, which brings the schemas, is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with refuse_damaged(f"an ExecuTorch program in {path}", ArtifactError):
            self._open()

    def _open(self) -> None:
        self._data = self.path.read_bytes()
        if self._data[4:8] != b"ET12":
            raise ArtifactError(f"expected an ExecuTorch program in {self.path}, got other bytes: export it again")
        program_size, self._base = len(self._data), 0
        if self._data[_EXTENDED_AT : _EXTENDED_AT + 4] == b"eh00":
            _, _, program_size, self._base = _EXTENDED_HEADER.unpack_from(self._data, _EXTENDED_AT)
        self._program = _schema(_PROGRAM_SCHEMA).read(self._data[:program_size], "Program")
        plans = self._program["execution_plan"] or []
        if len(plans) != 1:
            raise ArtifactError(f"expected one method in {self.path}, got {len(plans)}: export it again")
        self.plan: dict[str, Any] = plans[0]
        self.constants: dict[str, bytes] = {
            entry["key"]: self._segment(entry["segment_index"]) for entry in self._program["named_data"] or []
        }

    def payload(self, delegate: dict[str, Any]) -> bytes:
        """The bytes that a delegate gets when the program is loaded."""
        place = delegate["processed"]
        if place["location"] == "SEGMENT":
            return self._segment(place["index"])
        return bytes(self._program["backend_delegate_data"][place["index"]]["data"])

    def delegate_graph(self, delegate: dict[str, Any]) -> ComputeGraph:
        """What one of the plan's delegates computes.

        Raises:
            ArtifactError: it is damaged, or of another backend than XNNPACK.
        """
        if delegate["id"] != XNNPACK:
            raise ArtifactError(
                f"expected delegates of {XNNPACK} in {self.path}, got {delegate['id']}: not looked into"
            )
        with refuse_damaged(f"XNNPACK's graph in {self.path}", ArtifactError):
            return _read_xnnpack(self.payload(delegate), self.constants)

    def _segment(self, index: int) -> bytes:
        segments = self._program["segments"] or []
        if index >= len(segments):
            raise ArtifactError(f"expected {index + 1} segments in {self.path}, got {len(segments)}: export it again")
        start = self._base + segments[index]["offset"]
        found = self._data[start : start + segments[index]["size"]]
        if len(found) != segments[index]["size"]:
            raise ArtifactError(f"expected segment {index} inside {self.path}, got a shorter file: export it again")
        return found


def read_executorch(path: Path) -> ComputeGraph:
    """The graph of a program that is one XNNPACK delegate with nothing outside.

    Raises:
        ArtifactError: it is damaged, or holds several delegates, operators outside of them, or another backend's.
        MissingToolError: executorch is not installed.
    """
    program = ExecuTorchProgram(path)
    return program.delegate_graph(only_delegate(program, XNNPACK, title="XNNPACK"))


def only_delegate(program: ExecuTorchProgram, backend: str, *, title: str) -> dict[str, Any]:
    """The delegate of a program that is one of ``backend`` with nothing outside; ArtifactError of any other."""
    delegates, operators = program.plan["delegates"] or [], program.plan["operators"] or []
    if len(delegates) != 1 or operators or delegates[0]["id"] != backend:
        names = ", ".join(delegate["id"] for delegate in delegates) or "none"
        raise ArtifactError(
            f"expected one {title} delegate with nothing outside in {program.path}, got {len(delegates)} ({names}) and "
            f"{len(operators)} kinds of operators outside: a program in pieces is not looked into"
        )
    delegate: dict[str, Any] = delegates[0]
    return delegate


def _read_xnnpack(payload: bytes, named: dict[str, bytes]) -> ComputeGraph:
    if len(payload) < _XNNPACK_HEADER.size or payload[4:8] != b"XH00":
        raise ArtifactError("expected XNNPACK's payload in the program, got other bytes: export it again")
    _, _, _, start, size, constants_start, _ = _XNNPACK_HEADER.unpack_from(payload)
    graph = _schema(_XNNPACK_SCHEMA).read(payload[start : start + size], "XNNGraph")
    buffers = [_constant_bytes(entry, payload[constants_start:], named) for entry in graph["constant_data"] or []]
    values: list[Value] = []
    index_of: dict[int, int] = {}
    for entry in graph["xvalues"]:
        value, number = _value(entry["xvalue_union"], buffers)
        index_of[number] = len(values)
        values.append(value)
    try:
        return ComputeGraph(
            values=tuple(values),
            nodes=tuple(_node(entry, index_of) for entry in graph["xnodes"]),
            inputs=tuple(index_of[int(number)] for number in graph["input_ids"]),
            outputs=tuple(index_of[int(number)] for number in graph["output_ids"]),
        )
    except KeyError as error:
        raise ArtifactError(f"expected value {error} in XNNPACK's graph, got none: export it again") from None


def _constant_bytes(entry: dict[str, Any], constants: bytes, named: dict[str, bytes]) -> bytes:
    if entry["offset"] == _NO_OFFSET:
        if entry["named_key"] not in named:
            raise ArtifactError(f"expected a constant {entry['named_key']!r} in the program, got none: export it again")
        return named[entry["named_key"]]
    return constants[entry["offset"] : entry["offset"] + entry["size"]]


def _value(entry: tuple[str, dict[str, Any]], buffers: list[bytes]) -> tuple[Value, int]:
    """A value and the number by which nodes know it."""
    kind, content = entry
    tensor = content["tensor_value"] if kind == "XNNQuantizedTensorValue" else content
    dtype = tensor["datatype"].removeprefix("xnn_datatype_")
    shape = tuple(int(size) for size in tensor["dims"]) if tensor["dims"] is not None else ()
    number = int(tensor["id_out"])
    data = None
    if tensor["constant_buffer_idx"]:
        data = _array(buffers, tensor["constant_buffer_idx"], dtype).reshape(shape)
    quantization = _quantization(content["quant_params"], buffers) if kind == "XNNQuantizedTensorValue" else None
    return Value(name=f"value {number}", dtype=dtype, shape=shape, data=data, quantization=quantization), number


def _quantization(entry: tuple[str, dict[str, Any]] | None, buffers: list[bytes]) -> Quantization | None:
    if entry is None:
        return None
    kind, content = entry
    if kind == "PerTensorQuant":
        return Quantization(
            qscale=np.array([content["scale"]], np.float32), zero_point=np.array([content["zero_point"]], np.int32)
        )
    if kind != "PerChannelQuant":
        raise ArtifactError(f"expected scales per tensor or channel in XNNPACK's graph, got {kind}: not looked into")
    scales = content["scale"]
    if scales is None or not len(scales):
        scales = _array(buffers, content["scale_buffer_idx"], "fp32")[: content["num_scales"]]
    return Quantization(qscale=scales, zero_point=np.zeros(len(scales), np.int32), axis=int(content["channel_dim"]))


def _array(buffers: list[bytes], index: int, dtype: str) -> Array:
    if index >= len(buffers) or dtype not in _NUMPY_TYPES:
        raise ArtifactError(f"expected constant {index} of a type in {', '.join(_NUMPY_TYPES)}, got {dtype}")
    array: Array = np.frombuffer(buffers[index], _NUMPY_TYPES[dtype])
    return array


def _node(entry: dict[str, Any], index_of: dict[int, int]) -> Node:
    kind, content = entry["xnode_union"]
    inputs = [content[name] for name in _INPUT_FIELDS if name in content]
    outputs = [content[name] for name in _OUTPUT_FIELDS if name in content]
    skipped = {*_INPUT_FIELDS, *_OUTPUT_FIELDS}
    attributes = {name: _plain(value) for name, value in content.items() if name not in skipped}
    limits = entry["output_min_max"]
    if limits is not None:
        attributes["output_min_max"] = [repr(limits["output_min"]), repr(limits["output_max"])]
    return Node(
        kind=kind.removeprefix("XNN"),
        inputs=tuple(None if number == _NO_VALUE else index_of[int(number)] for number in _strip(inputs, kind)),
        outputs=tuple(index_of[int(number)] for number in outputs),
        attributes=attributes,
        name=f"node of handle {entry['debug_handle']}",
    )


def _strip(inputs: list[int], kind: str) -> list[int]:
    """Of a concatenation's five inputs, those that its kind (``XNNConcatenate3``) reads."""
    return inputs[: int(kind[-1])] if kind.startswith("XNNConcatenate") else inputs


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@cache
def _schema(files: tuple[str, ...]) -> FlatbufferSchema:
    found = importlib.util.find_spec("executorch")
    folders = [Path(folder) for folder in (found.submodule_search_locations or [])] if found is not None else []
    folder = next((folder for folder in folders if all((folder / name).is_file() for name in files)), None)
    if folder is None:
        raise MissingToolError("reading .pte files needs the package executorch; pip install executorch")
    return FlatbufferSchema("\n".join((folder / name).read_text(encoding="utf-8") for name in files))
