"""LiteRT's GPU accelerator on a software Vulkan: it runs what the file says, and refuses in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_tflite import TinyModel

from apps.verification.scoring import closing_runner
from converters import vulkan, webgpu
from converters.artifact import Artifact, TensorSpec, fingerprint, load_artifact, write_artifact
from converters.runners import RUNTIMES, accuracy_runtimes, open_runner
from converters.runners.webgpu_runner import WebGpuHalfRunner
from converters.webgpu import Refusal, read_log
from edge_sr.errors import MissingToolError, RunnerError, ShapeError
from fakes import fake_artifact

pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")

TILE = (8, 8)


def halving(folder: Path, *, axes: int = 4) -> Artifact:
    """An artifact that doubles the sides and halves the values, (1, 8, 8, 3) float in, perhaps by way of five axes."""
    meta = load_artifact(fake_artifact(folder, scheme="fp32")).meta
    model = TinyModel()
    shape, larger = (1, *TILE, 3), (1, 2 * TILE[0], 2 * TILE[1], 3)
    source, halved, result = model.tensor(shape), model.tensor(shape), model.tensor(larger)
    half, start = model.tensor((1,), data=[0.5]), source
    if axes == 5:
        deep, start = model.tensor((1, 2, 4, 8, 3)), model.tensor(shape)
        for given, made, sizes in ((source, deep, (1, 2, 4, 8, 3)), (deep, start, shape)):
            wanted = model.tensor((len(sizes),), "int32", data=list(sizes))
            model.op("RESHAPE", [given, wanted], [made], "Reshape", newShape=list(sizes))
    model.op("MUL", [start, half], [halved], "Mul")
    sides = model.tensor((2,), "int32", data=larger[1:3])
    model.op("RESIZE_NEAREST_NEIGHBOR", [halved, sides], [result], "ResizeNearestNeighbor")
    made_in = folder / "made"
    made_in.mkdir()
    model.write(made_in / "model.bin", [source], [result])
    spec = TensorSpec(name="x", dtype="float32", layout="NHWC", shape=shape, value_range=(0, 1))
    io = {"model.bin": replace(meta.io["model.bin"], input=spec, output=replace(spec, name="y", shape=larger))}
    meta = replace(meta, tile=TILE, scale=2, overlap=2, io=io, files=fingerprint(made_in, ["model.bin"]))
    return write_artifact(folder / "artifact", meta=meta, source=made_in)


def test_the_file_is_computed_and_the_precision_is_in_the_name(tmp_path: Path, vulkan: None) -> None:
    lr = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    with closing_runner(open_runner(halving(tmp_path), runtime="webgpu")) as runner:
        assert runner.name == "webgpu (SwiftShader, fp32)"
        halves = (lr + 1) // 2  # rounded up
        assert np.array_equal(runner.run(lr), halves.repeat(2, axis=0).repeat(2, axis=1))
        with pytest.raises(ShapeError, match="expected a tile of 8x8"):
            runner.run(lr[:4])


def test_what_is_left_to_the_cpu_is_an_error_that_names_the_operator(tmp_path: Path, vulkan: None) -> None:
    with pytest.raises(RunnerError, match="RESHAPE: Tensor dimensions must be less than 5") as error:
        open_runner(halving(tmp_path, axes=5), runtime="webgpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\x00\x00\x00TFL3" + bytes(range(200))])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path, vulkan: None) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(RunnerError, match=r"^expected [^\n]*$"):
        webgpu.ask(path)


def test_without_a_vulkan_the_line_names_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "_CHROMIUM", (str(tmp_path),))
    monkeypatch.setattr(vulkan, "_LAVAPIPE", (str(tmp_path / "icd.json"),))
    artifact = halving(tmp_path)
    for runtime, script in (("webgpu", "install_browser"), ("webgpu_fp16", "install_vulkan")):
        with pytest.raises(MissingToolError, match=f"scripts/{script}.sh"):
            open_runner(artifact, runtime=runtime)


def test_float16_refuses_tiles_whose_result_never_arrives(tmp_path: Path) -> None:
    artifact = load_artifact(fake_artifact(tmp_path))
    with pytest.raises(RunnerError, match="expected a tile of at most 64x64 for lavapipe, fp16, got 128x128"):
        WebGpuHalfRunner(replace(artifact, meta=replace(artifact.meta, tile=(128, 128))))


def test_only_a_thorough_comparison_of_float_artifacts_runs_there(tmp_path: Path) -> None:
    (tmp_path / "float").mkdir()
    (tmp_path / "int8").mkdir()
    floating = load_artifact(fake_artifact(tmp_path / "float", scheme="fp32")).meta
    int8 = load_artifact(fake_artifact(tmp_path / "int8")).meta
    assert accuracy_runtimes(floating) == ("tflite",)
    assert accuracy_runtimes(floating, thorough=True) == ("tflite", "webgpu", "webgpu_fp16")
    assert accuracy_runtimes(int8, thorough=True) == ("tflite",)
    assert all(RUNTIMES[name].own_process for name in ("webgpu", "webgpu_fp16"))


def test_refusals_are_counted_by_kind_and_reason() -> None:
    log = [
        "INFO: [delegate_webgpu.cc:342] Create WebGPU environment",
        "RESHAPE: Tensor dimensions must be less than 5. block_1;1",
        "RESHAPE: Tensor dimensions must be less than 5. block_2;1",
        "TRANSPOSE: Permutation for transpose is invalid.",
        "38 operations will run on the GPU, and the remaining 358 operations will run on the CPU.",
    ]
    answer = read_log(log)
    assert (answer.whole, answer.left_out) == (False, 358)
    assert answer.refusals == (
        Refusal(kind="RESHAPE", reason="Tensor dimensions must be less than 5", count=2),
        Refusal(kind="TRANSPOSE", reason="Permutation for transpose is invalid", count=1),
    )
    assert read_log(log[:1]).whole
