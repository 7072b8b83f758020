"""Runs TFLite artifacts on LiteRT's GPU accelerator (WebGPU), on a software Vulkan; see :mod:`converters.webgpu`.

Int8 files are taken too, and computed in float: idsa_net_mobile w8a8 then was up to 4 levels from the CPU's int8
arithmetic on a tile of noise, 0.04 on average (ai-edge-litert 2.3.0). That is what a GPU makes of such a file, not what
the file says, so comparisons run float artifacts only. Reading the result back waits for the software Vulkan to compute
it, and LiteRT gives up after a while; no time of this runner says anything of a phone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from converters.artifact import Artifact, IoVariant
from converters.runners.stored import check_pixels, from_stored, to_stored
from converters.webgpu import compile_here
from edge_sr.errors import RunnerError
from edge_sr.quiet import quiet_native
from edge_sr.sizes import format_size

_LARGEST_HALF_TILE = 64


class WebGpuRunner:
    """One TFLite file, every operator of it on the GPU accelerator; see :class:`edge_sr.runner.Runner`."""

    driver = "SwiftShader, fp32"

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        """Compile the artifact's main file.

        Args:
            artifact: verified artifact.
            threads: ignored; a software Vulkan takes all processors.
        Raises:
            MissingToolError: ai-edge-litert has no accelerator, or it finds no Vulkan.
            RunnerError: the file is refused, or an operator is left to the CPU, which the line names.
        """
        self.name = f"webgpu ({self.driver})"
        self.scale = artifact.meta.scale
        self.tile: tuple[int, int] | None = artifact.meta.tile
        self._file = artifact.meta.main_file
        self._io: IoVariant = artifact.meta.io[self._file]
        compiled, answer = compile_here(artifact.main_path)
        if compiled is None:
            raise RunnerError(
                f"expected every operator of {self._file} on the GPU accelerator, got {answer.left_out} left to the "
                f"CPU: {answer.line}; respell them, or run the file on the CPU"
            )
        self._compiled: Any = compiled
        with quiet_native():
            self._input, self._output = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
        if (len(self._input), len(self._output)) != (1, 1):
            raise RunnerError(f"expected one input and one output in {self._file}, got more; export the artifact again")

    def run(self, lr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Upscale one tile.

        Args:
            lr: (height, width, 3) uint8 RGB, exactly ``tile``.
        Returns:
            (scale * height, scale * width, 3) uint8 RGB.
        Raises:
            ShapeError: another shape or type.
            RunnerError: the accelerator failed or gave up waiting, or computed NaN or infinity.
        """
        output = self._io.output
        check_pixels(lr, self._io.input)
        try:
            with quiet_native():
                self._input[0].write(to_stored(lr[np.newaxis], self._io.input))
                self._compiled.run_by_index(0, self._input, self._output)
                stored = self._output[0].read(int(np.prod(output.shape)), np.dtype(output.dtype).type)
        except (RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            raise RunnerError(f"{self.name} failed on {self._file}: {line}; use a smaller tile") from None
        levels: npt.NDArray[np.uint8] = from_stored(stored.reshape(output.shape)[0], output, self._file)
        return levels


class WebGpuHalfRunner(WebGpuRunner):
    """The same on lavapipe, which has float16, as phones' GPUs have.

    LiteRT waits two minutes for a result, and of 128x128 pixels none came (ai-edge-litert 2.3.0, mesa 25.0.7, two
    cores), so larger tiles than 64x64 are refused at once.
    """

    driver = "lavapipe, fp16"

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        """See :class:`WebGpuRunner`; RunnerError for a larger tile too."""
        if max(artifact.meta.tile) > _LARGEST_HALF_TILE:
            limit = format_size((_LARGEST_HALF_TILE, _LARGEST_HALF_TILE))
            raise RunnerError(
                f"expected a tile of at most {limit} for {self.driver}, got {format_size(artifact.meta.tile)}; "
                f"export with --tile {limit}"
            )
        super().__init__(artifact, threads=threads)
