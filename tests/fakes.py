"""Stand-ins that several test files share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from apps.history.measurement import LATENCY, Measurement
from converters.artifact import ArtifactMeta, Delegation, IoVariant, TensorSpec, fingerprint, write_artifact

FAKE_TILE = (16, 16)
# A latency as a history keeps it; tests replace in it what they are about.
FAKE_MEASUREMENT = Measurement(
    kind=LATENCY,
    created="2026-01-01T12:00:00+00:00",
    artifact_name="net_w8a8",
    artifact_sha256="a" * 64,
    model="idsa_net_mobile",
    scale=4,
    scheme="w8a8",
    target="tflite",
    tile=FAKE_TILE,
    device_kind="host",
    device="a processor",
    runtime="tflite",
    threads=1,
    samples_ms=(1.5, 1.25, 2.0),
)


def fake_artifact(
    folder: Path, target: str = "tflite", *, scheme: str = "w8a8", checkpoint_sha256: str = "0" * 64
) -> Path:
    """An artifact folder whose hashes are right and whose model is none: tests put a runner of their own on it."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "model.bin").write_bytes(b"not a model")
    spec = TensorSpec(name="x", dtype="uint8", layout="NHWC", shape=(1, *FAKE_TILE, 3), value_range=(0, 255))
    output = replace(spec, name="y", shape=(1, 4 * FAKE_TILE[0], 4 * FAKE_TILE[1], 3))
    meta = ArtifactMeta(
        model="idsa_net_mobile",
        scale=4,
        scheme=scheme,
        target=target,
        tile=FAKE_TILE,
        overlap=4,
        main_file="model.bin",
        io={"model.bin": IoVariant(input=spec, output=output)},
        files=fingerprint(source, ["model.bin"]),
        tool_versions={},
        checkpoint_sha256=checkpoint_sha256,
        delegation=Delegation(delegates=1),
    )
    return write_artifact(folder / meta.name, meta=meta, source=source).path
