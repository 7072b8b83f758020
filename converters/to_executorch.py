"""Lower a network to ExecuTorch: one ``.pte`` program whose arithmetic XNNPACK runs.

The float network or the QDQ graph is exported, partitioned and serialised. Input and output are float32 NCHW in [0, 1]
in every scheme: XNNPACK's own kernels quantize and dequantize at the two ends, so that no operator stays outside of the
delegate, and every phone binding can fill a float tensor.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from converters.artifact import Delegation, IoVariant, TensorSpec
from converters.graphs import file_canonical_sha256
from converters.lowering import Lowered, LoweringJob
from edge_sr.errors import ConversionError, EdgeSRError, MissingToolError
from edge_sr.sizes import format_size
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import get_scheme

MAIN_FILE = "model.pte"
# Networks made for real time: an operator outside of the delegate would be a mistake, not a price.
WHOLE_MODELS = ("idsa_net_mobile",)
# Bookkeeping that get_delegation_info counts beside the operators: taking the delegate's result out of its tuple.
_NOT_OPERATORS = ("getitem",)


def lower(job: LoweringJob) -> Lowered:
    """Write ``model.pte`` into ``job.work_dir``.

    Returns:
        The program's I/O and what XNNPACK took of it; operators left to the portable kernels are counted by name.
    Raises:
        MissingToolError: executorch is not installed.
        ConversionError: the network does not fit the scheme, a tool refused it, or one of :data:`WHOLE_MODELS` did
            not become a single delegate.
    """
    tools = _import_tools()
    module = _graph_to_lower(job)
    try:
        with _third_party_noise_off():
            program, delegation = _lower_to_program(module, job.input_shape, tools)
    except EdgeSRError:
        raise
    # Exporter, partitioner and serialiser raise whatever they please, AssertionError and bare Exception included.
    except Exception as error:
        raise ConversionError(f"expected ExecuTorch to lower {_what(job)}, got {_root_cause(error)}") from error
    if job.model in WHOLE_MODELS and (delegation.delegates != 1 or delegation.ops_outside):
        raise ConversionError(
            f"expected one XNNPACK delegate with nothing outside for {_what(job)}, got {delegation.delegates} and "
            f"{delegation.ops_outside or 'nothing'} outside; spell these operators as XNNPACK knows them"
        )
    (Path(job.work_dir) / MAIN_FILE).write_bytes(program)
    return Lowered(
        main_file=MAIN_FILE,
        files=(MAIN_FILE,),
        io={MAIN_FILE: _describe_io(job)},
        delegation=delegation,
        tool_versions={"executorch": metadata.version("executorch")},
        canonical_sha256=file_canonical_sha256(Path(job.work_dir) / MAIN_FILE, "executorch"),
    )


def _graph_to_lower(job: LoweringJob) -> nn.Module:
    """The float network as it is, or the quantized one as QDQ with int8 weights."""
    if isinstance(job.network, QuantizedNetwork):
        # A float weight with quantize -> dequantize behind it stays float in the file (executorch 1.4.1).
        return to_qdq(job.network, weights="int8", duplicate_dequantize=True)
    if get_scheme(job.scheme).quantized:
        raise ConversionError(
            f"expected a QuantizedNetwork for scheme {job.scheme}, got {type(job.network).__name__}; quantize it first"
        )
    return job.network.eval()


def _lower_to_program(module: nn.Module, shape: tuple[int, ...], tools: _Tools) -> tuple[bytes, Delegation]:
    # The weights must stay contiguous: XNNPACK's layout pass refuses channels_last ones (executorch 1.4.1).
    example = torch.zeros(shape, dtype=torch.float32)
    with torch.no_grad():
        exported = torch.export.export(module, (example,))
        edge = tools.lower(exported, partitioner=[tools.partitioner()])
        info = tools.delegation_info(edge.exported_program().graph_module)
        program = bytes(edge.to_executorch().buffer)
    outside = {
        name: int(counts.non_delegated)
        for name, counts in sorted(info.delegation_by_operator.items())
        if counts.non_delegated and name not in _NOT_OPERATORS
    }
    return program, Delegation(delegates=int(info.num_delegated_subgraphs), ops_outside=outside)


def _describe_io(job: LoweringJob) -> IoVariant:
    height, width = job.tile
    return IoVariant(
        input=TensorSpec(
            name="input", dtype="float32", layout="NCHW", shape=(1, 3, height, width), value_range=(0.0, 1.0)
        ),
        output=TensorSpec(
            name="output",
            dtype="float32",
            layout="NCHW",
            shape=(1, 3, job.scale * height, job.scale * width),
            value_range=(0.0, 1.0),
        ),
    )


class _Tools:
    """The three names of ExecuTorch that lowering needs."""

    def __init__(self) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        self.partitioner: Any = XnnpackPartitioner
        self.delegation_info: Any = get_delegation_info
        self.lower: Any = to_edge_transform_and_lower


def _import_tools() -> _Tools:
    try:
        with _third_party_noise_off():
            return _Tools()
    except ImportError as error:
        raise MissingToolError(
            f"exporting for executorch needs the package executorch, got {error}; pip install executorch"
        ) from error


@contextmanager
def _third_party_noise_off() -> Iterator[None]:
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


def _what(job: LoweringJob) -> str:
    return f"{job.model} x{job.scale} {job.scheme} at {format_size(job.tile)}"


def _root_cause(error: BaseException) -> str:
    """One line for the innermost error: the pass managers wrap it in several of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
