"""A Core ML package as the rules see it: its computed operations, constants left out."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from apps.lint import graph as roles
from apps.lint.graph import Graph, Op, Tensor
from converters.inspect_coreml import CONSTANT_KINDS
from converters.mil_reader import MilPackage, Operation

_ROLES = {
    "conv": roles.CONVOLUTION,
    "conv_transpose": roles.CONVOLUTION,
    "linear": roles.MATMUL,
    "matmul": roles.MATMUL,
    "transpose": roles.TRANSPOSE,
    "reshape": roles.RESHAPE,
    "quantize": roles.QUANTIZE,
    "dequantize": roles.DEQUANTIZE,
    "cast": roles.CAST,
}
# Core ML fuses these with what comes before them, so int8 ends behind them and not in front.
_FUSED_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "clip", "prelu")
# A convolution's parameters are read; other constants only matter as being there.
_READ = ("dilations", "groups", "strides", "axes", "perm")


def read_coreml(path: Path) -> Graph:
    """Read the operations of a ``.mlpackage``.

    Raises:
        MissingToolError: coremltools, which brings the protobuf classes, is not installed.
        ArtifactError: damaged, or not an ML program.
    """
    package = MilPackage(path)
    kept = [operation for operation in package.operations if operation.kind not in CONSTANT_KINDS]
    inputs = tuple(
        Tensor(name=name, dtype=kind.dtype, shape=_open_zeros(kind.shape)) for name, kind in package.input_types.items()
    )
    known = {tensor.name: tensor for tensor in inputs}
    made_by: dict[str, Op] = {}
    ops: list[Op] = []
    for index, operation in enumerate(kept):
        op = _op(package, operation, index, known, made_by)
        ops.append(op)
        for tensor in op.outputs:
            known[tensor.name], made_by[tensor.name] = tensor, op
    return Graph(
        format="coreml",
        ops=tuple(ops),
        inputs=inputs,
        outputs=tuple(known[name] for name in package.output_names if name in known),
        flexible=_flexible(package.spec),
    )


def _op(package: MilPackage, operation: Operation, index: int, known: dict[str, Tensor], made_by: dict[str, Op]) -> Op:
    names = [name for parameter in operation.inputs for name in operation.inputs[parameter]]
    inputs = tuple(known.get(name) or _constant(package, operation, name) for name in names)
    outputs = tuple(
        Tensor(name=name, dtype=kind.dtype, shape=_open_zeros(kind.shape)) for name, kind in operation.outputs
    )
    options: dict[str, Any] = {key: package.constant(operation, key) for key in _READ}
    ends = {*package.input_types, *package.output_names}
    options["interface"] = bool(ends & {*names, *(name for name, _ in operation.outputs)})
    weight = _weight_shape(package, operation)
    groups = 1 if options["groups"] is None else int(options["groups"])
    depthwise = operation.kind == "conv" and groups > 1 and bool(weight) and weight[1] == 1
    return Op(
        index=index,
        kind=operation.kind,
        name=operation.name,
        role=roles.DEPTHWISE if depthwise else _ROLES.get(operation.kind, roles.OTHER),
        inputs=inputs,
        outputs=outputs,
        options=options,
        arithmetic=_arithmetic(operation, inputs, outputs, made_by),
        macs=_macs(operation, weight, inputs, outputs),
        taps=prod(weight[2:]) if operation.kind.startswith("conv") and len(weight) == 4 else 0,
    )


def _constant(package: MilPackage, operation: Operation, name: str) -> Tensor:
    parameter = next(key for key, names in operation.inputs.items() if name in names)
    kind = package.constant_type(operation, parameter)
    return Tensor(
        name=name,
        dtype="unknown" if kind is None else kind.dtype,
        shape=() if kind is None else kind.shape,
        constant=True,
    )


def _weight_shape(package: MilPackage, operation: Operation) -> tuple[int, ...]:
    """Shape of the weight, stored plainly or compressed; () where there is none."""
    source = package.producer(operation, "weight")
    if source is not None:
        return source.outputs[0][1].shape
    kind = package.constant_type(operation, "weight")
    return () if kind is None else kind.shape


def _arithmetic(
    operation: Operation, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], made_by: dict[str, Op]
) -> str:
    """``int8`` for what lies between a dequantize and a quantize; an activation goes with what it is fused with."""
    if operation.kind in ("quantize", "dequantize"):
        return "int8"
    sources = [made_by.get(tensor.name) for tensor in inputs if not tensor.constant]
    if sources and all(source is not None and source.role == roles.DEQUANTIZE for source in sources):
        return "int8"
    if operation.kind in _FUSED_ACTIVATIONS and len(sources) == 1 and sources[0] is not None:
        return sources[0].arithmetic
    return outputs[0].dtype


def _macs(
    operation: Operation, weight: tuple[int, ...], inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> int:
    kind = operation.kind
    if kind in ("conv", "linear") and weight:
        return outputs[0].elements * prod(weight[1:])
    computed = [tensor for tensor in inputs if not tensor.constant]
    if kind == "conv_transpose" and weight and computed:
        return computed[0].elements * prod(weight[1:])
    # Parameters come in no order of their own: the first operand is the one called x.
    first = [tensor for tensor in inputs if tensor.name in operation.inputs.get("x", ())]
    if kind == "matmul" and first:
        return first[0].elements * outputs[0].shape[-1]
    return 0


def _flexible(spec: Any) -> dict[str, str]:
    """Inputs whose size the package leaves open, and how."""
    found = {}
    for feature in spec.description.input:
        kind = feature.type.WhichOneof("Type")
        if kind not in ("imageType", "multiArrayType"):
            continue
        entry = getattr(feature.type, kind)
        field = "SizeFlexibility" if kind == "imageType" else "ShapeFlexibility"
        spelled = entry.WhichOneof(field)
        if spelled is not None:
            found[feature.name] = "enumerated" if "enumerated" in spelled.lower() else "range"
    return found


def _open_zeros(shape: tuple[int, ...]) -> tuple[int, ...]:
    # A dimension without a constant size reads as 0.
    return tuple(size or -1 for size in shape)
