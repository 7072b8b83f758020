"""Lower a network for Qualcomm's NPU: ``model.onnx``, and one compiled file for each system on a chip asked for.

``model.onnx`` is the QDQ graph that the other targets take too; ONNX Runtime's QNN provider compiles it on the phone,
and any ONNX runtime reads it. In int8 and fp16 the compiled files are LiteRT's, made of the TFLite artifact's file;
LiteRT has no uint16, so in w8a16 they are ONNX files around the same kind of binary.
"""

from __future__ import annotations

from dataclasses import replace

from converters import to_tflite
from converters.ahead_of_time import compile_ahead
from converters.artifact_meta import Compiled, Delegation, IoVariant, TensorSpec
from converters.graphs import file_canonical_sha256
from converters.isolation import run_in_child
from converters.lowering import Lowered, LoweringJob
from converters.qnn.onnx_file import INPUT, OUTPUT, write_onnx
from converters.qnn.socs import Soc, socs_for
from converters.qnn.toolchain import compiler_libraries, emulator_environment, tool_versions
from edge_sr.atomic import scratch_folder

MAIN_FILE = "model.onnx"
COMPILE_TIMEOUT_S = 1200.0
# How pictures are stored: dtype, black and white, scale and zero point.
_STORED = {
    "w8a8": ("int8", (-128.0, 127.0), 1.0 / 255.0, -128),
    "w8a16": ("uint16", (0.0, 65535.0), 1.0 / 65535.0, 0),
    "fp16": ("float32", (0.0, 1.0), None, None),
}


def lower(job: LoweringJob) -> Lowered:
    """Write ``model.onnx`` and ``model_SOC.tflite`` (w8a16: ``model_SOC.onnx``) for each of ``job.socs``.

    Raises:
        ConfigError: there is no such SoC, or its NPU cannot do the scheme.
        MissingToolError: a package is not installed.
        ConversionError: a tool refused the network.
    """
    socs = socs_for(job.socs, job.scheme)
    versions = tool_versions()
    main = job.work_dir / MAIN_FILE
    write_onnx(job, main)
    compile_all = _compile_onnx if job.scheme == "w8a16" else _compile_tflite
    compiled = compile_all(job, socs)
    io = {name: _describe(job) for name in (MAIN_FILE, *compiled)}
    return Lowered(
        main_file=MAIN_FILE,
        files=tuple(io),
        io=io,
        delegation=next(iter(compiled.values())).delegation,
        compiled=compiled,
        tool_versions=versions,
        notes=tuple(_note(name, soc) for name, soc in zip(compiled, socs, strict=True)),
        canonical_sha256=file_canonical_sha256(main, "qnn"),
    )


def _note(name: str, soc: Soc) -> str:
    return f"{name} is for {soc.title} (Hexagon {soc.architecture})"


def _compile_tflite(job: LoweringJob, socs: list[Soc]) -> dict[str, Compiled]:
    compiled = {}
    with scratch_folder(job.work_dir) as folder, compiler_libraries() as libraries:
        # fp32 is how the compiler wants a network that is to run in fp16.
        made = to_tflite.lower(replace(job, scheme="fp32" if job.scheme == "fp16" else job.scheme, work_dir=folder))
        for soc in socs:
            path = job.work_dir / f"model_{soc.name}.tflite"
            delegation = compile_ahead(
                folder / made.main_file, path, vendor="qualcomm", soc=soc.name, libraries=libraries
            )
            compiled[path.name] = Compiled(soc=soc.name, architecture=soc.architecture, delegation=delegation)
    return compiled


def _compile_onnx(job: LoweringJob, socs: list[Soc]) -> dict[str, Compiled]:
    compiled = {}
    for soc in socs:
        path = job.work_dir / f"model_{soc.name}.onnx"
        found = run_in_child(
            "converters.qnn.session:compile_onnx",
            {"source": str(job.work_dir / MAIN_FILE), "destination": str(path), "soc": soc.name},
            environment=emulator_environment(),
            timeout_s=COMPILE_TIMEOUT_S,
        )
        delegation = Delegation(delegates=found["partitions"], ops_outside=found["ops_outside"])
        compiled[path.name] = Compiled(soc=soc.name, architecture=soc.architecture, delegation=delegation)
    return compiled


def _describe(job: LoweringJob) -> IoVariant:
    dtype, value_range, qscale, zero_point = _STORED[job.scheme]
    input_spec, output_spec = (
        TensorSpec(
            name=name,
            dtype=dtype,
            layout="NHWC",
            shape=(1, factor * job.tile[0], factor * job.tile[1], 3),
            value_range=value_range,
            qscale=qscale,
            zero_point=zero_point,
        )
        for name, factor in ((INPUT, 1), (OUTPUT, job.scale))
    )
    return IoVariant(input=input_spec, output=output_spec)
