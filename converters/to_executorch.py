"""Lower a network to ExecuTorch: one ``.pte`` program whose arithmetic XNNPACK runs.

The float network or the QDQ graph is exported, partitioned and serialised. Input and output are float32 NCHW in [0, 1]
in every scheme: XNNPACK's own kernels quantize and dequantize at the two ends, so that no operator stays outside of the
delegate, and every phone binding can fill a float tensor.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from converters.artifact import Delegation
from converters.executorch_toolchain import (
    MAIN_FILE,
    ExecuTorchTools,
    check_quantized,
    check_whole,
    float_planes,
    lowering,
    toolchain_noise_off,
    what,
)
from converters.graphs import file_canonical_sha256
from converters.lowering import Lowered, LoweringJob
from edge_sr.errors import MissingToolError
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork


def lower(job: LoweringJob) -> Lowered:
    """Write ``model.pte`` into ``job.work_dir``.

    Returns:
        The program's I/O and what XNNPACK took of it; operators left to the portable kernels are counted by name.
    Raises:
        MissingToolError: executorch is not installed.
        ConversionError: the network does not fit the scheme, a tool refused it, or one of
            :data:`converters.executorch_toolchain.WHOLE_MODELS` did not become a single delegate.
    """
    check_quantized(job)
    program, delegation = lower_network(job.network, job.input_shape, what(job))
    check_whole(job, delegation, "XNNPACK")
    (Path(job.work_dir) / MAIN_FILE).write_bytes(program)
    return Lowered(
        main_file=MAIN_FILE,
        files=(MAIN_FILE,),
        io={MAIN_FILE: float_planes(job)},
        delegation=delegation,
        tool_versions={"executorch": metadata.version("executorch")},
        canonical_sha256=file_canonical_sha256(Path(job.work_dir) / MAIN_FILE, "executorch"),
    )


def lower_network(network: nn.Module, shape: tuple[int, ...], subject: str) -> tuple[bytes, Delegation]:
    """The program of a network that takes float32 of ``shape``, and what XNNPACK took of it.

    Args:
        network: a float network, or a quantized one, which becomes QDQ with int8 weights.
        shape: of the input, NCHW.
        subject: what it is, for errors.
    Raises:
        MissingToolError: executorch is not installed.
        ConversionError: a tool refused it.
    """
    tools = _import_tools()
    module = network.eval()
    if isinstance(network, QuantizedNetwork):
        # A float weight with quantize -> dequantize behind it stays float in the file (executorch 1.4.1).
        module = to_qdq(network, weights="int8", duplicate_dequantize=True)
    # The weights must stay contiguous: XNNPACK's layout pass refuses channels_last ones (executorch 1.4.1).
    example = torch.zeros(shape, dtype=torch.float32)
    with lowering(subject, by="ExecuTorch"), torch.no_grad():
        edge, delegation = tools.lower(torch.export.export(module, (example,)), tools.partitioner())
        return bytes(edge.to_executorch().buffer), delegation


class _Tools(ExecuTorchTools):
    """ExecuTorch with XNNPACK's partitioner."""

    def __init__(self) -> None:
        super().__init__()
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        self.partitioner: Any = XnnpackPartitioner


def _import_tools() -> _Tools:
    try:
        with toolchain_noise_off():
            return _Tools()
    except ImportError as error:
        raise MissingToolError(
            f"exporting for executorch needs the package executorch, got {error}; pip install executorch"
        ) from error
