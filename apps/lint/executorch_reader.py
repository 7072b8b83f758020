"""An ExecuTorch program as the rules see it: the operators inside XNNPACK's delegates, and those left outside.

Program and delegates are flatbuffers whose schemas and reader (``flatc``) come with the executorch package. Nothing of
it is imported.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apps.lint import graph as roles
from apps.lint.graph import Graph, Op, Tensor
from edge_sr.errors import ArtifactError, MissingToolError

_PROGRAM_SCHEMA = "exir/_serialize/program.fbs"
_XNNPACK_SCHEMA = "backends/xnnpack/serialization/schema.fbs"
_BACKEND = "XnnpackBackend"
_ABSENT = 0xFFFFFFFF
_TYPES = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "qint8": "int8",
    "quint8": "uint8",
    "qcint8": "int8",
    "qint32": "int32",
    "qcint32": "int32",
    "int32": "int32",
}
_ROLES = {
    "XNNConv2d": roles.CONVOLUTION,
    "XNNConvTranspose2d": roles.CONVOLUTION,
    "XNNDepthwiseConv2d": roles.DEPTHWISE,
    "XNNFullyConnected": roles.MATMUL,
    "XNNBatchMatrixMultiply": roles.MATMUL,
    "XNNStaticTranspose": roles.TRANSPOSE,
    "XNNStaticReshape": roles.RESHAPE,
}
_INPUTS = ("input_id", "input1_id", "input2_id", "input3_id", "input4_id", "input5_id", "filter_id", "bias_id")


def read_executorch(path: Path) -> Graph:
    """Read the operators of a ``.pte``.

    Raises:
        MissingToolError: executorch, which brings the schemas and their reader, is not installed.
        ArtifactError: not a program, or a damaged one.
    """
    home = _package_home()
    data = path.read_bytes()
    if data[4:8] != b"ET12":
        raise ArtifactError(f"expected an ExecuTorch program at {path}, got something else: export it again")
    program = _to_json(data, home, _PROGRAM_SCHEMA, path)
    plan = program["execution_plan"][0]
    ops: list[Op] = []
    delegates = 0
    for instruction in (step for chain in plan["chains"] for step in chain["instructions"]):
        kind, arguments = instruction["instr_args_type"], instruction["instr_args"]
        if kind == "DelegateCall":
            delegate = plan["delegates"][arguments["delegate_index"]]
            delegates += 1
            ops += _delegate_ops(delegate, delegates, data, program, home, path, len(ops))
        elif kind == "KernelCall":
            ops.append(_kernel_op(plan, arguments, len(ops)))
    return Graph(
        format="executorch",
        ops=tuple(ops),
        inputs=tuple(_plan_tensor(plan, index) for index in plan["inputs"]),
        outputs=tuple(_plan_tensor(plan, index) for index in plan["outputs"]),
        delegates=delegates,
    )


def _delegate_ops(
    delegate: dict[str, Any],
    number: int,
    data: bytes,
    program: dict[str, Any],
    home: Path,
    path: Path,
    first: int,
) -> list[Op]:
    if delegate["id"] != _BACKEND:
        raise ArtifactError(f"expected delegates of {_BACKEND} in {path}, got {delegate['id']}: no rules for it here")
    graph = _to_json(_delegate_blob(delegate, data, program, path), home, _XNNPACK_SCHEMA, path)
    tensors = {}
    for value in graph["xvalues"]:
        tensor = _value(value, number)
        tensors[int(tensor.name.rpartition("_")[2])] = tensor
    return [_node(node, tensors, first + index) for index, node in enumerate(graph["xnodes"])]


def _delegate_blob(delegate: dict[str, Any], data: bytes, program: dict[str, Any], path: Path) -> bytes:
    """The flatbuffer of one delegate: without XNNPACK's own header, and without weights."""
    place = delegate["processed"]
    if place["location"] == "SEGMENT":
        # Extended header: "eh00", its length, the program's size, where the segments start.
        if data[8:12] != b"eh00":
            raise ArtifactError(f"expected segments in {path}, got a program without them: export it again")
        base = struct.unpack_from("<Q", data, 24)[0]
        segment = program["segments"][place["index"]]
        blob = data[base + segment["offset"] : base + segment["offset"] + segment["size"]]
    else:
        blob = bytes(program["backend_delegate_data"][place["index"]]["data"])
    if blob[4:8] != b"XH00":
        raise ArtifactError(f"expected an XNNPACK delegate in {path}, got other data: export it again")
    offset, size = struct.unpack_from("<II", blob, 10)
    return blob[offset : offset + size]


def _value(entry: dict[str, Any], number: int) -> Tensor:
    union = entry["xvalue_union"]
    plain = union.get("tensor_value", union)
    parameters = union.get("quant_params", {})
    scale = parameters.get("scale")
    per_tensor = isinstance(scale, int | float)
    dtype = plain["datatype"].removeprefix("xnn_datatype_")
    return Tensor(
        name=f"delegate{number}_{plain['id_out']}",
        dtype=_TYPES.get(dtype, dtype),
        shape=tuple(plain["dims"]),
        constant=plain["constant_buffer_idx"] != 0,
        scales=(float(scale),) if isinstance(scale, int | float) else (),
        zero_points=(int(parameters.get("zero_point", 0)),) if per_tensor else (),
    )


