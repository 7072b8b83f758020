"""The backends that lint asks: XNNPACK by its runtimes, and LiteRT's GPU accelerator on a software Vulkan."""

from __future__ import annotations

from collections import Counter

from apps.lint.general import COMMON_CHECKS, tap_advice
from apps.lint.graph import Graph
from apps.lint.placement import AskedBackend, Outside, Placement
from apps.lint.rules import OBSERVED, WARNING, Rule
from converters.artifact import Artifact

SLOW_TAPS = Rule(
    id="xnnpack-depthwise-taps",
    severity=WARNING,
    confidence=OBSERVED,
    why="XNNPACK's fast depthwise kernels end at 25 taps: a 7x7 took 8 ms (int8: 46 ms) where a 5x5 took 0.2 (0.4).",
    fix="write it as an exact sum of depthwise pieces of at most 25 taps, or use 5x5 or 3x3.",
    source="xnnpack-timed",
)


def _ask_xnnpack(artifact: Artifact, graph: Graph) -> Placement:
    if artifact.meta.target == "executorch":  # the program itself says it: this was decided at export
        kinds, partitions = Counter(op.kind for op in graph.ops if not op.settled), graph.delegates
    else:
        from converters.inspect_tflite import delegation_of

        delegation = delegation_of(artifact.main_path)
        kinds, partitions = Counter(delegation.ops_outside), delegation.delegates
    return Placement(
        ops_total=len(graph.ops),
        ops_taken=len(graph.ops) - kinds.total(),
        outside=tuple(Outside(kind=kind, count=count, reason="") for kind, count in kinds.items()),
        partitions=partitions,
    )


def _ask_gpu(artifact: Artifact, graph: Graph) -> Placement:
    from converters import webgpu

    answer = webgpu.ask(artifact.main_path)
    outside = tuple(Outside(kind=entry.kind, count=entry.count, reason=entry.reason) for entry in answer.refusals)
    left = answer.left_out or sum(entry.count for entry in outside)
    return Placement(
        ops_total=len(graph.ops),
        ops_taken=len(graph.ops) - left,
        outside=outside,
        partitions=1 if answer.whole else None,
    )


XNNPACK = AskedBackend(
    name="xnnpack",
    title="XNNPACK (CPU)",
    formats=("tflite", "executorch"),
    ask=_ask_xnnpack,
    advice={kind: tap_advice(SLOW_TAPS, 25) for kind in ("DEPTHWISE_CONV_2D", "XNNDepthwiseConv2d")},
    graph_checks=COMMON_CHECKS,
    caveat="LiteRT's interpreter was asked here; an ExecuTorch program holds what was decided at export",
)
GPU = AskedBackend(
    name="gpu-delegate",
    title="GPU (LiteRT)",
    formats=("tflite",),
    ask=_ask_gpu,
    advice={},
    caveat="LiteRT's GPU accelerator was asked on a software Vulkan; a phone's driver may refuse what this one takes",
)
BACKENDS = (XNNPACK, GPU)
