"""NNAPI as TFLite's delegate maps to it, on Android 11 and later (feature level of NNAPI 1.3)."""

from __future__ import annotations

from apps.lint import checks
from apps.lint.accelerator import Accelerator, whole_model
from apps.lint.general import COMMON_CHECKS
from apps.lint.graph import Graph
from apps.lint.rules import DOCUMENTED, ERROR, NOTE, Finding, Requirement, Rule, needs

NAME = "nnapi"
_FLOAT_OR_INT8 = ("float32", "int8", "uint8")

UNSUPPORTED = Rule(
    id="nnapi-operator",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the delegate maps the operator to nothing in NNAPI; it runs on TFLite's CPU kernels.",
    fix="spell it with mapped operators (no GELU, BATCH_MATMUL, SQUARE or MIRROR_PAD).",
    source="nnapi-validate",
)
TYPE = Rule(
    id="nnapi-type",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the delegate's Validate takes this operator in other element types only.",
    fix="keep the operator in a type of the list, together with its neighbours.",
    source="nnapi-validate",
)
CONDITION = Rule(
    id="nnapi-condition",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="the delegate's Validate refuses the operator under this condition.",
    fix="meet the condition named in the detail.",
    source="nnapi-validate",
)
DEPRECATED = Rule(
    id="nnapi-deprecated",
    severity=NOTE,
    confidence=DOCUMENTED,
    why="NNAPI is deprecated since Android 15; drivers are no longer renewed.",
    fix="prefer XNNPACK, the GPU delegate or a vendor's own delegate for new applications.",
    source="nnapi-migration",
)
DRIVERS = Rule(
    id="nnapi-driver",
    severity=NOTE,
    confidence=DOCUMENTED,
    why="what passes here is handed to NNAPI; which chip takes it is the phone's driver's choice, and its CPU "
    "reference implementation is slow.",
    fix="measure on the phone; disallow NNAPI's CPU.",
    source="nnapi-validate",
)


_DATA = needs(TYPE, checks.types((0,), *_FLOAT_OR_INT8))
_WITH_INT32 = needs(TYPE, checks.types((0,), *_FLOAT_OR_INT8, "int32"))
_FLOAT = needs(TYPE, checks.types((0,), "float32"))
_V1, _V2, _V3, _V5 = (needs(CONDITION, checks.version_at_most(version)) for version in (1, 2, 3, 5))
_PLAIN = needs(CONDITION, checks.activation("NONE"))
_RANK4 = needs(CONDITION, checks.rank_at_most(4))
_SIZE = needs(CONDITION, checks.rank_one_of(0, (4,)), checks.constant_at(1))
_NO_SCALAR = needs(CONDITION, lambda op: "a scalar result" if op.output.rank == 0 else None)


TABLE: dict[str, tuple[Requirement, ...]] = {
    **dict.fromkeys(("ADD",), (*_WITH_INT32, *_V2)),
    "MUL": (*_WITH_INT32, *_V3),
    "SUB": (*_WITH_INT32, *_V3, *_RANK4),
    "DIV": (*_FLOAT, *_V1),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), (*_DATA, *_V2)),
    "CONV_2D": (*_DATA, *_V5, *needs(CONDITION, checks.input_count(3, 3))),
    "DEPTHWISE_CONV_2D": (*_DATA, *_V3),
    "FULLY_CONNECTED": (*_DATA, *_V5),
    "TRANSPOSE_CONV": (
        *needs(TYPE, checks.types((1, 2), *_FLOAT_OR_INT8)),
        *_V3,
        *needs(CONDITION, checks.constant_at(0, 1)),
    ),
    "HARD_SWISH": _DATA,
    "SOFTMAX": (*_DATA, *_V2, *_RANK4),
    "RESHAPE": (*_DATA, *_V1, *needs(CONDITION, checks.constant_at(1))),
    "RESIZE_BILINEAR": (*_DATA, *_V3, *_SIZE),
    "RESIZE_NEAREST_NEIGHBOR": (*_DATA, *_V3, *needs(CONDITION, checks.constant_at(1))),
    **dict.fromkeys(("SQUEEZE", "FLOOR", "LOCAL_RESPONSE_NORMALIZATION"), _V1),
    "L2_NORMALIZATION": (*_DATA, *_V2, *_PLAIN),
    "CONCATENATION": (*_DATA, *_V2, *_PLAIN, *_RANK4),
    "DEQUANTIZE": (*needs(TYPE, checks.types((0,), "int8", "uint8")), *_V2),
    **dict.fromkeys(("RELU", "RELU_N1_TO_1", "RELU6", "LOGISTIC", "TANH"), (*_DATA, *_V2)),
    **dict.fromkeys(("PAD", "PADV2"), (*_DATA, *_V2)),
    **dict.fromkeys(("SPACE_TO_BATCH_ND", "STRIDED_SLICE"), _V2),
    "TRANSPOSE": (*_V2, *needs(CONDITION, checks.constant_at(1))),
    **dict.fromkeys(("ABS", "EXP", "LOG", "RSQRT", "POW", "SIN", "SQRT"), (*_FLOAT, *_V1)),
    "SLICE": (*_WITH_INT32, *_V2, *needs(TYPE, checks.types((1, 2), "int32"))),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"), (*_DATA, *_V2)),
    "MEAN": (*_DATA, *_V2, *_NO_SCALAR),
    **dict.fromkeys(("MAXIMUM", "MINIMUM"), (*_WITH_INT32, *_V3)),
    "CAST": (*_WITH_INT32, *_V1, *needs(TYPE, checks.output_types(*_FLOAT_OR_INT8, "int32"))),
    **dict.fromkeys(("LEAKY_RELU", "PRELU"), (*_DATA, *_V1)),
    "TILE": (*_WITH_INT32, *_V1),
    "NEG": (*needs(TYPE, checks.types((0,), "float32", "int32")), *_V2),
    **dict.fromkeys(("GATHER",), (*_WITH_INT32, *needs(TYPE, checks.types((1,), "int32")))),
    "EXPAND_DIMS": (*_WITH_INT32, *_V1, *needs(CONDITION, checks.constant_at(1))),
    "SPLIT": (*needs(TYPE, checks.types((1,), *_FLOAT_OR_INT8, "int32")), *needs(CONDITION, checks.constant_at(0))),
    "QUANTIZE": (*_DATA, *_V2, *needs(TYPE, checks.output_types("int8", "uint8"))),
    **dict.fromkeys(("REDUCE_MIN", "REDUCE_MAX"), (*_DATA, *_V2, *_NO_SCALAR)),
    **dict.fromkeys(("REDUCE_PROD", "SUM"), (*_FLOAT, *_V1, *_NO_SCALAR)),
    **dict.fromkeys(("ELU", "LOG_SOFTMAX"), (*_FLOAT, *_V1)),
    "SQUARED_DIFFERENCE": (*_WITH_INT32, *_V2, *_RANK4),
}


def _notes(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    detail = f"{len(graph.ops)} operators looked at"
    return (whole_model(DEPRECATED, accelerator, detail), whole_model(DRIVERS, accelerator, detail))


NNAPI = Accelerator(
    name=NAME,
    title="NNAPI",
    format="tflite",
    table=TABLE,
    unsupported=UNSUPPORTED,
    graph_checks=(*COMMON_CHECKS, _notes),
    caveat="what TFLite's delegate hands over on Android 11 and later; the phone's driver decides what its chip runs",
)