def _node(node: dict[str, Any], tensors: dict[int, Tensor], index: int) -> Op:
    kind, options = node["xnode_union_type"], node["xnode_union"]
    inputs = tuple(
        tensors[options[key]] for key in _INPUTS if options.get(key, _ABSENT) in tensors and _reads(kind, key)
    )
    output = tensors[options["output_id"]]
    taps = options.get("kernel_height", 0) * options.get("kernel_width", 0)
    return Op(
        index=index,
        kind=kind,
        name=output.name,
        role=_convert_role(inputs[0], output) if kind == "XNNConvert" else _ROLES.get(kind, roles.OTHER),
        inputs=inputs,
        outputs=(output,),
        options=options,
        arithmetic="int8" if output.dtype in roles.INT8 else output.dtype,
        macs=_macs(kind, options, inputs, output, taps),
        taps=taps,
        settled=True,
    )


def _reads(kind: str, key: str) -> bool:
    # A concatenation of two writes 0 for the inputs it does not have.
    count = re.fullmatch(r"XNNConcatenate(\d)", kind)
    number = re.fullmatch(r"input(\d)_id", key)
    return count is None or number is None or int(number[1]) <= int(count[1])


def _convert_role(source: Tensor, output: Tensor) -> str:
    if output.dtype in roles.INT8:
        return roles.QUANTIZE
    return roles.DEQUANTIZE if source.dtype in roles.INT8 else roles.CAST


def _macs(kind: str, options: dict[str, Any], inputs: tuple[Tensor, ...], output: Tensor, taps: int) -> int:
    if kind == "XNNConv2d":
        return output.elements * taps * int(options["group_input_channels"])
    if kind == "XNNDepthwiseConv2d":
        return output.elements * taps
    if kind == "XNNConvTranspose2d":
        return inputs[0].elements * taps * int(options["group_output_channels"])
    if kind == "XNNFullyConnected":
        return output.elements * inputs[1].shape[-1]
    if kind == "XNNBatchMatrixMultiply":
        return inputs[0].elements * output.shape[-1]
    return 0


def _kernel_op(plan: dict[str, Any], arguments: dict[str, Any], index: int) -> Op:
    entry = plan["operators"][arguments["op_index"]]
    kind = ".".join(part for part in (entry["name"], entry["overload"]) if part)
    tensors = [
        _plan_tensor(plan, position)
        for position in arguments["args"]
        if plan["values"][position]["val_type"] == "Tensor"
    ]
    output = tensors[-1] if tensors else Tensor(name=f"kernel_{index}", dtype="unknown", shape=())
    return Op(
        index=index,
        kind=kind,
        name=output.name,
        inputs=tuple(dict.fromkeys(tensors[:-1])),
        outputs=(output,),
        arithmetic="int8" if output.dtype in roles.INT8 else output.dtype,
        settled=False,
    )


def _plan_tensor(plan: dict[str, Any], index: int) -> Tensor:
    value = plan["values"][index]["val"]
    dtype = {"FLOAT": "float32", "HALF": "float16", "CHAR": "int8", "BYTE": "uint8"}.get(
        value["scalar_type"], value["scalar_type"].lower()
    )
    still = value.get("shape_dynamism", "STATIC") == "STATIC"
    shape = tuple(value["sizes"])
    return Tensor(
        name=f"value_{index}",
        dtype=dtype,
        shape=shape if still else tuple(-1 for _ in shape),
        constant=bool(value["data_buffer_idx"]),
    )


def _package_home() -> Path:
    spec = find_spec("executorch")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    homes = [Path(folder) for folder in folders if (Path(folder) / "data" / "bin" / "flatc").is_file()]
    if not homes:
        raise MissingToolError("reading ExecuTorch programs needs executorch with its flatc; pip install executorch")
    return homes[0]


def _to_json(blob: bytes, home: Path, schema: str, path: Path) -> Any:
    """Spell a flatbuffer as JSON with the schema's own tool, in a process of its own: a damaged file may crash it."""
    with tempfile.TemporaryDirectory(prefix="edge-sr-lint-") as scratch:
        source = Path(scratch) / "content.bin"
        source.write_bytes(blob)
        words = ["--json", "--strict-json", "--raw-binary", "--defaults-json", "-o", scratch]
        done = subprocess.run(
            [str(home / "data" / "bin" / "flatc"), *words, str(home / schema), "--", str(source)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        result = Path(scratch) / "content.json"
        if done.returncode != 0 or not result.is_file():
            raise ArtifactError(f"expected {path} to follow {Path(schema).name}, got a damaged file: export it again")
        # flatc (25.9) writes infinities as "inf", which no JSON reader takes.
        text = re.sub(r": (-?)inf\b", r": \g<1>1e999", result.read_text(encoding="utf-8"))
        try:
            return json.loads(re.sub(r": -?nan\b", ": null", text))
        except ValueError:
            raise ArtifactError(f"expected readable fields in {path}, got a damaged file: export it again") from None
