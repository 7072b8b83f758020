"""What the page measures: the artifact's own file, one tile, and what this machine computes for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.profiling.browser.results import BrowserNumerics
from converters.artifact import Artifact, ArtifactMeta, IoVariant, TensorSpec
from converters.runners import open_runner
from edge_sr.datasets import sample_photo_files
from edge_sr.errors import MissingToolError, RunnerError
from edge_sr.images import read_image
from edge_sr.resize import make_lr
from edge_sr.runner import pad_to

Image = NDArray[np.uint8]

# LiteRT.js 2.5.3 takes tensors of float32, int32 and uint8 only.
_BROWSER_DTYPES = ("uint8", "float32")
# The same network in float32 on two processors: additions in another order, multiplications fused or not.
_EQUAL_FLOAT = 1e-6
# A quarter of an 8-bit level.
_FLOAT_TOLERANCE = 1e-3
# One flipped rounding spreads through a quantized network, and fp16 keeps 11 bits: 45 dB and more. A wrong kernel or a
# mixed-up layout is below 30 dB.
_AGREEMENT_DB = 40.0


@dataclass(frozen=True, kw_only=True)
class BrowserJob:
    """One artifact as the page gets it.

    Attributes:
        file: the model file with an interface that a browser takes; ``io`` describes it, ``model`` is its bytes.
        tile: (h, w, 3) uint8 RGB, the picture that is enlarged; ``tile_name`` says of what.
        expected: (scale * h, scale * w, 3), stored output of that very file in this machine's own runtime.
        reference: that runtime's name and version.
    """

    artifact: Artifact
    file: str
    io: IoVariant
    model: bytes = field(repr=False)
    tile: Image = field(repr=False)
    tile_name: str
    expected: NDArray[Any] = field(repr=False)
    reference: str

    @property
    def output_bytes(self) -> int:
        """Size of the output that the page posts."""
        return int(self.expected.nbytes)

    def compare(self, output: bytes, *, precision: str | None) -> BrowserNumerics:
        """Compare the page's stored output with this machine's.

        Args:
            output: the tensor's bytes, little endian.
            precision: of the GPU's arithmetic, ``fp16`` or ``fp32``; None for WebAssembly.
        """
        if len(output) != self.output_bytes:
            reason = f"expected {self.output_bytes} bytes of output, got {len(output)}"
            return BrowserNumerics(reference=self.reference, agrees=False, summary=reason)
        stored = np.frombuffer(output, dtype=self.expected.dtype).reshape(self.expected.shape)
        if not np.isfinite(stored).all():
            return BrowserNumerics(reference=self.reference, agrees=False, summary="its output holds NaN or infinity")
        quantized = self.expected.dtype == np.uint8
        white = 255.0 if quantized else 1.0
        difference = np.abs(stored.astype(np.float64) - self.expected.astype(np.float64)) / white
        largest, square = float(difference.max()), float(np.mean(difference**2))
        psnr_db = math.inf if square == 0.0 else -10.0 * math.log10(square)
        within = psnr_db >= _AGREEMENT_DB if quantized or precision == "fp16" else largest <= _FLOAT_TOLERANCE
        return BrowserNumerics(
            reference=self.reference,
            agrees=within,
            bit_equal=bool(np.array_equal(stored, self.expected)),
            within_1e_6=largest <= _EQUAL_FLOAT,
            max_difference_levels=255.0 * largest,
            psnr_db=psnr_db,
            summary=_summary(largest, psnr_db, within=within),
        )


def choose_variant(meta: ArtifactMeta) -> str | None:
    """The model file that LiteRT.js takes: 8-bit pictures in and out where there is one, else float; None for none."""
    fitting = {
        name: io
        for name, io in meta.io.items()
        if all(spec.dtype in _BROWSER_DTYPES and spec.layout == "NHWC" for spec in (io.input, io.output))
        and io.input.dtype == io.output.dtype
    }
    return min(fitting, key=lambda name: (_BROWSER_DTYPES.index(fitting[name].input.dtype), name), default=None)


def why_not(meta: ArtifactMeta) -> str | None:
    """Why no browser runs this artifact, or None where one may."""
    if meta.target != "tflite":
        return f"cannot run in a browser: LiteRT.js takes TFLite files, this one is for {meta.target}"
    if choose_variant(meta) is None:
        return "cannot run in a browser: LiteRT.js takes uint8 or float32 pictures, none of its files has them"
    return None


def prepare_job(artifact: Artifact) -> BrowserJob:
    """Read the file, choose a tile, and compute what is expected, in this machine's own TFLite runtime.

    Args:
        artifact: a verified TFLite artifact for which :func:`why_not` is None.
    Raises:
        MissingToolError: no TFLite runtime is installed.
        RunnerError: the runtime refuses the file, or its interfaces disagree with one another.
    """
    file = choose_variant(artifact.meta)
    if file is None:
        raise RunnerError(f"{artifact.path.name} {why_not(artifact.meta)}; export the artifact again")
    io = artifact.meta.io[file]
    # Read once: what is served is what was checked and what the expectation was computed from.
    model = (artifact.path / file).read_bytes()
    tile, tile_name = sample_tile(artifact.meta.tile, artifact.meta.scale)
    stored, reference = _run_natively(model, tile, io, file)
    own = open_runner(artifact, threads=1).run(tile)
    if int(np.abs(own.astype(np.int16) - _to_levels(stored)).max()) > (1 if io.output.dtype == "float32" else 0):
        raise RunnerError(f"expected {file} to compute what {artifact.meta.main_file} does, got another picture")
    return BrowserJob(
        artifact=artifact,
        file=file,
        io=io,
        model=model,
        tile=tile,
        tile_name=tile_name,
        expected=stored,
        reference=reference,
    )


def sample_tile(tile: tuple[int, int], scale: int) -> tuple[Image, str]:
    """A piece of a photo that is installed anyway, LR of (height, width), and its name."""
    file = sample_photo_files()[0]
    photo = read_image(file)
    height, width = (min(side * scale, size // scale * scale) for side, size in zip(tile, photo.shape, strict=False))
    # The face of scikit-image's astronaut, as near to it as the tile is large.
    top, left = min(20, photo.shape[0] - height), max(0, min(224 - width // 2, photo.shape[1] - width))
    lr = make_lr(np.ascontiguousarray(photo[top : top + height, left : left + width]), scale)
    return np.ascontiguousarray(pad_to(lr, *tile)[: tile[0], : tile[1]]), file.stem


def _run_natively(model: bytes, tile: Image, io: IoVariant, file: str) -> tuple[NDArray[Any], str]:
    from importlib import metadata

    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingToolError(
            "checking a browser's output needs ai-edge-litert, got none; pip install ai-edge-litert"
        ) from None
    try:
        interpreter = Interpreter(model_content=model, num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], _stored(tile, io.input))
        interpreter.invoke()
        output: NDArray[Any] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    except (ValueError, RuntimeError) as error:
        raise RunnerError(f"{file} does not run on this machine: {str(error).splitlines()[0][:300]}") from None
    if not np.isfinite(output).all():
        raise RunnerError(f"expected finite values from {file}, got NaN or infinity; export the artifact again")
    return output, f"ai-edge-litert {metadata.version('ai-edge-litert')} on this machine"


def _stored(tile: Image, spec: TensorSpec) -> NDArray[Any]:
    if spec.dtype == "uint8":
        return tile[np.newaxis]
    return np.multiply(tile[np.newaxis], np.float32(1 / 255), dtype=np.float32)


def _to_levels(stored: NDArray[Any]) -> NDArray[np.int16]:
    levels = stored if stored.dtype == np.uint8 else np.floor(np.clip(stored * np.float32(255), 0, 255) + 0.5)
    return levels.astype(np.int16)


def _summary(largest: float, psnr_db: float, *, within: bool) -> str:
    if largest == 0.0:
        return "bit-equal to the computer"
    if largest <= _EQUAL_FLOAT:
        return "within 1e-6 of the computer"
    words = f"{psnr_db:.1f} dB to the computer's picture, at most {255.0 * largest:.3g} levels off"
    return words if within else f"wrong picture: {words}"
