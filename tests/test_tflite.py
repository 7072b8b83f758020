"""TFLite artifacts: true int8 operators, one XNNPACK partition, the network's own numbers in every interface."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from converters import to_tflite
from converters.artifact import Artifact, fingerprint, write_artifact
from converters.export import export_artifact
from converters.inspect_tflite import delegation_of, inspect_tflite
from converters.runners import open_runner
from converters.runners import stored as stored_pixels
from converters.runners.tflite_runner import TFLiteRunner
from converters.tflite_graph import only_graph, read_model, write_model
from edge_sr.errors import ArtifactError, ConfigError, ConversionError, MissingToolError, RunnerError, ShapeError
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner
from quantization.calibration import calibrate
from quantization.fake_quant import Mode
from quantization.quantizer import QuantizedNetwork, prepare

pytest.importorskip("litert_torch", reason="litert-torch is not installed")
interpreter_module = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")

TILE = (16, 24)
SCHEMES = ("fp32", "w8a8", "w8a8_mixed")
VARIANTS = ("model.tflite", "model_uint8_io.tflite", "model_float_io.tflite")


def quantized(deployed: nn.Module, scheme: str) -> QuantizedNetwork:
    network = prepare(deployed, scheme)
    generator = torch.Generator().manual_seed(1)
    calibrate(network, [torch.rand((2, 3, *TILE), generator=generator), torch.ones(1, 3, *TILE)])
    network.set_mode(Mode.QUANTIZE)
    return network


def export(network: nn.Module, scheme: str, out_dir: Path) -> Artifact:
    return export_artifact(
        network=network, scheme=scheme, target="tflite", tile=TILE, out_dir=out_dir, checkpoint_sha256="ab" * 32
    )


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    """A small mobile network, as each scheme computes it in PyTorch."""
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval()
    torch.nn.init.normal_(network.up.weight, std=0.05)
    deployed = network.deployed()
    return {"fp32": deployed, "w8a8": quantized(deployed, "w8a8"), "w8a8_mixed": quantized(deployed, "w8a8_mixed")}


@pytest.fixture(scope="session")
def artifacts(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    out_dir = tmp_path_factory.mktemp("tflite")
    return {scheme: export(networks[scheme], scheme, out_dir) for scheme in SCHEMES}


@pytest.fixture(scope="session")
def lr() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (*TILE, 3), dtype=np.uint8)


def levels_apart(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def remade(artifact: Artifact, path: Path, file: str, content: bytes) -> Artifact:
    """A valid artifact with other bytes in one of its files; no digest, which would tell before a runtime does."""
    source = path / "source"
    source.mkdir(parents=True)
    for name in artifact.meta.files:
        (source / name).write_bytes(content if name == file else (artifact.path / name).read_bytes())
    meta = replace(artifact.meta, files=fingerprint(source, artifact.meta.files), canonical_sha256=None)
    return write_artifact(path / "remade", meta=meta, source=source)


# ------------------------------------------------------------------------------------------------- the numbers
# Float sums in another order may fall on the other side of a rounding edge. In int8 a product or sum that lies exactly
# between two levels is rounded one way by PyTorch and the other way by XNNPACK, and later operators see one level more.
@pytest.mark.parametrize(("scheme", "allowed"), [("fp32", 1), ("w8a8", 2), ("w8a8_mixed", 2)])
def test_artifact_computes_what_the_network_computes(
    networks: dict[str, nn.Module], artifacts: dict[str, Artifact], lr: Any, scheme: str, allowed: int
) -> None:
    expected = TorchRunner(networks[scheme]).run(lr)
    result = open_runner(artifacts[scheme]).run(lr)
    assert result.shape == expected.shape == (4 * TILE[0], 4 * TILE[1], 3)
    assert result.dtype == np.uint8
    assert expected.std() > 10  # a flat picture would prove nothing
    assert levels_apart(result, expected) <= allowed


def test_every_interface_of_an_int8_model_gives_the_same_picture(artifacts: dict[str, Artifact], lr: Any) -> None:
    pictures = [TFLiteRunner(artifacts["w8a8"], file=file).run(lr) for file in VARIANTS]
    assert levels_apart(pictures[0], pictures[1]) == 0
    assert levels_apart(pictures[0], pictures[2]) == 0


def test_interfaces_are_what_artifact_json_says(artifacts: dict[str, Artifact]) -> None:
    io = artifacts["w8a8"].meta.io
    assert [io[file].input.dtype for file in VARIANTS] == ["int8", "uint8", "float32"]
    assert [io[file].output.dtype for file in VARIANTS] == ["int8", "uint8", "float32"]
    for file in VARIANTS:
        interpreter = interpreter_module.Interpreter(str(artifacts["w8a8"].path / file))
        for entry, spec in (
            (interpreter.get_input_details()[0], io[file].input),
            (interpreter.get_output_details()[0], io[file].output),
        ):
            assert entry["name"] == spec.name
            assert tuple(entry["shape"]) == spec.shape
            assert np.dtype(entry["dtype"]).name == spec.dtype
            if spec.qscale is not None:
                assert entry["quantization"] == (pytest.approx(1 / 255), {"int8": -128, "uint8": 0}[spec.dtype])


def test_two_threads_give_the_same_picture_as_one(artifacts: dict[str, Artifact], lr: Any) -> None:
    assert levels_apart(open_runner(artifacts["w8a8"], threads=2).run(lr), open_runner(artifacts["w8a8"]).run(lr)) == 0


def test_reference_kernels_agree_with_xnnpack(artifacts: dict[str, Artifact], lr: Any) -> None:
    # An independent implementation, for devices without XNNPACK. Its fixed-point arithmetic rounds twice, so a value in
    # some hundreds is a level off inside; a wrong scale or channel order would be off by tens on average.
    interpreter = interpreter_module.Interpreter(
        str(artifacts["w8a8"].path / "model_uint8_io.tflite"),
        experimental_op_resolver_type=interpreter_module.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], lr[np.newaxis])
    interpreter.invoke()
    picture = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    difference = np.abs(picture.astype(int) - open_runner(artifacts["w8a8"]).run(lr))
    assert difference.mean() < 0.1


# ---------------------------------------------------------------------------------------------- the arithmetic
def test_w8a8_holds_no_float_tensor(artifacts: dict[str, Artifact]) -> None:
    for file in VARIANTS[:2]:
        path = artifacts["w8a8"].path / file
        summary = inspect_tflite(path)
        assert summary.float_ops == {}
        assert summary.conversions == 0
        # The interpreter's own list agrees.
        interpreter = interpreter_module.Interpreter(
            str(path), experimental_op_resolver_type=interpreter_module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        kinds = {np.dtype(entry["dtype"]).name for entry in interpreter.get_tensor_details()}
        assert kinds <= {"int8", "uint8", "int32"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_xnnpack_takes_the_mobile_network_whole(artifacts: dict[str, Artifact], scheme: str) -> None:
    delegation = artifacts[scheme].meta.delegation
    assert (delegation.delegates, delegation.ops_outside) == (1, {})
    interpreter = interpreter_module.Interpreter(str(artifacts[scheme].path / "model.tflite"))
    interpreter.allocate_tensors()
    names = [entry["op_name"] for entry in interpreter._get_ops_details()]
    assert names.count("DELEGATE") == 1


def test_uint8_interface_costs_two_operators_outside_of_xnnpack(artifacts: dict[str, Artifact]) -> None:
    delegation = delegation_of(artifacts["w8a8"].path / "model_uint8_io.tflite")
    assert (delegation.delegates, delegation.ops_outside) == (1, {"QUANTIZE": 2})


def test_pixel_shuffle_is_one_operator(artifacts: dict[str, Artifact]) -> None:
    for scheme in SCHEMES:
        ops = inspect_tflite(artifacts[scheme].path / "model.tflite").ops
        assert ops["DEPTH_TO_SPACE"] == 1
        assert "TRANSPOSE" not in ops


def test_mixed_names_its_float_islands(artifacts: dict[str, Artifact]) -> None:
    summary = inspect_tflite(artifacts["w8a8_mixed"].path / "model.tflite")
    assert set(summary.float_ops) <= {"ADD", "MUL", "LOGISTIC", "CONCATENATION", "SLICE", "RELU"}
    assert summary.int8_ops["CONV_2D"] == inspect_tflite(artifacts["w8a8"].path / "model.tflite").ops["CONV_2D"]
    assert summary.float_islands >= 1
    (note,) = artifacts["w8a8_mixed"].meta.notes
    assert f"float islands: {summary.float_islands} " in note


def test_int8_file_is_smaller_than_the_float_file(artifacts: dict[str, Artifact]) -> None:
    # A quarter, less what biases, scales and the operators themselves take: much of so small a network.
    assert artifacts["w8a8"].meta.size_bytes < 0.75 * artifacts["fp32"].meta.size_bytes


def test_float_operators_left_by_the_toolchain_are_refused(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_tflite, "_quant_config", lambda: None)  # litert-torch then emulates int8 in float
    with pytest.raises(ConversionError, match="fell back to float"):
        export(networks["w8a8"], "w8a8", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_network_that_litert_refuses_is_one_line(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    class Refused(nn.Module):
        model_name, scale, tile_multiple, context = "refused", 4, 1, 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x  # depends on the data

    with pytest.raises(ConversionError) as caught:
        export(Refused(), "fp32", tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("litert-torch refused refused in fp32: ")


@pytest.mark.slow
def test_idsa_net_with_float_islands_stays_in_one_partition(
    tmp_path: Path, lr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYOUT_OPTIMIZE_PARTITIONER", "GREEDY")  # what litert-torch takes for the network of full depth
    torch.manual_seed(0)
    network = create_network("idsa_net", 4, blocks=1, channels=16, distilled=4, hidden=16, purified=8).eval()
    int8 = quantized(network.deployed(), "w8a8")
    artifact = export(int8, "w8a8", tmp_path)
    assert artifact.meta.delegation.delegates == 1
    assert "BATCH_MATMUL" in artifact.meta.notes[0]
    assert levels_apart(open_runner(artifact).run(lr), TorchRunner(int8).run(lr)) <= 2


# ------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("shape", [(16, 16, 3), (24, 16, 3), (16, 24), (16, 24, 4), (1, 16, 24, 3)])
def test_tile_of_another_shape_is_refused(artifacts: dict[str, Artifact], shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected a tile of \(16, 24, 3\) uint8"):
        open_runner(artifacts["w8a8"]).run(np.zeros(shape, np.uint8))


def test_tile_of_floats_is_refused(artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(ShapeError, match=r"got .* float32"):
        open_runner(artifacts["fp32"]).run(np.zeros((*TILE, 3), np.float32))  # type: ignore[arg-type]


def test_nan_in_the_weights_is_reported_and_not_drawn(artifacts: dict[str, Artifact], tmp_path: Path, lr: Any) -> None:
    model = read_model(artifacts["fp32"].main_path)
    graph = only_graph(model)
    bias = next(operator for operator in graph.operators if len(operator.inputs) == 3).inputs[2]
    buffer = model.buffers[graph.tensors[bias].buffer]
    buffer.data = np.full(len(buffer.data) // 4, np.nan, np.float32).view(np.uint8)
    write_model(model, tmp_path / "nan.tflite")
    broken = remade(artifacts["fp32"], tmp_path, "model.tflite", (tmp_path / "nan.tflite").read_bytes())
    with pytest.raises(RunnerError, match="got NaN or infinity"):
        TFLiteRunner(broken).run(lr)


@pytest.mark.parametrize("content", [b"", b"not a flatbuffer at all", b"\x1c\x00\x00\x00TFL3 cut off"])
def test_file_that_is_no_model_is_one_line(artifacts: dict[str, Artifact], tmp_path: Path, content: bytes) -> None:
    broken = remade(artifacts["w8a8"], tmp_path, "model.tflite", content)
    with pytest.raises(RunnerError, match=r"refused .*model\.tflite") as caught:
        TFLiteRunner(broken)
    assert "\n" not in str(caught.value)


def test_file_with_another_interface_than_promised_is_refused(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    other = (artifacts["w8a8"].path / "model_uint8_io.tflite").read_bytes()
    swapped = remade(artifacts["w8a8"], tmp_path, "model.tflite", other)
    with pytest.raises(RunnerError, match=r"expected input .* int8 in model\.tflite, got .* uint8"):
        TFLiteRunner(swapped)


def test_unknown_model_file_is_refused(artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(ArtifactError, match=r"got 'other\.tflite'"):
        TFLiteRunner(artifacts["w8a8"], file="other.tflite")


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_impossible_thread_count_is_refused(artifacts: dict[str, Artifact], threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads must be a whole number"):
        open_runner(artifacts["w8a8"], threads=threads)


def test_missing_runtime_names_what_to_install(artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, f"{package}.interpreter", None)
    with pytest.raises(MissingToolError, match="pip install ai-edge-litert"):
        TFLiteRunner(artifacts["w8a8"])


def test_missing_converter_names_what_to_install(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingToolError, match="pip install litert-torch"):
        export(networks["fp32"], "fp32", tmp_path)


def test_tflite_runtime_serves_where_only_that_is_installed(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch, lr: Any
) -> None:
    stand_in = ModuleType("tflite_runtime.interpreter")
    stand_in.Interpreter = interpreter_module.Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", stand_in)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    runner = TFLiteRunner(artifacts["w8a8"])
    assert runner.name.startswith("tflite-runtime")
    monkeypatch.undo()
    assert levels_apart(runner.run(lr), TFLiteRunner(artifacts["w8a8"]).run(lr)) == 0


# ---------------------------------------------------------------------------------------- conversions of pixels
def test_float_results_are_clamped_and_halves_rounded_up(artifacts: dict[str, Artifact]) -> None:
    spec = artifacts["fp32"].meta.io["model.tflite"].output
    stored = np.array([-1.0, 0.0, 0.5 / 255, 1.49 / 255, 254.5 / 255, 1.0, 7.0], np.float32)
    assert stored_pixels.from_stored(stored, spec, "model.tflite").tolist() == [0, 0, 1, 1, 255, 255, 255]


def test_int8_levels_are_pixels_minus_128(artifacts: dict[str, Artifact]) -> None:
    spec = artifacts["w8a8"].meta.io["model.tflite"].input
    pixels = np.array([0, 1, 127, 128, 255], np.uint8)
    stored = stored_pixels.to_stored(pixels, spec)
    assert stored.tolist() == [-128, -127, -1, 0, 127]
    assert stored_pixels.from_stored(stored, spec, "model.tflite").tolist() == pixels.tolist()


def test_islands_are_groups_of_float_operators_that_touch(artifacts: dict[str, Artifact]) -> None:
    whole = inspect_tflite(artifacts["fp32"].main_path)
    assert whole.float_islands == 1
    assert Counter(whole.float_ops) == Counter(whole.ops)
