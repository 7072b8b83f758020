"""LiteRT's GPU accelerator on a software Vulkan: where one is, and what the accelerator takes of a ``.tflite`` file.

ML Drift, which LiteRT's GPU accelerator is on phones, checks and rewrites a graph the same way here and generates
kernels for WebGPU in place of OpenCL. Its answer to "is every operator taken" is therefore asked, not forecast; its
speed here says nothing. Everything that loads it lives in a child process: it reads where Vulkan is when a process
starts, logs from native code, and crashes on damaged files (seen with ai-edge-litert 2.3.0).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from converters.vulkan import lavapipe, software_vulkan, swiftshader
from edge_sr.errors import MissingToolError, RunnerError

TIMEOUT_S = 600.0
_REFUSED = re.compile(r"^([A-Z][A-Z0-9_]*): (\S.*)$")
_SHARED = re.compile(r"^(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Operators of one kind that the accelerator leaves to the CPU: ``count`` of them, and its own words why."""

    kind: str
    reason: str
    count: int


@dataclass(frozen=True, kw_only=True)
class GpuAnswer:
    """What the accelerator said of a file.

    Attributes:
        whole: whether it takes every operator.
        left_out: operators that run on the CPU: those it refuses, and those that its one partition does not reach.
        refusals: the refused ones, as its log names them.
    """

    whole: bool
    left_out: int
    refusals: tuple[Refusal, ...]

    @property
    def line(self) -> str:
        """Why the file is not taken whole, on one line."""
        named = "; ".join(f"{refusal.count} {refusal.kind}: {refusal.reason}" for refusal in self.refusals)
        return named or "its log names no operator"


def swiftshader_environment() -> dict[str, str]:
    """Variables of a process whose Vulkan is Chromium's SwiftShader, which computes in float32.

    Raises:
        MissingToolError: ai-edge-litert or Chromium is not installed.
    """
    return _environment(swiftshader)


def lavapipe_environment() -> dict[str, str]:
    """Variables of a process whose Vulkan is mesa's lavapipe, which computes in float16 as phones' GPUs do.

    Raises:
        MissingToolError: ai-edge-litert or lavapipe is not installed.
    """
    return _environment(lavapipe)


def _environment(driver: Callable[[], Path]) -> dict[str, str]:
    if find_spec("ai_edge_litert") is None:
        raise MissingToolError("the GPU accelerator needs ai-edge-litert; pip install ai-edge-litert")
    try:
        return software_vulkan(driver())
    except MissingToolError as error:
        raise MissingToolError(f"for the GPU accelerator {error}") from None


def compile_here(path: Path) -> tuple[Any | None, GpuAnswer]:
    """Give a file to the accelerator in this process; only ever in a child with one of the environments above.

    Returns:
        the ``CompiledModel``, None where an operator is left out, and what the accelerator said.
    Raises:
        MissingToolError: ai-edge-litert has no accelerator, or it finds no Vulkan.
        RunnerError: the file is not taken for another reason.
    """
    try:
        from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator
    except ImportError:
        raise MissingToolError("the GPU accelerator needs ai-edge-litert 2; pip install ai-edge-litert") from None
    compiled, error = None, ""
    with _logged() as log:
        try:
            # With the CPU allowed beside it, a model that is cut in two calls itself fully accelerated (2.3.0).
            compiled = CompiledModel.from_file(str(path), hardware_accel=HardwareAccelerator.GPU)
        except (RuntimeError, ValueError) as failure:
            error = " ".join(str(failure).split())[:300]
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    answer = read_log(lines)
    if compiled is not None and compiled.is_fully_accelerated():
        return compiled, GpuAnswer(whole=True, left_out=0, refusals=())
    if _says("Create WebGPU environment", lines) and not _says("Selected adapter", lines):
        raise MissingToolError("the GPU accelerator found no Vulkan that it takes; scripts/install_browser.sh")
    if not answer.left_out and not answer.refusals and compiled is None and "not accelerated" not in error:
        raise RunnerError(f"expected a file that the GPU accelerator takes, got {path.name}: {error}")
    return None, answer


def _says(words: str, lines: list[str]) -> bool:
    return any(words in line for line in lines)


def ask_here(path: str) -> dict[str, Any]:
    """:func:`compile_here` as JSON, for a child process to call: ``whole``, ``left_out``, ``refusals``."""
    _, answer = compile_here(Path(path))
    return {
        "whole": answer.whole,
        "left_out": answer.left_out,
        "refusals": [vars(refusal) for refusal in answer.refusals],
    }


def ask(path: Path) -> GpuAnswer:
    """Ask the accelerator about a file, in a child process on SwiftShader.

    Raises:
        MissingToolError: a part of it is not installed, named with its cure.
        RunnerError: the file is damaged, or the accelerator crashed or took too long.
    """
    from converters.isolation import run_in_child

    said = run_in_child(
        "converters.webgpu:ask_here", {"path": str(path)}, timeout_s=TIMEOUT_S, environment=swiftshader_environment()
    )
    refusals = tuple(Refusal(**refusal) for refusal in said["refusals"])
    return GpuAnswer(whole=said["whole"], left_out=said["left_out"], refusals=refusals)


def read_log(lines: list[str]) -> GpuAnswer:
    """What the accelerator's log says of operators that it leaves out: "KIND: reason. name of the tensor" each."""
    counts: Counter[tuple[str, str]] = Counter()
    left_out = 0
    for line in lines:
        if (shared := _SHARED.match(line)) is not None:
            left_out = int(shared[2])
        elif (refused := _REFUSED.match(line)) is not None and refused[1] not in ("INFO", "WARNING", "ERROR"):
            reason, stop, _ = refused[2].partition(". ")
            counts[refused[1], reason if stop else refused[2].rstrip(".")] += 1
    refusals = tuple(Refusal(kind=kind, reason=reason, count=count) for (kind, reason), count in counts.items())
    return GpuAnswer(whole=not left_out and not refusals, left_out=left_out, refusals=refusals)


@contextmanager
def _logged() -> Iterator[Any]:
    """Everything that native code writes to this process's stderr inside the block goes to the file that is given."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(saved, 2)
            os.close(saved)
