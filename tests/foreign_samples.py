"""Small whole files of every format that is read, made without any exporter."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import torch
from flatbuffers import flexbuffers
from PIL import Image as PillowImage
from tiny_tflite import TinyModel

from converters.ahead_of_time import DISPATCH
from converters.coreml_package import PROGRAM, WEIGHTS
from converters.graphs.executorch_reader import _PROGRAM_SCHEMA, _XNNPACK_SCHEMA, _schema
from converters.graphs.flatbuffer_schema import _SCALARS, FlatbufferSchema
from converters.mil_reader import _protobufs
from edge_sr.checkpoints import save_checkpoint
from edge_sr.networks import create_network
from edge_sr.training.crop_pool import POOL_FORMAT
from edge_sr.training.snapshots import save_snapshot
from quantization.calibration import calibrate
from quantization.quantizer import prepare
from quantization.state import save_quantized


def picture(path: Path, **options: Any) -> bytes:
    """Encoded as the path's ending says."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(path, **options)
    return path.read_bytes()


def checkpoint(path: Path) -> bytes:
    """Of a small network, as it is saved."""
    torch.manual_seed(0)
    save_checkpoint(path, create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=4), {"steps": 7})
    return path.read_bytes()


def quantized_checkpoint(path: Path) -> bytes:
    """Of the same network in int8."""
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=4).eval()
    quantized = prepare(network.deployed(), "w8a8")  # type: ignore[operator]
    calibrate(quantized, [torch.rand(1, 3, 8, 8)])
    save_quantized(path, quantized, {})
    return path.read_bytes()


def snapshot(path: Path) -> bytes:
    """Of a run at its third step."""
    save_snapshot(path, {"step": 3, "weights": {"a": torch.ones(4)}})
    return path.read_bytes()


def tflite(path: Path) -> bytes:
    """An int8 convolution."""
    model = TinyModel()
    source = model.tensor((1, 4, 4, 3), "int8", name="input")
    filters = model.tensor((2, 1, 1, 3), "int8", data=np.arange(6), scale=[0.5, 0.25])
    biases = model.tensor((2,), "int32", data=[1, 2], scale=[0.1, 0.2])
    result = model.tensor((1, 4, 4, 2), "int8", name="output")
    model.op("CONV_2D", [source, filters, biases], [result], "Conv2D", version=3, strideH=1, strideW=1)
    return model.write(path, [source], [result]).read_bytes()


def pte() -> bytes:
    """A program that is one XNNPACK delegate, which adds a constant to its input."""
    schema = _schema(_XNNPACK_SCHEMA)

    def value(number: int, constant: int = 0) -> dict[str, Any]:
        tensor = {"datatype": "xnn_datatype_fp32", "num_dims": 1, "dims": [2], "constant_buffer_idx": constant}
        return {"xvalue_union": ("XNNTensorValue", {**tensor, "id_out": number})}

    graph = {
        "version": "0",
        "xnodes": [{"xnode_union": ("XNNAdd", {"input1_id": 0, "input2_id": 1, "output_id": 2}), "debug_handle": 1}],
        "xvalues": [value(0), value(1, constant=1), value(2)],
        "num_externs": 2,
        "input_ids": [0],
        "output_ids": [2],
        "constant_data": [{"offset": 0, "size": 0}, {"offset": 0, "size": 8}],
    }
    spelled, constants = _flatbuffer(schema, "XNNGraph", graph), struct.pack("<2f", 1.0, 2.0)
    header = struct.pack("<I4sHIIIQ", 0, b"XH00", 30, 32, len(spelled), 32 + len(spelled), len(constants))
    tensor = {"scalar_type": "FLOAT", "sizes": [2], "dim_order": [0]}
    plan = {
        "name": "forward",
        "values": [{"val": ("Tensor", tensor)}, {"val": ("Tensor", tensor)}],
        "inputs": [0],
        "outputs": [1],
        "chains": [{"instructions": [{"instr_args": ("DelegateCall", {"delegate_index": 0, "args": [0, 1]})}]}],
        "delegates": [{"id": "XnnpackBackend", "processed": {"location": "INLINE", "index": 0}}],
    }
    payload = list(header.ljust(32, b"\0") + spelled + constants)
    program = {"version": 0, "execution_plan": [plan], "backend_delegate_data": [{"data": payload}]}
    return _flatbuffer(_schema(_PROGRAM_SCHEMA), "Program", program, identifier=b"ET12")


