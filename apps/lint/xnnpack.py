"""XNNPACK on the CPU: what LiteRT's delegate takes. Every line here is asked of the interpreter by the tests."""

from __future__ import annotations

from apps.lint import checks
from apps.lint.accelerator import Accelerator
from apps.lint.general import COMMON_CHECKS, tap_advice
from apps.lint.graph import Op
from apps.lint.rules import DOCUMENTED, ERROR, OBSERVED, WARNING, Requirement, Rule, needs

NAME = "xnnpack"

UNSUPPORTED = Rule(
    id="xnnpack-operator",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the operator is not among those that XNNPACK's delegate visits, so LiteRT's own kernel runs it.",
    fix="spell it with operators of the list: convolutions, arithmetic, slices, reshapes, bilinear resize.",
    source="xnnpack-delegate",
)
ARITHMETIC = Rule(
    id="xnnpack-arithmetic",
    severity=ERROR,
    confidence=OBSERVED,
    why="XNNPACK's delegate takes this operator in other arithmetic only; LiteRT's own kernel is several times slower.",
    fix="keep the operator in float32 together with its neighbours, or replace it (fuse a relu into its convolution, "
    "a hard sigmoid for a softmax over few values).",
    source="xnnpack-asked",
)
CONDITION = Rule(
    id="xnnpack-condition",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="XNNPACK's delegate takes this operator under conditions that it breaks here.",
    fix="meet the condition: constant weights and axes, an activation of the relu family, unit strides in slices.",
    source="xnnpack-readme",
)
LIMIT = Rule(
    id="xnnpack-limit",
    severity=ERROR,
    confidence=OBSERVED,
    why="XNNPACK's delegate refuses the operator beyond this limit.",
    fix="split it: concatenate in steps of five, split in steps of four, work on six axes at most.",
    source="xnnpack-asked",
)
SCALES = Rule(
    id="xnnpack-scale-ratio",
    severity=ERROR,
    confidence=OBSERVED,
    why="the scales of input and result are further apart than XNNPACK's fixed-point arithmetic reaches.",
    fix="calibrate again; a ratio this large means that one of the two ranges is wrong.",
    source="xnnpack-asked",
)
BREAKS = Rule(
    id="xnnpack-unequal-scales",
    severity=ERROR,
    confidence=OBSERVED,
    why="the delegate claims this operator and then cannot build it: with XNNPACK the interpreter refuses the file.",
    fix="give input and result the same scale and zero point (requantize in front of the operator).",
    source="tflite-quantization",
)
_OPS_WITH_SCALE = ("SLICE", "STRIDED_SLICE", "TRANSPOSE", "CONCATENATION", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "PAD")


def _pool_1x1(op: Op) -> str | None:
    window = (op.options.get("filterHeight", 1), op.options.get("filterWidth", 1))
    strides = (op.options.get("strideH", 1), op.options.get("strideW", 1))
    return "1x1 pooling with a stride" if window == (1, 1) and strides != (1, 1) else None


def _second_zero_point(op: Op) -> str | None:
    second = op.inputs[1]
    points = () if second is None or op.arithmetic != "int8" else second.zero_points
    return f"second operand has zero point {points[0]}, only 0 is taken" if any(points) else None


def _strides(op: Op) -> str | None:
    strides = op.inputs[-1]
    value = None if strides is None else strides.value
    return f"strides {value}, only ones are taken" if value is not None and set(value) != {1} else None


def _quantizes(op: Op) -> str | None:
    source = op.inputs[0]
    before, after = "" if source is None else source.dtype, op.output.dtype
    if source is None or after not in ("int8", "uint8") or before not in ("float32", after):
        return f"{before} to {after}"
    if before != after:
        return None
    ratio = source.scales[0] / op.output.scales[0]
    return None if 2**-8 <= ratio <= 2**7 else f"scale ratio {ratio:.3g}, 2^-8 to 2^7 are taken"


_RELU = needs(CONDITION, checks.activation(*checks.RELU_LIKE))
_BOTH = needs(ARITHMETIC, checks.arithmetic("float32", "float16", "int8"))
_FLOAT = needs(ARITHMETIC, checks.arithmetic("float32", "float16"))
_WEIGHTS = (*_BOTH, *_RELU, *needs(CONDITION, checks.constant_at(1, 2)))
_KEEPS_SCALE = (*_BOTH, *needs(BREAKS, checks.same_scale))
_POOL = (*_RELU, *needs(CONDITION, _pool_1x1))

