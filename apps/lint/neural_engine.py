"""Apple's Neural Engine. Core ML decides on the device and Apple lists no operators, so much of this is experience."""

from __future__ import annotations

from apps.lint import checks
from apps.lint import graph as roles
from apps.lint.accelerator import Accelerator, whole_model
from apps.lint.general import float_islands, transposes
from apps.lint.graph import Graph, Op
from apps.lint.rules import DOCUMENTED, ERROR, FOLKLORE, NOTE, WARNING, Finding, Requirement, Rule, needs

NAME = "ane"
_ROW_BYTES = 64
_LARGEST_SIDE = 16384
_BYTES = {"float16": 2, "float32": 4, "int8": 1, "uint8": 1}

UNKNOWN = Rule(
    id="ane-operator",
    severity=WARNING,
    confidence=FOLKLORE,
    why="nothing that was read says whether the Neural Engine runs this operation; Apple publishes no list.",
    fix="look at the compute plan on a Mac (edge-sr profile, or Xcode's performance report).",
    source="ane-layers",
)
FLOAT32 = Rule(
    id="ane-float32",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="operations typed float32 run on the GPU and the CPU only; the Neural Engine computes in float16.",
    fix="export with scheme fp16, w8a8 or w8a8_mixed.",
    source="coreml-typed",
)
INTERFACE = Rule(
    id="ane-float32-interface",
    severity=NOTE,
    confidence=DOCUMENTED,
    why="pictures are scaled in float32 where the model begins and ends, and that runs on the CPU or the GPU.",
    fix="nothing to do: Core ML converts pictures there in any case.",
    source="coreml-typed",
)
RANK = Rule(
    id="ane-rank",
    severity=ERROR,
    confidence=DOCUMENTED,
    why="Core ML supports no tensor with more than five axes.",
    fix="fold axes together before the operation and unfold them after it.",
    source="coreml-rank",
)
GATHER = Rule(
    id="ane-known-bad",
    severity=WARNING,
    confidence=FOLKLORE,
    why="gathers, recurrent layers and dilated convolutions are reported not to run on the Neural Engine.",
    fix="replace them by slices and plain convolutions (a dilated kernel by a larger or a second plain one).",
    source="ane-layers",
)
LAYOUT = Rule(
    id="ane-layout",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="the layout that suits the Neural Engine is 4 axes with channels first, (batch, channels, 1, length).",
    fix="write linear layers as 1x1 convolutions and keep 4 axes throughout.",
    source="ane-transformers",
)
ROWS = Rule(
    id="ane-rows",
    severity=WARNING,
    confidence=FOLKLORE,
    why="the last axis of a buffer is said to be padded to 64 bytes: an axis of 1 costs 32 times its size in float16.",
    fix="put a long axis last.",
    source="ane-layout-quoted",
)
LARGE = Rule(
    id="ane-size",
    severity=WARNING,
    confidence=FOLKLORE,
    why="axes longer than 16384 are said not to fit the Neural Engine.",
    fix="use smaller tiles.",
    source="ane-sizes",
)
INT8 = Rule(
    id="ane-int8-activations",
    severity=NOTE,
    confidence=DOCUMENTED,
    why="int8 activations gain on A17 Pro, M4 and later; elsewhere they are unpacked at run time and can slow the CPU "
    "and the GPU down.",
    fix="ship fp16 for older devices, w8a8 for those.",
    source="coreml-quantization",
)
RANGE = Rule(
    id="ane-range-shape",
    severity=WARNING,
    confidence=DOCUMENTED,
    why="with a range of sizes only the default size runs on the Neural Engine.",
    fix="export fixed tiles, or enumerated shapes, which all may run there.",
    source="coreml-flexible",
)

_RUNS = (
    *("conv", "conv_transpose", "linear", "matmul", "einsum", "relu", "relu6", "leaky_relu", "prelu", "sigmoid"),
    *("sigmoid_hard", "silu", "tanh", "gelu", "softmax", "clip", "add", "sub", "mul", "real_div", "maximum", "minimum"),
    *("abs", "sqrt", "rsqrt", "square", "pow", "exp", "floor", "inverse", "reduce_mean", "reduce_sum", "reduce_max"),
    *("avg_pool", "max_pool", "concat", "split", "slice_by_index", "slice_by_size", "reshape", "transpose", "pad"),
    *("pixel_shuffle", "depth_to_space", "space_to_depth", "upsample_bilinear", "upsample_nearest_neighbor"),
    *("expand_dims", "squeeze", "instance_norm", "layer_norm", "batch_norm", "quantize", "dequantize", "cast"),
)
_REPORTED_BAD = ("gather", "gather_along_axis", "gather_nd", "lstm", "gru", "rnn")


def _float32(op: Op) -> str | None:
    return "typed float32" if op.output.dtype == "float32" and not op.options.get("interface") else None


def _interface_float32(op: Op) -> str | None:
    return "typed float32" if op.output.dtype == "float32" and op.options.get("interface") else None


def _axes(op: Op) -> str | None:
    return f"{op.output.rank} axes" if op.output.rank != 4 and op.macs else None


def _rows(op: Op) -> str | None:
    if op.output.rank < 3:
        return None
    row = op.output.shape[-1] * _BYTES.get(op.output.dtype, 2)
    return f"rows of {row} bytes" if 0 < row < _ROW_BYTES else None


def _large(op: Op) -> str | None:
    side = max(op.output.shape, default=0)
    return f"an axis of {side}" if side > _LARGEST_SIDE else None


_DILATED = needs(GATHER, checks.not_dilated)
TABLE: dict[str, tuple[Requirement, ...]] = {
    **dict.fromkeys(_RUNS, ()),
    **dict.fromkeys(("conv", "conv_transpose"), _DILATED),
    **dict.fromkeys(_REPORTED_BAD, needs(GATHER, checks.no_support("reported not to run there"))),
}


def _int8(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    ops = tuple(op for op in graph.ops if op.role == roles.QUANTIZE)
    return (whole_model(INT8, accelerator, f"{len(ops)} quantized activations", ops),) if ops else ()


def _ranges(graph: Graph, accelerator: str) -> tuple[Finding, ...]:
    names = [name for name, spelled in graph.flexible.items() if spelled == "range"]
    return (whole_model(RANGE, accelerator, f"input {', '.join(names)} has a range of sizes"),) if names else ()


NEURAL_ENGINE = Accelerator(
    name=NAME,
    title="Apple Neural Engine",
    formats=("coreml",),
    table=TABLE,
    everywhere=(
        *needs(RANK, checks.rank_at_most(5)),
        *needs(FLOAT32, _float32),
        *needs(INTERFACE, _interface_float32),
    ),
    unsupported=UNKNOWN,
    advice=dict.fromkeys(_RUNS, needs(LAYOUT, _axes) + needs(ROWS, _rows) + needs(LARGE, _large)),
    graph_checks=(float_islands, transposes, _int8, _ranges),
    outside=(INTERFACE.id,),
    doubtful=(UNKNOWN.id, GATHER.id, LARGE.id),
    caveat="Core ML decides when it loads the package; only a Mac or an iPhone can say what it chose",
)
