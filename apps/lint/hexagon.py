"""The Hexagon delegate of TFLite: Qualcomm DSPs of the Snapdragon 8xx years up to 855."""

from __future__ import annotations

from apps.lint import checks
from apps.lint.accelerator import Accelerator, whole_model
from apps.lint.general import COMMON_CHECKS
from apps.lint.graph import Graph, Op
from apps.lint.rules import DOCUMENTED, ERROR, NOTE, WARNING, Finding, Requirement, Rule, needs

NAME = "hexagon"
_INT8 = ("int8", "uint8")

UNSUPPORTED = Rule(
    id="hexagon-operator",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="IsNodeSupportedByHexagon has no case for the operator; it runs on the CPU.",
    fix="spell it with operators of the list; conversions between float and int8 stay on the CPU in any case.",
    source="hexagon-supported",
)
FLOAT = Rule(
    id="hexagon-float",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the DSP takes quantized operators only; all its supported operators want int8 or uint8.",
    fix="export with scheme w8a8.",
    source="hexagon-readme",
)
CONDITION = Rule(
    id="hexagon-condition",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="IsNodeSupportedByHexagon refuses the operator under this condition.",
    fix="meet the condition named in the detail.",
    source="hexagon-supported",
)
RANK = Rule(
    id="hexagon-rank",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="Hexagon supports inputs and outputs of at most 4 dimensions.",
    fix="fold axes together.",
    source="hexagon-readme",
)
FILTER_WIDTH = Rule(
    id="hexagon-depthwise-width",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="the delegate's list asks for depthwise filters of width 3; its check does not enforce it.",
    fix="use 3x3 depthwise kernels, or test on the device.",
    source="hexagon-readme",
)
OLD_DEVICES = Rule(
    id="hexagon-devices",
    severity=NOTE,
    confidence=DOCUMENTED,
    why="the delegate's libraries name Hexagon 680 to 690 (Snapdragon 820 to 855); newer phones want Qualcomm's own "
    "QNN delegate.",
    fix="take this forecast for phones of 2016 to 2019.",
    source="hexagon-guide",
)


def _depth_multiplier(op: Op) -> str | None:
    source, many = op.inputs[0], op.options.get("depthMultiplier", 1)
    depth = 1 if source is None else source.shape[-1]
    plain = many == 1 or (depth == 1 and checks.dilation(op) == 1)
    return None if plain else f"depth multiplier {many} on {depth} channels"


def _resize_size(op: Op) -> str | None:
    tensor = op.inputs[1]
    sizes = () if tensor is None or tensor.value is None else tensor.value
    return f"resize to {sizes[0]}x{sizes[1]}, below 66 is taken" if len(sizes) == 2 and max(sizes) > 65 else None


def _filter_width(op: Op) -> str | None:
    weight = op.inputs[1]
    width = 3 if weight is None or weight.rank != 4 else weight.shape[2]
    return None if width == 3 else f"filter width {width}"


_DATA = needs(FLOAT, checks.types((0,), *_INT8))
_PAIR = needs(FLOAT, checks.types((0, 1), *_INT8))
_ALL = needs(FLOAT, checks.all_types(*_INT8))
_RELU = needs(CONDITION, checks.activation(*checks.RELU_LIKE))
_PLAIN = needs(CONDITION, checks.activation("NONE"))
_V1, _V2, _V3 = (needs(CONDITION, checks.version_at_most(version)) for version in (1, 2, 3))
_STRIDE = needs(CONDITION, checks.stride_at_most(3))
_AXES = needs(CONDITION, checks.constant_at(1), checks.types((1,), "int32"))
_CUT_MASKS = needs(CONDITION, checks.option_is("ellipsisMask", 0), checks.option_is("newAxisMask", 0))

TABLE: dict[str, tuple[Requirement, ...]] = {
    **dict.fromkeys(("ADD", "SUB", "MUL"), (*_PAIR, *_RELU, *_V2)),
    "MEAN": (*_DATA, *_AXES, *_V2),
    "MIRROR_PAD": (*_DATA, *_AXES, *_V2),
    "PAD": (*_DATA, *_AXES, *_V2, *needs(CONDITION, checks.input_count(2, 2))),
    "FULLY_CONNECTED": (
        *_PAIR,
        *_RELU,
        *needs(CONDITION, checks.version_at_most(4), checks.constant_at(2), checks.option_is("keepNumDims", 0)),
    ),
    **dict.fromkeys(("CONCATENATION", "PACK"), (*_ALL, *_V2)),
    **dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D"), (*_DATA, *_PLAIN, *_V2)),
    "L2_NORMALIZATION": (*_DATA, *_PLAIN, *_V2),
    "TRANSPOSE_CONV": (*needs(FLOAT, checks.types((1, 2), *_INT8)), *_STRIDE, *_V2),
    "CONV_2D": (*_PAIR, *_RELU, *_STRIDE, *_V3, *needs(CONDITION, checks.not_dilated)),
    "DEPTHWISE_CONV_2D": (
        *_PAIR,
        *_RELU,
        *_STRIDE,
        *_V3,
        *needs(CONDITION, checks.dilated_only_unstrided, _depth_multiplier),
    ),
    "RESHAPE": (*_DATA, *_V1, *needs(CONDITION, checks.input_count(1, 2))),
    **dict.fromkeys(("SOFTMAX", "RELU6", "TANH", "LOGISTIC", "SPACE_TO_DEPTH", "TRANSPOSE"), (*_DATA, *_V2)),
    **dict.fromkeys(("HARD_SWISH", "NEG", "DEPTH_TO_SPACE"), (*_DATA, *_V1)),
    "RELU": (*_DATA, *needs(CONDITION, checks.version_exactly(2))),
    "RESIZE_NEAREST_NEIGHBOR": (*_DATA, *_AXES, *_V2),
    "RESIZE_BILINEAR": (*_DATA, *_AXES, *_V2, *needs(CONDITION, _resize_size)),
    "SPLIT": (*needs(FLOAT, checks.types((1,), *_INT8)), *_V2, *needs(CONDITION, checks.constant_at(0))),
    "QUANTIZE": (*_DATA, *_V2),
    **dict.fromkeys(("MINIMUM", "MAXIMUM"), (*_PAIR, *_V2)),
    "SLICE": (*_DATA, *_V2, *needs(CONDITION, checks.constant_at(1, 2))),
    "STRIDED_SLICE": (*_DATA, *_V2, *needs(CONDITION, checks.constant_at(1, 2, 3)), *_CUT_MASKS),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), (*_DATA, *_V2)),
}


def _old_devices(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    return (whole_model(OLD_DEVICES, accelerator, f"{len(graph.ops)} operators looked at"),)


HEXAGON = Accelerator(
    name=NAME,
    title="Hexagon delegate",
    format="tflite",
    table=TABLE,
    everywhere=needs(RANK, checks.rank_at_most(4)),
    unsupported=UNSUPPORTED,
    advice={"DEPTHWISE_CONV_2D": needs(FILTER_WIDTH, _filter_width)},
    graph_checks=(*COMMON_CHECKS, _old_devices),
    caveat="TFLite's own Hexagon delegate, not Qualcomm's QNN",
)
