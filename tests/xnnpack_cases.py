"""Models of one operator each, for every line of XNNPACK's table: what a case is called says what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tiny_tflite import TinyModel

Build = Callable[[TinyModel], tuple[list[int], list[int]]]
SHAPE = (1, 8, 8, 4)
_FLOAT_UNARY = (
    *("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOG", "LOGISTIC", "LOG_SOFTMAX", "NEG", "RELU"),
    *("RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIGN", "SIN", "SQRT", "SQUARE", "TANH"),
)
# Operator versions that know int8; the kernels of others take no int8 at all.
_INT8_UNARY = {"LOGISTIC": 1, "TANH": 1, "ELU": 1, "NEG": 1, "HARD_SWISH": 1, "EXP": 1, "SQRT": 1}
_INT8_UNARY |= {"ABS": 2, "RSQRT": 2, "RELU": 2, "RELU6": 2}
_EDGES = [[0, 0], [1, 1], [1, 1], [0, 0]]


def unary(name: str, dtype: str, options: str | None = None, version: int = 1, rank: int = 4, **values: Any) -> Build:
    def build(model: TinyModel) -> tuple[list[int], list[int]]:
        shape = SHAPE if rank == 4 else (2,) * rank
        source = model.tensor(shape, dtype)
        # Softmax, sigmoid and tanh have results of fixed scale in int8.
        fixed = {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
        scale, zero_point = fixed[name] if name in fixed and dtype == "int8" else (None, 0)
        result = model.tensor(shape, dtype, scale=scale, zero_point=zero_point)
        model.op(name, [source], [result], options, version=version, **values)
        return [source], [result]

    return build


def binary(
    name: str,
    dtype: str,
    options: str | None = None,
    *,
    constant: bool = False,
    rank: int = 4,
    scales: tuple[float, float, float] = (1 / 64, 1 / 64, 1 / 64),
    zero_point: int = 0,
    square: bool = False,
    **values: Any,
) -> Build:
    def build(model: TinyModel) -> tuple[list[int], list[int]]:
        shape = (2, 8, 8) if square else SHAPE if rank == 4 else (2,) * rank
        first = model.tensor(shape, dtype, scale=scales[0] if dtype == "int8" else None)
        data = np.ones(shape) if constant else None
        scale = scales[1] if dtype == "int8" else None
        second = model.tensor(shape, dtype, data=data, scale=scale, zero_point=zero_point)
        result = model.tensor(shape, dtype, scale=scales[2] if dtype == "int8" else None)
        model.op(name, [first, second], [result], options, version=2 if dtype == "int8" else 1, **values)
        return [first] + ([] if constant else [second]), [result]

    return build


def convolution(dtype: str, *, depthwise: bool = False, constant: bool = True, act: int = 0, taps: int = 3) -> Build:
    def build(model: TinyModel) -> tuple[list[int], list[int]]:
        int8 = dtype == "int8"
        out = 4 if depthwise else 8
        shape = (1, taps, taps, 4) if depthwise else (8, taps, taps, 4)
        source = model.tensor((1, 16, 16, 4), dtype)
        scales = [1 / 64] * out if int8 else None
        data = np.ones(shape) if constant else None
        weight = model.tensor(shape, dtype, data=data, scale=scales, axis=3 if depthwise else 0)
        bias_scales = [1 / 4096] * out if int8 else None
        bias = model.tensor((out,), "int32" if int8 else dtype, data=np.zeros(out), scale=bias_scales)
        result = model.tensor((1, 16, 16, out), dtype)
        values = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
        name, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2D") if depthwise else ("CONV_2D", "Conv2D")
        more = {"depthMultiplier": 1} if depthwise else {}
        version = 3 if int8 else 1
        inputs = [source, weight, bias]
        model.op(name, inputs, [result], options, version=version, fusedActivationFunction=act, **values, **more)
        return [source] + ([] if constant else [weight]), [result]

    return build


def moving(
    name: str,
    dtype: str,
    sources: Sequence[Sequence[int]],
    result: Sequence[int],
    options: str | None,
    *constants: Any,
    version: int | None = None,
    results: int = 1,
    constants_first: bool = False,
    result_scale: float = 1 / 64,
    **values: Any,
) -> Build:
    """An operator with constant parameters such as axes, paddings, begins and sizes."""

    def build(model: TinyModel) -> tuple[list[int], list[int]]:
        given = [model.tensor(shape, dtype) for shape in sources]
        fixed = [model.tensor(np.shape(value), "int32", data=value) for value in constants]
        scale = result_scale if dtype == "int8" else None
        made = [model.tensor(result, dtype, scale=scale) for _ in range(results)]
        inputs = [*fixed, *given] if constants_first else [*given, *fixed]
        model.op(name, inputs, made, options, version=version or (2 if dtype == "int8" else 1), **values)
        return given, made

    return build


def converting(name: str, before: str, after: str, ratio: float = 1.0) -> Build:
    def build(model: TinyModel) -> tuple[list[int], list[int]]:
        source = model.tensor(SHAPE, before, scale=ratio / 64 if before in ("int8", "uint8", "int16") else None)
        result = model.tensor(SHAPE, after)
        model.op(name, [source], [result], version=2)
        return [source], [result]

    return build


def pooling(name: str, dtype: str, window: int, stride: int = 2) -> Build:
    values = {"filterWidth": window, "filterHeight": window, "strideW": stride, "strideH": stride, "padding": 1}
    return moving(name, dtype, [(1, 4, 4, 4)], (1, 2, 2, 4), "Pool2D", **values)


def strided(dtype: str, stride: int) -> Build:
    bounds = ([0, 0, 0, 0], [1, 4, 4, 4], [1, 1, 1, stride])
    return moving("STRIDED_SLICE", dtype, [(1, 4, 4, 4)], (1, 4, 4, 4 // stride), "StridedSlice", *bounds)


def all_cases() -> dict[str, Build]:
    """Name -> builder."""
    found = {f"{name} float32": unary(name, "float32") for name in _FLOAT_UNARY}
    found |= {"PRELU float32": prelu(constant=True), "PRELU computed slope": prelu(constant=False)}
    found |= {f"{name} int8": unary(name, "int8", version=version) for name, version in _INT8_UNARY.items()}
    for dtype in ("float32", "int8"):
        found |= {**arithmetic_cases(dtype), **rank_cases(dtype), **convolution_cases(dtype), **cutting_cases(dtype)}
        found |= {**moving_cases(dtype), **reducing_cases(dtype)}
    return found | scale_cases() | conversion_cases() | changed_scale_cases()


def arithmetic_cases(dtype: str) -> dict[str, Build]:
    version = 2 if dtype == "int8" else 1
    found = {
        f"GELU {dtype}": unary("GELU", dtype, "Gelu", version=version),
        f"LEAKY_RELU {dtype}": unary("LEAKY_RELU", dtype, "LeakyRelu", version=version, alpha=0.2),
    }
    for beta in (1.0, 2.0):
        found[f"SOFTMAX {dtype} beta {beta}"] = unary("SOFTMAX", dtype, "Softmax", version=version, beta=beta)
    for name, options in (("ADD", "Add"), ("SUB", "Sub"), ("MUL", "Mul"), ("DIV", "Div")):
        found[f"{name} {dtype}"] = binary(name, dtype, options)
        found[f"{name} {dtype} constant"] = binary(name, dtype, options, constant=True)
    for name in ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
        found[f"{name} {dtype}"] = binary(name, dtype)
    for act in (1, 4):
        found[f"ADD {dtype} activation {act}"] = binary("ADD", dtype, "Add", fusedActivationFunction=act)
    return found


def rank_cases(dtype: str) -> dict[str, Build]:
    found = {}
    for rank in (5, 6, 7):
        found[f"LOGISTIC {dtype} rank {rank}"] = unary("LOGISTIC", dtype, rank=rank)
        found[f"ADD {dtype} rank {rank}"] = binary("ADD", dtype, "Add", rank=rank)
        shape, axes = (2,) * rank, list(range(rank))[::-1]
        found[f"TRANSPOSE {dtype} rank {rank}"] = moving("TRANSPOSE", dtype, [shape], shape, "Transpose", axes)
    return found


def convolution_cases(dtype: str) -> dict[str, Build]:
    found = {}
    for kind, depthwise in (("CONV_2D", False), ("DEPTHWISE_CONV_2D", True)):
        found[f"{kind} {dtype}"] = convolution(dtype, depthwise=depthwise)
        found[f"{kind} {dtype} 7x7"] = convolution(dtype, depthwise=depthwise, taps=7)
        if dtype == "float32":
            found[f"{kind} computed weights"] = convolution(dtype, depthwise=depthwise, constant=False)
            found[f"{kind} tanh"] = convolution(dtype, depthwise=depthwise, act=4)
    both = [(2, 8, 8), (2, 8, 8)]
    found[f"BATCH_MATMUL {dtype}"] = moving("BATCH_MATMUL", dtype, both, (2, 8, 8), "BatchMatMul")
    if dtype == "int8":
        found["BATCH_MATMUL int8 zero point"] = binary("BATCH_MATMUL", dtype, "BatchMatMul", square=True, zero_point=5)
    for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        for window in (1, 2):
            found[f"{name} {dtype} window {window}"] = pooling(name, dtype, window)
    return found


def cutting_cases(dtype: str) -> dict[str, Build]:
    found = {}
    for count in (2, 5, 6):
        parts, whole = [(1, 4, 4, 4)] * count, (1, 4, 4, 4 * count)
        found[f"CONCATENATION {dtype} {count}"] = moving("CONCATENATION", dtype, parts, whole, "Concatenation", axis=3)
    for count in (2, 4, 5):
        parameters = {"results": count, "constants_first": True, "numSplits": count}
        whole = (1, 4, 4, 4 * count)
        found[f"SPLIT {dtype} {count}"] = moving(
            "SPLIT", dtype, [whole], (1, 4, 4, 4), "Split", np.int32(3), **parameters
        )
    bounds = ([0, 0, 0, 0], [1, 4, 4, 2])
    found[f"SLICE {dtype}"] = moving("SLICE", dtype, [(1, 4, 4, 4)], (1, 4, 4, 2), "Slice", *bounds)
    for stride in (1, 2):
        found[f"STRIDED_SLICE {dtype} stride {stride}"] = strided(dtype, stride)
    found[f"GATHER {dtype}"] = moving("GATHER", dtype, [(4, 4)], (2, 4), "Gather", [0, 1])
    return found


def prelu(*, constant: bool) -> Build:
    def build(model: TinyModel) -> tuple[list[int], list[int]]:
        source, result = model.tensor(SHAPE), model.tensor(SHAPE)
        slope = model.tensor((1, 1, 4), data=np.full((1, 1, 4), 0.25) if constant else None)
        model.op("PRELU", [source, slope], [result])
        return [source] + ([] if constant else [slope]), [result]

    return build


def moving_cases(dtype: str) -> dict[str, Build]:
    start = [(1, 4, 4, 4)]
    found = {
        f"RESHAPE {dtype}": moving("RESHAPE", dtype, start, (1, 64), "Reshape", [1, 64], version=1, newShape=[1, 64]),
        f"EXPAND_DIMS {dtype}": moving(
            "EXPAND_DIMS", dtype, [(4, 4, 4)], (1, 4, 4, 4), "ExpandDims", np.int32(0), version=1
        ),
    }
    for name, options in (("PAD", "Pad"), ("MIRROR_PAD", "MirrorPad")):
        found[f"{name} {dtype}"] = moving(name, dtype, start, (1, 6, 6, 4), options, _EDGES)
    for name, options in (
        ("RESIZE_BILINEAR", "ResizeBilinear"),
        ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor"),
    ):
        found[f"{name} {dtype}"] = moving(name, dtype, start, (1, 8, 8, 4), options, [8, 8])
    for name, options, before, after in (
        ("DEPTH_TO_SPACE", "DepthToSpace", (1, 4, 4, 4), (1, 8, 8, 1)),
        ("SPACE_TO_DEPTH", "SpaceToDepth", (1, 8, 8, 1), (1, 4, 4, 4)),
    ):
        found[f"{name} {dtype}"] = moving(name, dtype, [before], after, options, version=1, blockSize=2)
    return found


def reducing_cases(dtype: str) -> dict[str, Build]:
    found = {}
    for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        for axes in ([1, 2], [3], [0]):
            shape = tuple(1 if axis in axes else size for axis, size in enumerate((1, 4, 4, 4)))
            found[f"{name} {dtype} {axes}"] = moving(name, dtype, [(1, 4, 4, 4)], shape, "Reducer", axes, keepDims=True)
    return found


def scale_cases() -> dict[str, Build]:
    found = {}
    for ratio in (2.0**-11, 2.0**-10, 255.0, 256.0):
        found[f"ADD int8 ratio {ratio}"] = binary("ADD", "int8", "Add", scales=(ratio / 64, 1 / 64, 1 / 64))
    for ratio in (2.0**-17, 2.0**-16, 255.0, 256.0):
        found[f"MUL int8 ratio {ratio}"] = binary("MUL", "int8", "Mul", scales=(ratio, 1.0, 1.0))
    for ratio in (2.0**-9, 2.0**-8, 128.0, 200.0):
        found[f"QUANTIZE int8 ratio {ratio}"] = converting("QUANTIZE", "int8", "int8", ratio)
    return found


def conversion_cases() -> dict[str, Build]:
    found = {}
    for before, after in (("float32", "int8"), ("float32", "uint8"), ("int8", "int8"), ("int8", "uint8")):
        found[f"QUANTIZE {before} {after}"] = converting("QUANTIZE", before, after)
    for before in ("int8", "uint8", "int16"):
        found[f"DEQUANTIZE {before}"] = converting("DEQUANTIZE", before, "float32")
    return found


def changed_scale_cases() -> dict[str, Build]:
    """Operators that only move values, asked to change their scale."""
    found = {}
    for name, options, shape, constants, values in (
        ("SLICE", "Slice", (1, 4, 4, 2), ([0, 0, 0, 0], [1, 4, 4, 2]), {}),
        ("TRANSPOSE", "Transpose", (1, 4, 4, 4), ([0, 3, 1, 2],), {}),
        ("RESHAPE", "Reshape", (1, 64), ([1, 64],), {"newShape": [1, 64], "version": 1}),
        ("PAD", "Pad", (1, 6, 6, 4), (_EDGES,), {}),
        ("RESIZE_BILINEAR", "ResizeBilinear", (1, 8, 8, 4), ([8, 8],), {}),
        ("MEAN", "Reducer", (1, 1, 1, 4), ([1, 2],), {"keepDims": True}),
    ):
        found[f"{name} int8, scale changed"] = moving(
            name, "int8", [(1, 4, 4, 4)], shape, options, *constants, result_scale=1 / 32, **values
        )
    return found
