"""The doctor: what is installed, which targets and devices work here, and the cure for each that does not."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from apps.machine import MachineInfo, describe_machine, package_version
from apps.runnable import reason_not_runnable
from converters.isolation import run_in_child
from converters.targets import TARGETS, WITHOUT_DEPENDENCIES, Target
from edge_sr.checkpoint_header import WEIGHTS_DIR
from edge_sr.errors import ConfigError, EdgeSRError

OK, NOTE, BROKEN = "ok", "note", "broken"
STATUSES = (OK, NOTE, BROKEN)

# What every command needs; the targets bring their own.
CORE_PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-image",
    "typer",
    "rich",
    "jinja2",
    "matplotlib",
)
_PROBE_TIMEOUT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's table. ``status`` is ``ok``, ``note`` (works less than it could) or ``broken``."""

    group: str
    name: str
    status: str
    detail: str
    cure: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ConfigError(f"expected a status out of {', '.join(STATUSES)}, got {self.status!r}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """Everything the doctor looked at, in groups: python, packages, weights, devices, training, targets."""

    checks: tuple[Check, ...]
    machine: MachineInfo

    @property
    def broken(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == BROKEN)

    def to_json(self) -> dict[str, Any]:
        return {"checks": [check.to_json() for check in self.checks]}


def examine(
    *,
    quick: bool = False,
    found: Callable[[Check], None] = lambda check: None,
    trying: Callable[[str], None] = lambda what: None,
) -> DoctorReport:
    """Look at this installation and try it: first what is instant, then what takes an import of torch, then targets.

    Args:
        quick: only look at versions; otherwise each target converts and runs one convolution in a process of its own
            (half a minute of processor time each).
        found: called with each result as it comes.
        trying: called with what is tried next, before anything that takes longer than a glance.
    """
    checks = []
    for check in _looks(quick, trying):
        found(check)
        checks.append(check)
    return DoctorReport(checks=tuple(checks), machine=describe_machine())


def _looks(quick: bool, trying: Callable[[str], None]) -> Iterator[Check]:
    for look in (_check_python, _check_packages, _check_weights, _check_devices):
        yield from look()
    trying("training: importing torch")
    yield from _check_training()
    for number, target in enumerate(TARGETS.values(), 1):
        if not quick:
            trying(f"{target.name}, target {number} of {len(TARGETS)}: converting and running one convolution")
        yield check_target(target, quick=quick)


def check_target(target: Target, *, quick: bool = False) -> Check:
    """Whether artifacts of one target can be made and run here, tried unless ``quick``."""
    missing = [name for name in target.converter_packages if package_version(name) is None]
    if missing and target.on_request:
        cure = target.install or pip_install(missing)
        if target.licence:
            cure += f" (its licence is yours to accept: {target.licence})"
        detail = f"cannot convert: {', '.join(missing)} not installed"
        return Check(group="targets", name=target.name, status=NOTE, detail=detail, cure=cure)
    runtimes = [name for name in target.runtime_packages if package_version(name) is not None]
    if missing:
        runs = f"; artifacts made elsewhere run with {runtimes[0]}" if runtimes else ""
        return Check(
            group="targets",
            name=target.name,
            status=NOTE if runtimes else BROKEN,
            detail=f"cannot convert: {', '.join(missing)} not installed{runs}",
            cure=pip_install(missing),
        )
    versions = ", ".join(f"{name} {package_version(name)}" for name in target.converter_packages)
    versions += f"; licence of its libraries: {target.licence}" if target.licence else ""
    if quick:
        reason = reason_not_runnable(target.name)
        detail = f"installed, not tried: {versions}" + (f"; {reason}" if reason else "")
        return Check(group="targets", name=target.name, status=NOTE if reason else OK, detail=detail)
    try:
        detail = run_in_child("apps.doctor_probe:probe_target", {"target": target.name}, timeout_s=_PROBE_TIMEOUT_S)
    except EdgeSRError as error:
        cure = pip_install(list(target.converter_packages)) + " (or see the error)"
        return Check(group="targets", name=target.name, status=BROKEN, detail=str(error), cure=cure)
    reason = reason_not_runnable(target.name)
    return Check(
        group="targets",
        name=target.name,
        status=OK if reason is None else NOTE,
        detail=f"{detail}{_libraries_of(target)}",
        cure="" if reason is None else "copy the artifact to a Mac and run edge-sr verify there",
    )


def _libraries_of(target: Target) -> str:
    """Whose libraries a target uses, where they are not open source."""
    if target.name != "qnn":
        return ""
    from converters.qnn.toolchain import qnn_version, sdk_libraries

    sdk = sdk_libraries()
    compiler = f"QNN {qnn_version()} of onnxruntime-qnn" if sdk is None else f"LiteRT's SDK at {sdk}"
    return f"; compiles with {compiler}, emulates with QNN {qnn_version()}; {target.licence}"


def pip_install(names: list[str]) -> str:
    """The command that installs packages, in the versions this project asks for where it says."""
    try:
        asked = metadata.requires("edge-sr") or []
    except metadata.PackageNotFoundError:
        asked = []
    wanted, alone = [], [f"{name}=={WITHOUT_DEPENDENCIES[name]}" for name in names if name in WITHOUT_DEPENDENCIES]
    for name in names:
        if name in WITHOUT_DEPENDENCIES:
            continue
        specs = [line.partition(";")[0].strip() for line in asked if _name_of(line) == name]
        wanted.append(specs[0] if specs else name)
    commands = [] if not wanted else ["pip install " + " ".join(_quoted(spec) for spec in wanted)]
    commands += [f"pip install --no-deps {' '.join(alone)}"] if alone else []
    return "; ".join(commands)


def _quoted(spec: str) -> str:
    return f"'{spec}'" if ">" in spec or "<" in spec else spec


def _name_of(requirement: str) -> str:
    name = requirement.partition(";")[0]
    for mark in "[=<>!~ ":
        name = name.partition(mark)[0]
    return name.strip().lower().replace("_", "-")


def _check_python() -> list[Check]:
    version = platform.python_version()
    good = sys.version_info[:2] == (3, 11)
    detail = f"{version} at {sys.executable}"
    cure = "" if good else "make a virtual environment with Python 3.11: the pinned toolchains are tested with it"
    return [Check(group="python", name="python", status=OK if good else NOTE, detail=detail, cure=cure)]


def _check_packages() -> list[Check]:
    checks = []
    for name in CORE_PACKAGES:
        version = package_version(name)
        checks.append(
            Check(
                group="packages",
                name=name,
                status=OK if version is not None else BROKEN,
                detail=version or "not installed",
                cure="" if version is not None else pip_install([name]),
            )
        )
    return checks


def _check_weights() -> list[Check]:
    files = sorted(WEIGHTS_DIR.glob("*.safetensors"))
    return [
        Check(
            group="weights",
            name="bundled checkpoints",
            status=OK if files else BROKEN,
            detail=", ".join(file.stem for file in files) or f"none in {WEIGHTS_DIR}",
            cure="" if files else "install the package again, or train with edge-sr train",
        )
    ]


def _check_training() -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        yield Check(group="training", name="cpu", status=BROKEN, detail=str(error), cure=pip_install(["torch"]))
        return
    try:
        layer = torch.nn.Conv2d(3, 4, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(torch.zeros(1, 3, 8, 8)).sum().backward()
        detail = f"trains, bf16 included ({torch.get_num_threads()} threads)"
        yield Check(group="training", name="cpu", status=OK, detail=detail)
    except (RuntimeError, EdgeSRError) as error:
        detail = f"trains in fp32 only: {str(error).splitlines()[0]}"
        yield Check(group="training", name="cpu", status=NOTE, detail=detail)
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        yield Check(group="training", name="cuda", status=OK, detail=f"{torch.cuda.device_count()} x {name}")
    else:
        yield Check(group="training", name="cuda", status=NOTE, detail="no CUDA device: training uses the CPU")


def _check_devices() -> list[Check]:
    from apps.profiling.adb.adb import find_adb
    from apps.profiling.apple import check_system
    from apps.profiling.browser.litertjs import load_runtime

    host = Check(group="devices", name="host", status=OK, detail=describe_machine().line)
    return [
        host,
        _check_device("adb", find_adb, "adb is there; connect a phone and see adb devices"),
        _check_device("browser", load_runtime, "LiteRT.js is there"),
        _check_device("apple", lambda: check_system("mac"), "a Mac with Xcode's tools"),
    ]


def _check_device(name: str, look: Callable[[], object], found: str) -> Check:
    """What another kind of device needs is a note where it is missing: nobody needs all of them."""
    try:
        look()
    except EdgeSRError as error:
        detail, _, cure = str(error).partition("; ")
        return Check(group="devices", name=name, status=NOTE, detail=detail, cure=cure)
    return Check(group="devices", name=name, status=OK, detail=found)
