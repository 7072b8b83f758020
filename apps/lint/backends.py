"""The backends that lint asks: XNNPACK by its runtimes, LiteRT's GPU accelerator on a software Vulkan, and Hexagon's
compiler."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from apps.lint.general import COMMON_CHECKS, tap_advice
from apps.lint.graph import Graph
from apps.lint.placement import AskedBackend, Outside, Placement
from apps.lint.rules import OBSERVED, WARNING, Rule
from converters.artifact import Artifact, Delegation

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


def _ask_hexagon(artifact: Artifact, graph: Graph) -> Placement:
    delegation = artifact.meta.delegation if artifact.meta.target == "qnn" else _compiled_for_hexagon(artifact)
    return Placement(
        ops_total=len(graph.ops),
        ops_taken=len(graph.ops) - sum(delegation.ops_outside.values()),
        outside=tuple(Outside(kind=kind, count=count, reason="") for kind, count in delegation.ops_outside.items()),
        partitions=delegation.delegates,
    )


def _compiled_for_hexagon(artifact: Artifact) -> Delegation:
    from converters.ahead_of_time import compile_ahead
    from converters.qnn.socs import DEFAULT_SOC
    from converters.qnn.toolchain import compiler_libraries

    with tempfile.TemporaryDirectory(prefix="edge-sr-lint-") as folder, compiler_libraries() as libraries:
        made = Path(folder) / "compiled.tflite"
        return compile_ahead(artifact.main_path, made, vendor="qualcomm", soc=DEFAULT_SOC, libraries=libraries)


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
HEXAGON = AskedBackend(
    name="hexagon",
    title="NPU (Qualcomm Hexagon)",
    formats=("tflite", "qnn"),
    ask=_ask_hexagon,
    advice={},
    caveat="Qualcomm's compiler was asked, for Snapdragon 8 Elite where the artifact is not compiled already",
)
BACKENDS = (XNNPACK, GPU, HEXAGON)
