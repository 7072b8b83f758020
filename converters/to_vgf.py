"""Lower a network to ExecuTorch for Arm's neural accelerators: one ``.pte`` program whose arithmetic a VGF holds.

The Arm backend writes the network in TOSA, and Arm's model-converter compiles that to the VGF inside the program. The
TOSA stays beside it as ``model.tosa``: the reference model runs that, once it has been shown to compile to the very
bytes in the program. A quantized network takes and gives int8 (a pixel minus 128), so that no operator stays outside
of the delegate; a float one takes and gives float32 in [0, 1]. Layout is NCHW.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import fx, nn

from converters.artifact import IoVariant
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
from converters.vgf_toolchain import CURE, TOSA_FILE, compiler_known
from edge_sr.errors import ConversionError, MissingToolError
from edge_sr.quiet import quiet_native
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork

# What the file may ask of a device: arithmetic of whole numbers, of floats, or both.
INTEGER, FLOAT, BOTH = "TOSA-1.0+INT", "TOSA-1.0+FP", "TOSA-1.0+FP+INT"
_PACKAGES = ("executorch", "ai-ml-sdk-model-converter", "tosa-tools")
_QDQ = torch.ops.quantized_decomposed
_QUANTIZE = (_QDQ.quantize_per_tensor.default,)
_DEQUANTIZE = (_QDQ.dequantize_per_tensor.default, _QDQ.dequantize_per_channel.default)
# What the backend fuses into the operator before it, so that nothing is rounded in between.
_FUSED = (torch.ops.aten.relu.default,)


def lower(job: LoweringJob) -> Lowered:
    """Write ``model.pte`` and ``model.tosa`` into ``job.work_dir``.

    Returns:
        The program's I/O, and what the VGF delegate took of it.
    Raises:
        MissingToolError: a package of the toolchain is not installed.
        ConversionError: the network does not fit the scheme, a tool refused it, or it did not become a single delegate
            with nothing outside.
    """
    tools = _import_tools()
    check_quantized(job)
    with TemporaryDirectory(prefix="edge-sr-vgf-") as scratch:
        with lowering(what(job), by="ExecuTorch's Arm backend"), compiler_known(), torch.no_grad():
            exported, profile = _export(job, tools)
            specification = tools.specification(profile).dump_intermediate_artifacts_to(scratch)
            edge, delegation = tools.lower(exported, tools.partitioner(specification))
            check_whole(job, delegation, "VGF")
            _forget_folder(edge, scratch)
            program = bytes(edge.to_executorch().buffer)
        found = sorted(Path(scratch).glob("*.tosa"))
        if len(found) != 1 or delegation.ops_outside:
            raise ConversionError(
                f"expected one VGF delegate with nothing outside for {what(job)}, got {len(found)} and "
                f"{delegation.ops_outside or 'nothing'} outside; the reference model runs no program in pieces"
            )
        (job.work_dir / TOSA_FILE).write_bytes(found[0].read_bytes())
    (job.work_dir / MAIN_FILE).write_bytes(program)
    return Lowered(
        main_file=MAIN_FILE,
        files=(MAIN_FILE, TOSA_FILE),
        io={MAIN_FILE: _describe_io(job)},
        delegation=delegation,
        tool_versions={name: metadata.version(name) for name in _PACKAGES},
        notes=(f"the VGF inside asks for {profile}",),
        canonical_sha256=file_canonical_sha256(job.work_dir / MAIN_FILE, "vgf"),
    )


def _export(job: LoweringJob, tools: _Tools) -> tuple[Any, str]:
    """The exported network, quantized operators marked, and what it asks of a device."""
    if not isinstance(job.network, QuantizedNetwork):
        example = torch.zeros(job.input_shape, dtype=torch.float32)
        return torch.export.export(job.network.eval(), (example,)), FLOAT
    module = to_qdq(
        job.network,
        weights="int8",
        duplicate_dequantize=True,
        int32_biases=True,
        integer_ends=True,
        round_before_clips=True,
    )
    _store_buffers_as_parameters(module)
    exported = torch.export.export(module, (torch.zeros(job.input_shape, dtype=torch.int8),))
    nodes = [node for node in exported.graph.nodes if node.op == "call_function"]
    integer = quantized_operators(exported.graph)
    for node in integer:
        node.meta.setdefault("custom", {})[tools.mark.CUSTOM_META_KEY] = tools.mark(quantized=True)
    computing = [node for node in nodes if node.target not in (*_QUANTIZE, *_DEQUANTIZE)]
    return exported, INTEGER if len(integer) == len(computing) else BOTH


def quantized_operators(graph: fx.Graph) -> list[fx.Node]:
    """Operators of an exported QDQ graph that compute in integers, in its order.

    Those whose inputs are all dequantized and whose result is quantized, at once or behind a ReLU that is fused into
    them. The backend takes every other one, and the quantize and dequantize around it, for float arithmetic.
    """
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op != "call_function" or node.target in (*_QUANTIZE, *_DEQUANTIZE):
            continue
        fused = node.target in _FUSED and node.all_input_nodes[0] in found
        if (fused or all(value.target in _DEQUANTIZE for value in node.all_input_nodes)) and _is_quantized(node):
            found[node] = None
    return list(found)


def _is_quantized(node: fx.Node) -> bool:
    readers = list(node.users)
    if len(readers) == 1 and readers[0].target in _FUSED:
        return all(reader.target in _QUANTIZE for reader in readers[0].users)
    return all(reader.target in _QUANTIZE for reader in readers)


def _store_buffers_as_parameters(module: nn.Module) -> None:
    """The backend folds constants into parameters and refuses to make them of buffers (executorch 1.4.1)."""
    for owner in list(module.modules()):
        for name, value in list(owner.named_buffers(recurse=False)):
            delattr(owner, name)
            setattr(owner, name, nn.Parameter(value, requires_grad=False))


def _forget_folder(edge: Any, scratch: str) -> None:
    """Take the folder of intermediate files out of the program: it says nothing to a device, and is new each time."""
    module = edge.exported_program().graph_module
    for name in [name for name, _ in module.named_children() if name.startswith("lowered_module")]:
        specs = getattr(module, name).compile_specs
        specs[:] = [spec for spec in specs if scratch.encode() not in bytes(spec.value)]


def _describe_io(job: LoweringJob) -> IoVariant:
    planes = float_planes(job)
    if not isinstance(job.network, QuantizedNetwork):
        return planes
    stored: dict[str, Any] = {"dtype": "int8", "value_range": (-128, 127), "qscale": 1 / 255, "zero_point": -128}
    return IoVariant(input=replace(planes.input, **stored), output=replace(planes.output, **stored))


class _Tools(ExecuTorchTools):
    """ExecuTorch with the Arm backend's partitioner for VGF."""

    def __init__(self) -> None:
        super().__init__()
        from executorch.backends.arm.common.annotation_meta import ArmAnnotationInfo
        from executorch.backends.arm.vgf import VgfCompileSpec, VgfPartitioner

        self.mark: Any = ArmAnnotationInfo
        self.specification: Any = VgfCompileSpec
        self.partitioner: Any = VgfPartitioner


def _import_tools() -> _Tools:
    try:
        with toolchain_noise_off(), quiet_native():  # torchao says at import which of its libraries do not fit
            return _Tools()
    except ImportError as error:
        raise MissingToolError(
            f"exporting for vgf needs ExecuTorch and Arm's TOSA tools, got {error}; {CURE}"
        ) from error