def coreml_program(folder: Path) -> bytes:
    """The program of a package that is made in ``folder``: it adds a float16 constant from weight.bin to its input."""
    (folder / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(coreml_weights())
    content = _coreml_program()
    (folder / PROGRAM).write_bytes(content)
    return content


def _coreml_program() -> bytes:
    spec = _protobufs("Model_pb2").Model()
    data_type = _protobufs("MIL_pb2").DataType
    spec.specificationVersion = 8
    for name, features in (("x", spec.description.input), ("y", spec.description.output)):
        feature = features.add(name=name)
        feature.type.multiArrayType.shape.extend([2])
        feature.type.multiArrayType.dataType = 65568  # FLOAT32
    function = spec.mlProgram.functions["main"]
    function.opset = "CoreML7"
    block = function.block_specializations["CoreML7"]
    block.outputs.append("y")

    def typed(proto: Any) -> Any:
        proto.tensorType.dataType, proto.tensorType.rank = data_type.FLOAT16, 1
        proto.tensorType.dimensions.add().constant.size = 2
        return proto

    given = function.inputs.add(name="x")
    typed(given.type)
    constant = block.operations.add(type="const")
    typed(constant.outputs.add(name="w").type)
    stored = constant.attributes["val"]
    typed(stored.type)
    stored.blobFileValue.fileName, stored.blobFileValue.offset = "@model_path/weights/weight.bin", 64
    add = block.operations.add(type="add")
    for parameter, name in (("x", "x"), ("y", "w")):
        add.inputs[parameter].arguments.add(name=name)
    typed(add.outputs.add(name="y").type)
    return bytes(spec.SerializeToString(deterministic=True))


def coreml_weights() -> bytes:
    """Two float16 ones, behind a header of their own."""
    blob = struct.pack("<IIQQ", 0xDEADBEEF, 1, 4, 128)
    return struct.pack("<IIQ", 1, 2, 0).ljust(64, b"\0") + blob.ljust(64, b"\0") + struct.pack("<2e", 1.0, 1.0)


def onnx_file() -> bytes:
    """An int8 sum in the QDQ form."""
    from onnx import TensorProto, helper, numpy_helper

    numbers = {"scale": np.float32(0.5), "zero": np.int8(3), "stored": np.arange(2, dtype=np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", [name, "scale", "zero"], [f"{name}_real"]) for name in ("x", "stored")
    ]
    nodes += [
        helper.make_node("Add", ["x_real", "stored_real"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.INT8, [2]) for name in ("x", "y")]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "sum", ends[:1], ends[1:], initializer=stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def compiled_tflite(path: Path) -> bytes:
    """One operator of a vendor's, whose bytes lie behind the model."""
    bytecode = bytes(range(64))

    def written(offset: int) -> bytes:
        model = TinyModel()
        source, result = (model.tensor((1, 4), "int8", name=name) for name in ("input", "output"))
        model.op("CUSTOM", [source], [result])
        model.model.operatorCodes[0].customCode = DISPATCH.encode()
        builder = flexbuffers.Builder()
        with builder.Map():
            for key, value in (("bytecode_offset", offset), ("bytecode_size", len(bytecode))):
                builder.Key(key)
                builder.UInt(value, 4)
            builder.Key("name")
            builder.String("graph")
        model.graph.operators[0].customOptions = np.frombuffer(bytes(builder.Finish()), np.uint8)
        return model.write(path, [source], [result]).read_bytes()

    return written(len(written(2**20))) + bytecode


def pool_index() -> bytes:
    """The index of a pool of one image."""
    image = {"name": "a", "held_out": False, "reduction": 1.0, "height": 4, "width": 4, "offset": 0}
    return json.dumps({"format": POOL_FORMAT, "scale": 2, "sha256": "ab", "images": [image]}).encode()


def _flatbuffer(
    schema: FlatbufferSchema, table: str, content: dict[str, Any], identifier: bytes | None = None
) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, schema, table, content), file_identifier=identifier)
    return bytes(builder.Output())


def _table(builder: Any, schema: FlatbufferSchema, table: str, content: dict[str, Any]) -> int:
    fields = [field for field in schema._tables[table] if field.name in content]
    slots: list[tuple[int, str, Any]] = []
    for field in fields:
        value = content[field.name]
        if field.kind in schema._unions:
            members = [member for member, _ in schema._unions[field.kind]]
            own = dict(schema._unions[field.kind])[value[0]]
            slots.append((field.slot, "offset", _table(builder, schema, own, value[1])))
            slots.append((field.slot - 1, "B", 1 + members.index(value[0])))
        elif field.is_vector and field.kind in _SCALARS:
            slots.append((field.slot, "offset", builder.CreateNumpyVector(np.array(value, _SCALARS[field.kind]))))
        elif field.is_vector:
            offsets = [_table(builder, schema, field.kind, entry) for entry in value]
            builder.StartVector(4, len(offsets), 4)
            for offset in reversed(offsets):
                builder.PrependUOffsetTRelative(offset)
            slots.append((field.slot, "offset", builder.EndVector()))
        elif field.kind in schema._enums:
            base, names = schema._enums[field.kind]
            slots.append((field.slot, _SCALARS[base], {name: number for number, name in names.items()}[value]))
        elif field.kind in _SCALARS:
            slots.append((field.slot, _SCALARS[field.kind], value))
        elif field.kind == "string":
            slots.append((field.slot, "offset", builder.CreateString(value)))
        else:
            slots.append((field.slot, "offset", _table(builder, schema, field.kind, value)))
    builder.StartObject(1 + max((field.slot for field in schema._tables[table]), default=0))
    for slot, code, value in slots:
        if code == "offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            flags = getattr(flatbuffers.number_types, _FLAGS[code])
            builder.PrependSlot(flags, slot, value, None)
    return int(builder.EndObject())


_FLAGS = {
    "b": "Int8Flags",
    "B": "Uint8Flags",
    "?": "BoolFlags",
    "h": "Int16Flags",
    "H": "Uint16Flags",
    "i": "Int32Flags",
    "I": "Uint32Flags",
    "q": "Int64Flags",
    "Q": "Uint64Flags",
    "f": "Float32Flags",
    "d": "Float64Flags",
}
