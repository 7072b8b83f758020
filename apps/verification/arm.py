"""ARM numerics: a TFLite artifact gives on aarch64, emulated, what it gives on this machine.

XNNPACK has other kernels for ARM than for x86. int8 kernels are exact, so every byte must agree; float kernels may add
up in another order, so pictures are compared, in levels. An emulator says nothing about time, and none is reported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.progress import Progress, quiet
from apps.results import plain
from apps.verification.arm_root import find_arm_root
from converters.artifact import Artifact, IoVariant, TensorSpec
from converters.inspect_tflite import inspect_tflite
from edge_sr.errors import ConfigError, MissingToolError, RunnerError, refuse_damaged
from edge_sr.foreign_text import one_line
from edge_sr.sizes import format_size

Array = NDArray[Any]

# An in-order core of the smallest phones and a big one of 2018, the first with the int8 dot product.
DEFAULT_CPUS = ("cortex-a53", "cortex-a76")
# A larger tile takes minutes in the emulator and shows no other arithmetic.
LARGEST_TILE = 64
# A float sum in another order may cross a rounding edge of the 8-bit picture, by one level and rarely.
FLOAT_LEVELS = 1
# Float operators among int8 ones (softmax, batch matmul): a last bit decides which int8 value comes next, and later
# layers carry that on. Two runtimes on one processor are as far apart (idsa_net w8a8: 4 levels).
MIXED_LEVELS = 4
_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class ArmCheck:
    """One model file on one emulated CPU beside this machine.

    Attributes:
        artifact_name, file: what was run.
        cpu: as the emulator names it.
        machine: of each run, ``aarch64`` and this machine's.
        tiles: how many pictures were run.
        identical: every stored output byte agrees.
        max_difference: of the stored values (levels for int8, intensities for float).
        max_levels: of the 8-bit pictures made of them.
        allowed_levels: 0 where the arithmetic is int8, :data:`FLOAT_LEVELS` where it is float, :data:`MIXED_LEVELS`
            where it is both.
    """

    artifact_name: str
    file: str
    cpu: str
    machine: tuple[str, str]
    tiles: int
    identical: bool
    max_difference: float
    max_levels: int
    allowed_levels: int

    @property
    def passed(self) -> bool:
        return self.max_levels <= self.allowed_levels and (self.identical or self.allowed_levels > 0)

    def to_json(self) -> dict[str, Any]:
        return {**plain(asdict(self)), "passed": self.passed}


def why_no_arm(root: Path | None = None) -> str | None:
    """Why there can be no such check here, in a line that names the cure; None where it can be made."""
    try:
        find_arm_root(root)
    except MissingToolError as error:
        return str(error)
    return None


def check_arm(
    artifact: Artifact,
    *,
    cpus: Sequence[str] = DEFAULT_CPUS,
    root: Path | None = None,
    file: str | None = None,
    timeout_s: float = _TIMEOUT_S,
    progress: Progress = quiet,
) -> tuple[ArmCheck, ...]:
    """Run a TFLite artifact's model file on the same tiles here and on emulated ARM CPUs.

    Args:
        artifact: a verified one with a tile of at most :data:`LARGEST_TILE`.
        cpus: names that ``qemu-aarch64 -cpu help`` lists.
        root: emulated system; default where the set-up script puts it.
        file: another of the artifact's model files; default the main one.
        timeout_s: for each CPU.
        progress: called after each CPU.
    Returns:
        one result per CPU.
    Raises:
        ConfigError: another target, a larger tile, or no such file.
        MissingToolError: there is no emulated system; it says how to make one.
        RunnerError: a run failed.
    """
    name = artifact.meta.main_file if file is None else file
    _check_artifact(artifact, name)
    system = find_arm_root(root)
    spec = artifact.meta.io[name]
    checks: list[ArmCheck] = []
    with tempfile.TemporaryDirectory(prefix="edge-sr-arm-") as scratch:
        inputs = Path(scratch) / "inputs.npy"
        np.save(inputs, np.stack([_stored(tile, spec.input) for tile in make_tiles(artifact.meta.tile)]))
        here, machine = _run([sys.executable], dict(os.environ), artifact.path / name, inputs, timeout_s)
        for cpu in cpus:
            command, environment = system.command(cpu)
            there, arm = _run(command, environment, artifact.path / name, inputs, timeout_s)
            checks.append(_compare(artifact, name, spec, cpu, (arm, machine), there, here))
            progress("ARM numerics", len(checks), len(cpus), cpu)
    return tuple(checks)


def make_tiles(tile: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """The pictures: noise over all levels, and ramps with hard edges; (h, w, 3) uint8, the same every time."""
    height, width = tile
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[0:height, 0:width]
    ramps = (rows * 255 // max(height - 1, 1), columns * 255 // max(width - 1, 1), (rows // 4 % 2) * 255)
    return [noise, np.stack(ramps, axis=2).astype(np.uint8)]


def _check_artifact(artifact: Artifact, name: str) -> None:
    meta = artifact.meta
    if meta.target != "tflite":
        raise ConfigError(f"expected a TFLite artifact for ARM numerics, got {meta.target}: no other runtime is there")
    if max(meta.tile) > LARGEST_TILE:
        raise ConfigError(
            f"expected a tile of at most {LARGEST_TILE}x{LARGEST_TILE} for the emulator, got "
            f"{format_size(meta.tile)}: export the same weights with --tile 32x32"
        )
    if name not in meta.io:
        raise ConfigError(f"expected one of {', '.join(meta.io)}, got {name!r}")


def _run(
    command: list[str], environment: dict[str, str], model: Path, inputs: Path, timeout_s: float
) -> tuple[Array, str]:
    """Outputs of the child under ``command``, and the machine that it saw."""
    child = Path(__file__).with_name("arm_child.py")
    outputs = inputs.with_name("outputs.npy")
    words = [*command, str(child), str(model.resolve()), str(inputs), str(outputs)]
    what = Path(command[0]).name
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunnerError(f"expected {what} to finish within {timeout_s:g} s, got nothing: allow more time") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = one_line(lines[-1], limit=300) if lines else f"exit status {done.returncode}"
        raise RunnerError(f"expected {what} to run {model.name}, got {said}")
    with refuse_damaged(f"outputs of {model.name} from {what}", RunnerError, "run it again"):
        said = json.loads(done.stdout.splitlines()[-1])
        made: Array = np.load(outputs)
        outputs.unlink()
        return made, str(said["machine"])


def _compare(
    artifact: Artifact,
    name: str,
    spec: IoVariant,
    cpu: str,
    machine: tuple[str, str],
    there: Array,
    here: Array,
) -> ArmCheck:
    pictures = [_levels(stored, spec.output).astype(np.int16) for stored in (there, here)]
    return ArmCheck(
        artifact_name=artifact.path.name,
        file=name,
        cpu=cpu,
        machine=machine,
        tiles=len(here),
        identical=there.dtype == here.dtype and there.tobytes() == here.tobytes(),
        max_difference=float(np.abs(there.astype(np.float64) - here.astype(np.float64)).max()),
        max_levels=int(np.abs(pictures[0] - pictures[1]).max()),
        allowed_levels=_allowed_levels(artifact.path / name),
    )


def _allowed_levels(model: Path) -> int:
    """What the file's operators allow; its input and output types do not tell, an int8 model may have float ones."""
    summary = inspect_tflite(model)
    if not summary.float_ops:
        return 0
    return MIXED_LEVELS if summary.int8_ops else FLOAT_LEVELS


def _stored(tile: NDArray[np.uint8], spec: TensorSpec) -> Array:
    """A picture as the model stores it, (h, w, 3)."""
    intensity = tile.astype(np.float64) / 255.0
    if spec.qscale is None or spec.zero_point is None:
        return intensity.astype(np.float32)
    return np.rint(intensity / spec.qscale + spec.zero_point).astype(spec.dtype)


def _levels(stored: Array, spec: TensorSpec) -> NDArray[np.uint8]:
    """Stored values as 8-bit pictures."""
    intensity = stored.astype(np.float64)
    if spec.qscale is not None and spec.zero_point is not None:
        intensity = (intensity - spec.zero_point) * spec.qscale
    return np.floor(np.clip(intensity, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
