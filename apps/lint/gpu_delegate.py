"""The GPU delegate of TFLite and LiteRT (OpenCL, OpenGL ES, Metal)."""

from __future__ import annotations

from apps.lint import checks
from apps.lint import graph as roles
from apps.lint.accelerator import Accelerator, whole_model
from apps.lint.general import COMMON_CHECKS
from apps.lint.graph import Graph, Op
from apps.lint.rules import DOCUMENTED, ERROR, NOTE, WARNING, Finding, Requirement, Rule, needs

NAME = "gpu-delegate"
# TfLiteGpuDelegateOptionsV2Default().
_DEFAULT_PARTITIONS = 1

UNSUPPORTED = Rule(
    id="gpu-operator",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the delegate's compatibility check does not know the operator; it runs on the CPU, and the data travels there "
    "and back.",
    fix="spell it with operators of the check's list (convolutions, arithmetic, bilinear resize, space/depth).",
    source="gpu-compatibility",
)
CONDITION = Rule(
    id="gpu-condition",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the delegate's compatibility check refuses the operator under this condition.",
    fix="meet the condition named in the detail.",
    source="gpu-compatibility",
)
RANK = Rule(
    id="gpu-rank",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="tensors become batch, height, width, channels: the delegate reads 1 to 4 axes and no scalars.",
    fix="fold axes together; window partitions and pixel shuffles have forms with 4 axes.",
    source="gpu-shapes",
)
BROADCAST = Rule(
    id="gpu-broadcast",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="older delegates refuse a product whose operands are both smaller than the result; newer ones broadcast.",
    fix="make one operand as large as the result in every axis, or write the product as a 1x1 convolution.",
    source="gpu-compatibility",
)
CHANNELS = Rule(
    id="gpu-channels",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="GPU tensors hold slices of 4 channels: 5 channels cost as much as 8.",
    fix="use multiples of 4 inside the network; at the interface, RGBA in place of RGB saves a copy.",
    source="gpu-readme",
)
MOVES = Rule(
    id="gpu-reshape",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="operations that are trivial on a CPU, reshapes of all kinds first, can be expensive on a GPU.",
    fix="remove those that only suit the network's description; one DEPTH_TO_SPACE in place of transposes.",
    source="gpu-readme",
)
INT8_EMULATED = Rule(
    id="gpu-int8",
    severity=NOTE,
    confidence=DOCUMENTED,
    why="the GPU computes in float16 or float32; int8 files are taken by default and computed in float, so int8 gains "
    "size and nothing in arithmetic.",
    fix="give the GPU the fp32 artifact (with precision loss allowed it runs in float16).",
    source="gpu-readme",
)
ONE_PARTITION = Rule(
    id="gpu-partitions",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="by default only one partition, the largest, goes to the GPU; the others stay on the CPU.",
    fix="remove what cuts the graph, or raise max_delegated_partitions and measure.",
    source="gpu-options",
)


def _broadcast(op: Op) -> str | None:
    first, second = op.inputs[0], op.inputs[1]
    if first is None or second is None or first.rank != second.rank:
        return None
    less = any(a < b for a, b in zip(first.shape, second.shape, strict=True))
    more = any(a > b for a, b in zip(first.shape, second.shape, strict=True))
    return f"{list(first.shape)} with {list(second.shape)}" if less and more else None


def _padding(op: Op) -> str | None:
    tensor = op.inputs[1]
    shape = () if tensor is None else tensor.shape
    return None if shape in ((3, 2), (4, 2)) else f"paddings of shape {list(shape)}, 3x2 or 4x2 is taken"


def _depth_multiplier(op: Op) -> str | None:
    source, many = op.inputs[0], op.options.get("depthMultiplier", 1)
    depth = 1 if source is None else source.shape[-1]
    return f"depth multiplier {many} on {depth} channels" if many != 1 and depth != 1 else None


_FUSED = needs(CONDITION, checks.activation(*checks.RELU_LIKE, "TANH"))
_ONE = needs(CONDITION, checks.computed_inputs(1))
_TWO = needs(CONDITION, checks.computed_inputs(2), checks.input_count(1, 2))
_AXES = (*_ONE, *needs(CONDITION, checks.constant_at(1), checks.types((1,), "int32")))
_CUT = needs(CONDITION, checks.rank_one_of(0, (3, 4)))
_CONVOLVED = (*needs(CONDITION, checks.computed_inputs(2)), *_FUSED)
_BLOCK = needs(CONDITION, lambda op: None if op.options.get("blockSize", 2) > 1 else "block size 1")
_MASKS = needs(CONDITION, *(checks.option_is(f"{name}Mask", 0) for name in ("ellipsis", "newAxis", "shrinkAxis")))
_RESIZE = needs(
    CONDITION,
    lambda op: (
        "align_corners with half_pixel_centers"
        if op.options.get("alignCorners") and op.options.get("halfPixelCenters")
        else None
    ),
)

