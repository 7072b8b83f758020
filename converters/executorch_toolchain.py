"""What the lowerings through ExecuTorch share: the toolchain without its noise, its errors in one line, what it took.

ExecuTorch's exporter is one; each of its backends is a partitioner, and a target of its own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from converters.artifact import Delegation, IoVariant, TensorSpec
from converters.lowering import LoweringJob
from edge_sr.errors import ConversionError, EdgeSRError
from edge_sr.sizes import format_size
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import get_scheme

MAIN_FILE = "model.pte"
# Networks made for real time: an operator outside of the delegate would be a mistake, not a price.
WHOLE_MODELS = ("idsa_net_mobile",)
# Bookkeeping that get_delegation_info counts beside the operators: taking the delegate's result out of its tuple.
_NOT_OPERATORS = ("getitem",)


class ExecuTorchTools:
    """The names of ExecuTorch that every lowering needs."""

    def __init__(self) -> None:
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        self._delegation_info: Any = get_delegation_info
        self._lower: Any = to_edge_transform_and_lower

    def lower(self, exported: Any, partitioner: Any) -> tuple[Any, Delegation]:
        """(edge program, what the partitioner's backend took of it) of a ``torch.export`` program."""
        edge = self._lower(exported, partitioner=[partitioner])
        info = self._delegation_info(edge.exported_program().graph_module)
        outside = {
            name: int(counts.non_delegated)
            for name, counts in sorted(info.delegation_by_operator.items())
            if counts.non_delegated and name not in _NOT_OPERATORS
        }
        return edge, Delegation(delegates=int(info.num_delegated_subgraphs), ops_outside=outside)


@contextmanager
def lowering(subject: str, by: str) -> Iterator[None]:
    """Lower inside the block, quietly; whatever the toolchain raises leaves as ConversionError about ``subject``."""
    try:
        with toolchain_noise_off():
            yield
    except EdgeSRError:
        raise
    # Exporter, partitioner and serialiser raise whatever they please, AssertionError and bare Exception included.
    except Exception as error:
        raise ConversionError(f"expected {by} to lower {subject}, got {_root_cause(error)}") from error


def check_quantized(job: LoweringJob) -> None:
    """Raise ConversionError where the scheme is a quantized one and the network is not."""
    if get_scheme(job.scheme).quantized and not isinstance(job.network, QuantizedNetwork):
        raise ConversionError(
            f"expected a QuantizedNetwork for scheme {job.scheme}, got {type(job.network).__name__}; quantize it first"
        )


def check_whole(job: LoweringJob, delegation: Delegation, backend: str) -> None:
    """Raise ConversionError where one of :data:`WHOLE_MODELS` did not become a single delegate."""
    if job.model in WHOLE_MODELS and (delegation.delegates != 1 or delegation.ops_outside):
        raise ConversionError(
            f"expected one {backend} delegate with nothing outside for {what(job)}, got {delegation.delegates} and "
            f"{delegation.ops_outside or 'nothing'} outside; spell these operators as {backend} knows them"
        )


def float_planes(job: LoweringJob) -> IoVariant:
    """Input and output as float32 planes, black 0 and white 1."""
    height, width = job.tile
    spec = TensorSpec(name="input", dtype="float32", layout="NCHW", shape=(1, 3, height, width), value_range=(0.0, 1.0))
    return IoVariant(
        input=spec, output=replace(spec, name="output", shape=(1, 3, job.scale * height, job.scale * width))
    )


@contextmanager
def toolchain_noise_off() -> Iterator[None]:
    """Keep the toolchain's deprecations and its logging set-up out of this process.

    The partitioner calls ``logging.basicConfig`` when it is imported, and the passes warn of torch's own internals
    (executorch 1.4.1 on torch 2.13).
    """
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def what(job: LoweringJob) -> str:
    """The job in words, for errors."""
    return f"{job.model} x{job.scale} {job.scheme} at {format_size(job.tile)}"


def _root_cause(error: BaseException) -> str:
    """One line for the innermost error: the pass managers wrap it in several of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