_FLOAT_ONLY = (
    *("ABS", "CEIL", "COS", "DIV", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "MAXIMUM", "MINIMUM", "NEG", "RELU"),
    *("RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "SQUARED_DIFFERENCE"),
)


TABLE: dict[str, tuple[Requirement, ...]] = {
    **dict.fromkeys(_FLOAT_ONLY, _FLOAT),
    "DIV": (*_FLOAT, *_RELU),
    "PRELU": (*_FLOAT, *needs(CONDITION, checks.constant_at(1))),
    "SOFTMAX": (*_FLOAT, *needs(CONDITION, checks.option_is("beta", 1.0))),
    "AVERAGE_POOL_2D": (*_FLOAT, *_POOL),
    "MAX_POOL_2D": (*_KEEPS_SCALE, *_POOL),
    **dict.fromkeys(("ELU", "LOGISTIC", "TANH"), _BOTH),
    "LEAKY_RELU": (*_BOTH, *needs(SCALES, checks.scale_ratio(2**-8, 2**7 + 1e-6))),
    **dict.fromkeys(("ADD", "SUB"), (*_BOTH, *_RELU, *needs(SCALES, checks.scale_ratio(2**-10, 2**8)))),
    "MUL": (*_BOTH, *_RELU, *needs(SCALES, checks.scale_ratio(2**-16, 2**8, product=True))),
    "CONV_2D": _WEIGHTS,
    "DEPTHWISE_CONV_2D": (*_WEIGHTS, *needs(CONDITION, checks.present(2, "bias"))),
    "FULLY_CONNECTED": _WEIGHTS,
    "TRANSPOSE_CONV": (*_BOTH, *_RELU, *needs(CONDITION, checks.constant_at(0, 1, 3))),
    "BATCH_MATMUL": (*_BOTH, *needs(CONDITION, _second_zero_point)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), (*_BOTH, *needs(CONDITION, checks.constant_at(1)))),
    **dict.fromkeys(_OPS_WITH_SCALE, _KEEPS_SCALE),
    "CONCATENATION": (*_KEEPS_SCALE, *_RELU, *needs(LIMIT, checks.input_count(2, 5))),
    "SPLIT": (*_KEEPS_SCALE, *needs(LIMIT, checks.output_count(4)), *needs(CONDITION, checks.constant_at(0))),
    "RESHAPE": (*_BOTH, *needs(CONDITION, checks.constant_at(1)), *needs(ARITHMETIC, checks.same_scale)),
    "RESIZE_BILINEAR": (*_KEEPS_SCALE, *needs(CONDITION, checks.constant_at(1))),
    "SLICE": (*_KEEPS_SCALE, *needs(CONDITION, checks.constant_at(1, 2))),
    "STRIDED_SLICE": (
        *_KEEPS_SCALE,
        *needs(CONDITION, checks.constant_at(1, 2, 3), _strides),
        *needs(CONDITION, *(checks.option_is(f"{name}Mask", 0) for name in ("ellipsis", "newAxis", "shrinkAxis"))),
    ),
    "PAD": (*_KEEPS_SCALE, *needs(CONDITION, checks.constant_at(1))),
    "QUANTIZE": needs(ARITHMETIC, _quantizes),
    "DEQUANTIZE": needs(ARITHMETIC, checks.types((0,), "int8", "uint8"), checks.output_types("float32")),
}


SLOW_TAPS = Rule(
    id="xnnpack-depthwise-taps",
    severity=WARNING,
    confidence=OBSERVED,
    why="XNNPACK's fast depthwise kernels end at 25 taps: a 7x7 took 8 ms (int8: 46 ms) where a 5x5 took 0.2 (0.4).",
    fix="write it as an exact sum of depthwise pieces of at most 25 taps, or use 5x5 or 3x3.",
    source="xnnpack-timed",
)
OUTSIDE = Rule(
    id="executorch-outside",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the program calls a portable kernel for this operator: export did not hand it to XNNPACK.",
    fix="respell it for the partitioner: mean((2, 3), keepdim=True), slices in place of split, bmm on 3 axes.",
    source="executorch-file",
)

XNNPACK = Accelerator(
    name=NAME,
    title="XNNPACK (CPU)",
    format="tflite",
    table=TABLE,
    everywhere=needs(LIMIT, checks.rank_at_most(6)),
    unsupported=UNSUPPORTED,
    advice={"DEPTHWISE_CONV_2D": tap_advice(SLOW_TAPS, 25)},
    graph_checks=COMMON_CHECKS,
    caveat="LiteRT 2.3.0 with XNNPACK's int8 kernels, as its Python package and phones' runtimes have them",
)
XNNPACK_EXECUTORCH = Accelerator(
    name=NAME,
    title="XNNPACK (CPU)",
    format="executorch",
    table={},
    unsupported=OUTSIDE,
    advice={"XNNDepthwiseConv2d": tap_advice(SLOW_TAPS, 25)},
    graph_checks=COMMON_CHECKS,
    caveat="who runs what is read from the program: ExecuTorch decided at export",
)
