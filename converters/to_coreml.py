"""Lower a network to a Core ML ML program with pictures in and out.

The package takes an RGB picture of one tile and gives an RGB picture ``scale`` times as large. All schemes but ``fp32``
compute in 16-bit float where they compute in float, because the Neural Engine has nothing wider. Quantized packages
hold int8 weights (``constexpr`` operations) and quantize/dequantize pairs around the operations; a device with int8
arithmetic (A17 Pro, M4 and later) fuses them, others compute in float between them.

The deployment target is iOS 17 (macOS 14), the first with quantize and dequantize on activations. iOS 18 stores the
same int8 weights in another operation, which makes ``idsa_net_mobile`` x4 2% smaller: not enough to ask it of a user.
"""

from __future__ import annotations

import tempfile
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.artifact import Delegation, IoVariant, TensorSpec
from converters.coreml_package import write_package
from converters.coreml_toolchain import import_coremltools, quiet_conversion
from converters.graphs import file_canonical_sha256
from converters.inspect_coreml import CoreMLInspection, inspect_package, require_int8_convolutions
from converters.lowering import Lowered, LoweringJob
from edge_sr.errors import ConversionError, UnsupportedScheme
from edge_sr.sizes import short_size
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork
from quantization.schemes import get_scheme

MAIN_FILE = "model.mlpackage"
INPUT_NAME = "image"
OUTPUT_NAME = "upscaled"
DEPLOYMENT_TARGETS = ("iOS17", "iOS18")
SCHEMES = ("fp32", "fp16", "w8a8", "w8a8_mixed")
METADATA_PREFIX = "edge-sr."
DECIDED_ON_DEVICE = "decided on device: Core ML gives each operation to the CPU, GPU or Neural Engine when it loads"
# Below it float16 has fewer than 11 bits of precision, and a scale is rounded by more than 0.05%.
_SMALLEST_NORMAL_FLOAT16 = 2.0**-14
# What coremltools writes about itself; the date would make two equal exports differ.
_CONVERSION_DATE = "com.github.apple.coremltools.conversion_date"


class PictureNetwork(nn.Module):
    """A network whose result is whole numbers from 0 to 255.

    Core ML does not document whether it rounds or truncates when it stores floats in an 8-bit picture. Rounding in the
    graph, half upwards like :func:`edge_sr.runner.to_uint8`, leaves it no choice.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, 3, sH, sW), whole numbers in [0, 255]."""
        intensity = torch.clamp(self.network(x), 0.0, 1.0)
        return torch.floor(intensity * 255.0 + 0.5)


def lower(job: LoweringJob, *, deployment_target: str = "iOS17") -> Lowered:
    """Write ``model.mlpackage`` into ``job.work_dir``.

    Args:
        job: its network is float for ``fp32`` and ``fp16``, a ``QuantizedNetwork`` otherwise.
        deployment_target: oldest system that may load the package; one of :data:`DEPLOYMENT_TARGETS`.
    Raises:
        UnsupportedScheme: the scheme is not one of :data:`SCHEMES`.
        MissingToolError: coremltools is not installed.
        ConversionError: coremltools refused the network, or a convolution of a quantized scheme stayed in float.
    """
    if job.scheme not in SCHEMES:
        raise UnsupportedScheme(f"scheme for Core ML must be one of {', '.join(SCHEMES)}, got {job.scheme!r}")
    if deployment_target not in DEPLOYMENT_TARGETS:
        raise ConversionError(
            f"deployment target must be one of {', '.join(DEPLOYMENT_TARGETS)}, got {deployment_target!r}"
        )
    coremltools = import_coremltools()
    with tempfile.TemporaryDirectory(prefix="coremltools-", dir=job.work_dir) as scratch:
        model = _convert(coremltools, job, deployment_target, package_dir=Path(scratch) / MAIN_FILE)
        spec = model.get_spec()
        _describe(spec, job)
        write_package(job.work_dir / MAIN_FILE, spec=spec, weights_dir=Path(model.weights_dir))
    inspection = inspect_package(job.work_dir / MAIN_FILE)
    if get_scheme(job.scheme).quantized:
        require_int8_convolutions(inspection)
    return Lowered(
        main_file=MAIN_FILE,
        files=(MAIN_FILE,),
        io={MAIN_FILE: _io_variant(job)},
        delegation=Delegation(delegates=None, note=DECIDED_ON_DEVICE),
        tool_versions={"coremltools": coremltools.__version__, "torch": metadata.version("torch")},
        notes=_notes(inspection, deployment_target),
        canonical_sha256=file_canonical_sha256(job.work_dir / MAIN_FILE, "coreml"),
    )


