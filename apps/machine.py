"""What this machine is: processor, memory, load, and the versions of everything a measurement depends on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

# Distribution names as pip knows them. Reading a version this way imports nothing.
PACKAGES = (
    "edge-sr",
    "torch",
    "torchao",
    "numpy",
    "pillow",
    "scikit-image",
    "safetensors",
    "litert-torch",
    "ai-edge-litert",
    "tflite-runtime",
    "executorch",
    "coremltools",
    "onnxruntime",
    "onnxruntime-qnn",
    "ai-ml-sdk-model-converter",
    "tosa-tools",
)


# Instructions that decide how fast int8 and float kernels are, as /proc/cpuinfo spells them: x86, then ARM.
_DECISIVE = (
    *("avx2", "fma", "avx512f", "avx512bw", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
_NOT_TOLD = "not told by this system"


@dataclass(frozen=True, kw_only=True)
class MachineInfo:
    """The machine of a measurement.

    ``cpu_features`` are the instruction sets that int8 and float kernels depend on. ``governor`` and ``temperature``
    are what the system tells of the processor's clock policy and heat, or that it does not tell.
    ``logical_cores`` are those that this process may use. ``load_average`` is the mean number of runnable processes
    over the last minute when this was made (None where the system does not tell): a value near or above the number of
    cores makes every latency suspect.
    """

    system: str
    python: str
    cpu_model: str
    cpu_features: tuple[str, ...]
    governor: str
    temperature: str
    logical_cores: int
    physical_cores: int | None
    memory_bytes: int | None
    load_average: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def line(self) -> str:
        """One line for people: processor, cores, memory, system, Python."""
        cores = f"{self.logical_cores} logical core{'s' if self.logical_cores > 1 else ''}"
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB"
        return f"{self.cpu_model}, {cores}{memory}, {self.system}, Python {self.python}"


def describe_machine() -> MachineInfo:
    """Look at this machine; takes a few milliseconds and never fails for a value it cannot find."""
    return MachineInfo(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        cpu_model=cpu_model(),
        cpu_features=_cpu_features(),
        governor=_governor(),
        temperature=_temperature(),
        logical_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        physical_cores=_physical_cores(),
        memory_bytes=_memory_bytes(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def package_versions() -> dict[str, str | None]:
    """Version of each package a result may depend on; None where it is not installed."""
    return {name: package_version(name) for name in PACKAGES}


def package_version(name: str) -> str | None:
    """Version of one distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's own name, or the architecture where the system keeps the name to itself."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    fields = _cpuinfo()
    # x86 says "model name"; a Raspberry Pi says "Model", older ARM kernels "Hardware".
    for key in ("model name", "Model", "Hardware"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields, empty where the system has no such file."""
    path = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _cpu_features() -> tuple[str, ...]:
    fields = _cpuinfo()
    own = set((fields.get("flags") or fields.get("Features") or "").split())
    return tuple(name for name in _DECISIVE if name in own)


def _governor(cpus: Path = Path("/sys/devices/system/cpu")) -> str:
    found = {path.read_text().strip() for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ", ".join(sorted(found)) or _NOT_TOLD


def _temperature(zones: Path = Path("/sys/class/thermal")) -> str:
    """The hottest sensor, in degrees Celsius."""
    degrees = []
    for path in zones.glob("thermal_zone*/temp"):
        try:
            degrees.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):  # a sensor that is asleep
            continue
    return f"{max(degrees):.0f} °C" if degrees else _NOT_TOLD


def _sysctl(name: str) -> str | None:
    program = shutil.which("sysctl")
    if program is None:
        return None
    done = subprocess.run(
        [program, "-n", name], capture_output=True, text=True, errors="replace", timeout=5, check=False
    )
    return done.stdout.strip() or None


def _physical_cores() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    count = psutil.cpu_count(logical=False)
    return int(count) if count else None


def _memory_bytes() -> int | None:
    try:
        return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None
