"""Artifacts whose every number is known: a TFLite file that repeats each pixel, made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny_tflite import TinyModel

from converters.artifact import Artifact, ArtifactMeta, Delegation, IoVariant, TensorSpec, fingerprint, write_artifact

TILE = (16, 16)
LEVEL = 1 / 255
WEIGHT_SCALE = 1 / 127


def repeater(
    path: Path,
    *,
    weight: int = 127,
    bias: int = 0,
    weight_scale: float = WEIGHT_SCALE,
    prefix: str = "",
    extra: bool = False,
) -> Path:
    """Write an int8 network that enlarges twice by repeating pixels: a 1x1 convolution 3 -> 12, then DEPTH_TO_SPACE.

    Args:
        path: the file.
        weight: of each output channel's own colour; 127 stands for 1.
        bias: of every channel, 127 stands for one level.
        weight_scale: of all weights.
        prefix: of the tensors' names.
        extra: a constant that nothing reads.
    """
    weights = np.zeros((12, 1, 1, 3), np.int8)
    for channel in range(12):
        weights[channel, 0, 0, channel % 3] = weight
    model = TinyModel()
    source = model.tensor((1, *TILE, 3), "int8", scale=LEVEL, zero_point=-128, name=f"{prefix}input")
    filters = model.tensor((12, 1, 1, 3), "int8", data=weights, scale=[weight_scale] * 12, name=f"{prefix}filters")
    biases = model.tensor(
        (12,), "int32", data=np.full(12, bias), scale=[weight_scale * LEVEL] * 12, name=f"{prefix}bias"
    )
    inner = model.tensor((1, *TILE, 12), "int8", scale=LEVEL, zero_point=-128, name=f"{prefix}inner")
    if extra:
        model.tensor((5,), "int8", data=np.arange(5), name="unused")
    result = model.tensor(
        (1, 2 * TILE[0], 2 * TILE[1], 3), "int8", scale=LEVEL, zero_point=-128, name=f"{prefix}output"
    )
    model.op("CONV_2D", [source, filters, biases], [inner], "Conv2D", version=3, strideH=1, strideW=1)
    model.op("DEPTH_TO_SPACE", [inner], [result], "DepthToSpace", blockSize=2)
    return model.write(path, [source], [result])


def repeater_artifact(
    folder: Path,
    *,
    overlap: int = 2,
    attribution: str = "",
    weight: int = 127,
    bias: int = 0,
    weight_scale: float = WEIGHT_SCALE,
    prefix: str = "",
    extra: bool = False,
) -> Artifact:
    """An artifact of :func:`repeater` in ``folder``, which is made."""
    source = folder / "source"
    source.mkdir(parents=True)
    repeater(source / "model.tflite", weight=weight, bias=bias, weight_scale=weight_scale, prefix=prefix, extra=extra)
    spec = TensorSpec(
        name="input",
        dtype="int8",
        layout="NHWC",
        shape=(1, *TILE, 3),
        value_range=(-128.0, 127.0),
        qscale=float(np.float32(LEVEL)),
        zero_point=-128,
    )
    output = replace(spec, name="output", shape=(1, 2 * TILE[0], 2 * TILE[1], 3))
    meta = ArtifactMeta(
        model="repeater",
        scale=2,
        scheme="w8a8",
        target="tflite",
        tile=TILE,
        overlap=overlap,
        main_file="model.tflite",
        io={"model.tflite": IoVariant(input=spec, output=output)},
        files=fingerprint(source, ["model.tflite"]),
        tool_versions={"by hand": "1"},
        checkpoint_sha256="0" * 64,
        delegation=Delegation(delegates=1),
        weights_attribution=attribution,
    )
    return write_artifact(folder / "artifact", meta=meta, source=source)
