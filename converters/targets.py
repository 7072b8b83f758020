"""The runtimes an artifact can be made for, and which schemes each of them can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from converters.lowering import Lowered, LoweringJob
from converters.qnn.toolchain import INSTALL, LICENSE
from converters.vendors import VENDORS
from edge_sr.choices import expect_choice
from edge_sr.errors import UnsupportedScheme


@dataclass(frozen=True, kw_only=True)
class Target:
    """One runtime.

    Attributes:
        name: as typed on the command line.
        title: as printed in reports.
        schemes: what it can do; each name means the same arithmetic on every target.
        converter_packages: pip packages that export needs.
        runtime_packages: pip packages of which one is needed to run an artifact.
        module: where ``lower(job) -> Lowered`` lives; imported when it is called.
        compiles_for_socs: whether it makes a file for each system on a chip that is asked for.
        on_request: whether it must be named to be exported for: its tools are no part of the usual installation.
        emulated: whether what runs its artifacts here emulates the device, so that its time says nothing.
        install: the cure where a package is missing; empty for that of each package.
        licence: whose terms the user of its tools accepts, where they are not open source.
    """

    name: str
    title: str
    schemes: tuple[str, ...]
    converter_packages: tuple[str, ...]
    runtime_packages: tuple[str, ...]
    module: str
    compiles_for_socs: bool = False
    on_request: bool = False
    emulated: bool = False
    install: str = ""
    licence: str = ""

    def lower(self, job: LoweringJob) -> Lowered:
        """Lower ``job`` with this target's toolchain, which is imported now.

        Raises:
            UnsupportedScheme: this target cannot do the job's scheme.
            MissingToolError: the toolchain is not installed.
            ConversionError: the toolchain refused the network.
        """
        self.check_scheme(job.scheme)
        lower = cast(Callable[[LoweringJob], Lowered], import_module(self.module).lower)
        return lower(job)

    def check_scheme(self, scheme: str) -> None:
        """Raise UnsupportedScheme unless this target can do ``scheme``."""
        expect_choice(f"scheme for target {self.name}", scheme, self.schemes, error_class=UnsupportedScheme)


TARGETS: dict[str, Target] = {
    "tflite": Target(
        name="tflite",
        title="TFLite",
        schemes=("fp32", "w8a8", "w8a8_mixed"),
        converter_packages=("litert-torch", "ai-edge-litert"),
        runtime_packages=("ai-edge-litert", "tflite-runtime"),
        module="converters.to_tflite",
    ),
    "executorch": Target(
        name="executorch",
        title="ExecuTorch",
        schemes=("fp32", "w8a8", "w8a8_mixed"),
        converter_packages=("executorch",),
        runtime_packages=("executorch",),
        module="converters.to_executorch",
    ),
    "coreml": Target(
        name="coreml",
        title="Core ML",
        schemes=("fp32", "fp16", "w8a8", "w8a8_mixed"),
        converter_packages=("coremltools",),
        runtime_packages=("coremltools",),
        module="converters.to_coreml",
    ),
    "qnn": Target(
        name="qnn",
        title="Qualcomm NPU",
        schemes=("fp16", "w8a8", "w8a16"),
        converter_packages=("onnx", "onnxscript", "onnxruntime-qnn", "litert-torch", "ai-edge-litert"),
        runtime_packages=("onnxruntime-qnn",),
        module="converters.qnn.lower",
        compiles_for_socs=True,
        on_request=True,
        emulated=True,
        install=INSTALL,
        licence=LICENSE,
    ),
    "vgf": Target(
        name="vgf",
        title="ExecuTorch, Arm VGF",
        schemes=("fp32", "w8a8"),
        converter_packages=("executorch", "ai-ml-sdk-model-converter", "tosa-tools"),
        runtime_packages=("tosa-tools",),
        module="converters.to_vgf",
        on_request=True,
        emulated=True,
    ),
    **{
        vendor.name: Target(
            name=vendor.name,
            title=vendor.title,
            schemes=("fp32", "w8a8"),
            converter_packages=("litert-torch", "ai-edge-litert", vendor.sdk_package),
            runtime_packages=("ai-edge-litert", "tflite-runtime"),
            module="converters.npu",
            compiles_for_socs=True,
            on_request=True,
            licence="the vendor's",
        )
        for vendor in VENDORS.values()
    },
}
# Packages whose own pins contradict other toolchains', for parts of them that are not used here: pip must leave their
# dependencies alone (tosa-tools 2026.8.0 asks for numpy<2.2, flatbuffers==25.2.10 and ml-dtypes==0.5.3).
WITHOUT_DEPENDENCIES = {"tosa-tools": "2026.8.0"}
# As typed: "npu" stands for the target that --vendor names.
TYPED_TARGETS = (*(name for name in TARGETS if name not in VENDORS), "npu")
USUAL_TARGETS = tuple(target.name for target in TARGETS.values() if not target.on_request)
# Backend of ExecuTorch, as typed -> the target that lowers through it.
BACKENDS = {"xnnpack": "executorch", "vgf": "vgf"}


def get_target(name: str) -> Target:
    """The target called ``name``; ConfigError names those that exist."""
    expect_choice("target", name, TARGETS)
    return TARGETS[name]
