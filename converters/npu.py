"""NPUs of other vendors, through LiteRT's ahead-of-time compilers: compiled where the vendor's SDK is installed.

The artifact is the TFLite file and, beside it, what the vendor's compiler made of it for each system on a chip. Nothing
here emulates these NPUs: partitions and operators outside are the compiler's word, accuracy is that of the TFLite file
on the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from converters import to_tflite
from converters.ahead_of_time import compile_ahead
from converters.artifact_meta import Compiled
from converters.lowering import Lowered, LoweringJob
from converters.vendors import VENDORS
from edge_sr.choices import expect_choice
from edge_sr.errors import MissingToolError


def lower(job: LoweringJob) -> Lowered:
    """Write what target tflite writes, and ``model_SOC.tflite`` for each of ``job.socs``.

    Args:
        job: ``target`` names the vendor.
    Raises:
        ConfigError: the vendor's compiler knows no such SoC.
        MissingToolError: the vendor's SDK is not installed.
        ConversionError: a tool refused the network.
    """
    vendor = VENDORS[job.target]
    socs = tuple(dict.fromkeys(job.socs or vendor.socs[:1]))
    for soc in socs:
        expect_choice(f"SoC of {vendor.title}", soc, vendor.socs)
    if find_spec(vendor.sdk_module) is None:
        raise MissingToolError(
            f"compiling for {vendor.title} needs the vendor's SDK for LiteRT, got none; "
            f"pip install {vendor.sdk_package} (it downloads from the vendor, under the vendor's licence)"
        )
    made = to_tflite.lower(job)
    compiled = {}
    for soc in socs:
        path = job.work_dir / f"model_{soc}.tflite"
        delegation = compile_ahead(job.work_dir / made.main_file, path, vendor=vendor.name, soc=soc)
        compiled[path.name] = Compiled(soc=soc, architecture="", delegation=delegation)
    return replace(
        made,
        files=(*made.files, *compiled),
        io=made.io | dict.fromkeys(compiled, made.io[made.main_file]),
        delegation=next(iter(compiled.values())).delegation,
        compiled=compiled,
        notes=(*made.notes, f"accuracy is that of {made.main_file} on a CPU: nothing here emulates a {vendor.title}"),
    )