def _convert(coremltools: Any, job: LoweringJob, deployment_target: str, *, package_dir: Path) -> Any:
    """The job's network as a ``coremltools.models.MLModel`` that was not loaded into Core ML."""
    height, width = job.tile
    precision = coremltools.precision.FLOAT32 if job.scheme == "fp32" else coremltools.precision.FLOAT16
    picture = coremltools.ImageType(
        name=INPUT_NAME, shape=(1, 3, height, width), color_layout=coremltools.colorlayout.RGB, scale=1.0 / 255.0
    )
    network = PictureNetwork(_exportable(job)).eval()
    with quiet_conversion(), torch.no_grad():
        try:
            program = torch.export.export(network, (torch.zeros(1, 3, height, width),)).run_decompositions({})
            return coremltools.convert(
                program,
                convert_to="mlprogram",
                inputs=[picture],
                outputs=[coremltools.ImageType(name=OUTPUT_NAME, color_layout=coremltools.colorlayout.RGB)],
                minimum_deployment_target=getattr(coremltools.target, deployment_target),
                compute_precision=precision,
                skip_model_load=True,
                package_dir=str(package_dir),
            )
        except Exception as error:
            # Its frames hold the whole model and a temporary folder, which would live as long as the error.
            traceback.clear_frames(error.__traceback__)
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConversionError(
                f"expected {job.model} x{job.scale} {job.scheme} to convert to Core ML, got {cause[:400]}; "
                "the network must be made of operations that coremltools knows"
            ) from error


def _exportable(job: LoweringJob) -> nn.Module:
    """The float network as it is; of a quantized one, the form that exports with quantize/dequantize operations."""
    if not get_scheme(job.scheme).quantized:
        return job.network
    # coremltools 9.0 reads dequantize_per_channel of an int8 buffer as a compressed constant and has no
    # quantized_decomposed.quantize_per_channel, so weights cannot come as float.
    if not isinstance(job.network, QuantizedNetwork):
        raise ConversionError(
            f"expected a QuantizedNetwork for {job.scheme}, got {type(job.network).__name__}: quantize it first"
        )
    return to_qdq(job.network, weights="int8", duplicate_dequantize=False)


def _describe(spec: Any, job: LoweringJob) -> None:
    """Fill in what Xcode and Finder show of a package, and what a program can read back."""
    (height, width), scale = job.tile, job.scale
    description = spec.description
    description.metadata.author = "Edge SR"
    description.metadata.license = job.weights_license
    description.metadata.versionString = f"{job.model} x{scale} {job.scheme}"
    description.metadata.shortDescription = (
        f"Super-resolution: enlarges one {width}x{height} tile of a picture {scale} times. "
        "Enlarge larger pictures tile by tile."
    )
    description.input[0].shortDescription = f"RGB picture, {width}x{height} pixels"
    description.output[0].shortDescription = f"RGB picture, {width * scale}x{height * scale} pixels"
    own = {
        "model": job.model,
        "scale": str(scale),
        "scheme": job.scheme,
        "tile": short_size(job.tile),
        "checkpoint_sha256": job.checkpoint_sha256,
        "weights_attribution": job.weights_attribution,
    }
    for key, value in own.items():
        if value:
            description.metadata.userDefined[METADATA_PREFIX + key] = value
    description.metadata.userDefined.pop(_CONVERSION_DATE, None)


def _io_variant(job: LoweringJob) -> IoVariant:
    height, width = job.tile
    sizes = {INPUT_NAME: (height, width), OUTPUT_NAME: (height * job.scale, width * job.scale)}
    specs = [
        TensorSpec(name=name, dtype="uint8", layout="image", shape=size, value_range=(0.0, 255.0))
        for name, size in sizes.items()
    ]
    return IoVariant(input=specs[0], output=specs[1])


def _notes(inspection: CoreMLInspection, deployment_target: str) -> tuple[str, ...]:
    system = deployment_target.replace("iOS", "iOS ")
    int8 = sum(convolution.is_int8 for convolution in inspection.convolutions)
    notes = [
        f"{system} and later; weights {inspection.weight_bytes} bytes, program {inspection.program_bytes} bytes",
        (
            f"{int8} of {len(inspection.convolutions)} convolutions int8; {inspection.quantize_ops} quantize, "
            f"{inspection.dequantize_ops} dequantize, {inspection.constexpr_ops} compressed weights"
        ),
    ]
    smallest = inspection.smallest_qscale
    if smallest is not None and smallest < _SMALLEST_NORMAL_FLOAT16:
        notes.append(f"smallest quantization scale {smallest:.3g} is coarse in 16-bit float")
    return tuple(notes)
