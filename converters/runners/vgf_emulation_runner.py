"""Run VGF artifacts as a phone would: the program's own VGF, through Vulkan with Arm's extensions for machine learning.

No driver on a computer has these extensions, so Arm's emulation layer computes them in shaders, on mesa's lavapipe. Its
time says nothing of a phone's.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact import Artifact
from converters.artifact_meta import TensorSpec
from converters.graphs.vgf_reader import read_vgf_payload
from converters.runners.vgf_runner import VgfRunner
from converters.vgf_toolchain import emulation_environment, scenario_runner
from edge_sr.errors import RunnerError

_TIMEOUT_S = 1200.0
_FORMATS = {"int8": "VK_FORMAT_R8_SINT", "float32": "VK_FORMAT_R32_SFLOAT"}


class VgfEmulationRunner(VgfRunner):
    """Runs the VGF inside an artifact's program, each tile in a process of Arm's scenario runner.

    Args:
        artifact: a verified artifact of target vgf.
        threads: not used: lavapipe takes all processors.
    Raises:
        ArtifactError: the program is damaged, or is no single VGF delegate.
        MissingToolError: a package or lavapipe is not installed.
        RunnerError: it does not fit the artifact.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        self._program, self._environment = scenario_runner(), emulation_environment()
        super().__init__(artifact, f"vgf emulation layer {metadata.version('ai-ml-emulation-layer-for-vulkan')}")
        self._vgf = read_vgf_payload(self._path)

    def compute(self, stored: NDArray[Any]) -> NDArray[Any]:
        """See :meth:`VgfRunner.compute`."""
        with tempfile.TemporaryDirectory(prefix="edge-sr-vgf-") as name:
            folder = Path(name)
            (folder / "model.vgf").write_bytes(self._vgf)
            np.save(folder / "input.npy", stored)
            (folder / "scenario.json").write_text(json.dumps(self._scenario()), encoding="utf-8")
            command = [str(self._program), "--scenario", str(folder / "scenario.json"), "--output", name]
            try:
                done = subprocess.run(
                    command,
                    env={**os.environ, **self._environment},
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise RunnerError(
                    f"expected the emulation layer to run {self._path} within {_TIMEOUT_S:g} s, got no result; "
                    "export smaller tiles"
                ) from None
            try:
                return np.asarray(np.load(folder / "output.npy"))
            except (OSError, ValueError):
                told = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
                why = " ".join((told or [f"exit status {done.returncode}"])[-1].split())
                raise RunnerError(f"expected the emulation layer to run {self._path}, got {why}") from None

    def _scenario(self) -> dict[str, Any]:
        ends = (("input", self._io.input, "readonly", "src"), ("output", self._io.output, "writeonly", "dst"))
        bindings = [{"set": 0, "id": number, "resource_ref": end[0]} for number, end in enumerate(ends)]
        return {
            "commands": [{"dispatch_vgf": {"graph_ref": "network", "bindings": bindings}}],
            "resources": [
                {"graph": {"uid": "network", "src": "model.vgf"}},
                *(_tensor(name, spec, access, {file: f"{name}.npy"}) for name, spec, access, file in ends),
            ],
        }


def _tensor(name: str, spec: TensorSpec, access: str, file: dict[str, str]) -> dict[str, Any]:
    what = {"uid": name, "dims": list(spec.shape), "format": _FORMATS[spec.dtype], "shader_access": access}
    return {"tensor": {**what, **file}}