TABLE: dict[str, tuple[Requirement, ...]] = {
    "ADD": (*_TWO, *needs(CONDITION, checks.input_count(2, 2))),
    "ADD_N": needs(CONDITION, checks.input_count(2, 2)),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), (*_ONE, *_FUSED)),
    "BATCH_MATMUL": needs(CONDITION, checks.input_count(2, 2)),
    "CAST": needs(CONDITION, checks.types((0,), "float32", "float16", "int32", "bool")),
    **dict.fromkeys(("CONCATENATION", "PACK", "SPLIT", "SPLIT_V", "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU"), ()),
    "PRELU": (),
    "CONV_2D": _CONVOLVED,
    "DEPTHWISE_CONV_2D": (*_CONVOLVED, *needs(CONDITION, checks.rank_one_of(0, (4,)), _depth_multiplier)),
    "TRANSPOSE_CONV": needs(CONDITION, checks.computed_inputs(2)),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), (*_ONE, *_BLOCK)),
    "DEQUANTIZE": needs(CONDITION, checks.types((0,), "int8", "uint8", "float16", "float32", "int32")),
    **dict.fromkeys(("QUANTIZE", "RESHAPE", "TRANSPOSE", "TILE", "HARD_SWISH", "RESIZE_NEAREST_NEIGHBOR"), _ONE),
    "RESIZE_BILINEAR": (*_ONE, *_RESIZE),
    "FULLY_CONNECTED": needs(CONDITION, checks.option_is("weightsFormat", 0), checks.computed_inputs(2)),
    "GATHER": needs(CONDITION, checks.rank_one_of(1, (1,)), checks.types((1,), "int32")),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _AXES),
    "MUL": (*needs(CONDITION, checks.input_count(2, 2)), *_FUSED, *needs(BROADCAST, _broadcast)),
    "SLICE": (*needs(CONDITION, checks.input_count(3, 3)), *_CUT),
    "STRIDED_SLICE": (*needs(CONDITION, checks.input_count(4, 4)), *_CUT, *_MASKS),
    "SOFTMAX": needs(CONDITION, checks.option_is("beta", 1.0)),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), (*_ONE, *needs(CONDITION, _padding))),
    **dict.fromkeys(
        ("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "LOG", "LOGISTIC", "NEG", "ROUND", "RSQRT", "SIGN"), _ONE
    ),
    **dict.fromkeys(("SIN", "SQRT", "SQUARE", "TANH"), _ONE),
    **dict.fromkeys(("DIV", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE", "SUB"), (*_TWO, *_FUSED)),
}


def _channels(op: Op) -> str | None:
    depth = op.output.shape[-1] if op.output.rank == 4 else 0
    return f"{depth} channels" if depth % 4 else None


def _int8(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    ops = tuple(op for op in graph.ops if op.macs and op.arithmetic == "int8")
    return (whole_model(INT8_EMULATED, accelerator, f"{len(ops)} int8 operators", ops),) if ops else ()


def _moves(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    kinds = ("RESHAPE", "TRANSPOSE", "SPACE_TO_DEPTH", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND")
    ops = tuple(op for op in graph.ops if op.kind in kinds and op.role != roles.TRANSPOSE)
    moved = sum(op.output.elements for op in ops)
    return (whole_model(MOVES, accelerator, f"{moved} elements moved per run", ops),) if ops else ()


_CHANNEL_ADVICE = needs(CHANNELS, _channels)

GPU_DELEGATE = Accelerator(
    name=NAME,
    title="GPU delegate",
    format="tflite",
    table=TABLE,
    everywhere=needs(RANK, checks.rank_at_most(4)),
    unsupported=UNSUPPORTED,
    advice=dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONCATENATION", "SLICE"), _CHANNEL_ADVICE),
    graph_checks=(*COMMON_CHECKS, _int8, _moves),
    doubtful=(BROADCAST.id,),
    partitions_used=_DEFAULT_PARTITIONS,
    caveat="default options: one partition, quantized models allowed; drivers differ between phones",
)
