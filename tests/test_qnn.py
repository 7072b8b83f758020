"""Target qnn: an ONNX file that holds the quantized graph exactly, and compiled files that Hexagon's emulator runs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import ReusedRunner
from numpy.typing import NDArray
from torch import nn

from apps.exporting import export_artifacts
from converters.ahead_of_time import compile_ahead, compiled_delegation, read_bytecode
from converters.artifact import Artifact, load_artifact, with_main_file
from converters.export import export_artifact
from converters.graphs import read_graph
from converters.isolation import Child
from converters.lowering import LoweringJob
from converters.qnn import lower as qnn_lower
from converters.qnn import toolchain
from converters.qnn.onnx_file import write_onnx
from converters.qnn.session import compile_onnx
from converters.qnn.socs import SOCS
from converters.runners import accuracy_runtimes, open_runner
from converters.self_test import check_self_test, open_checked_runner
from edge_sr.errors import (
    ArtifactError,
    ConfigError,
    ConversionError,
    MissingToolError,
    RunnerError,
    ShapeError,
)
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner
from quantization.calibration import calibrate
from quantization.fake_quant import Mode
from quantization.quantizer import QuantizedNetwork, prepare

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")
pytest.importorskip("litert_torch", reason="litert-torch is not installed")

Image = NDArray[np.uint8]
TILE = (16, 24)
STORED = {"w8a8": (np.int8, -128), "w8a16": (np.uint16, 0)}


def deployed() -> nn.Module:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval()
    torch.nn.init.normal_(network.up.weight, std=0.05)
    return network.deployed()


def quantized(scheme: str) -> QuantizedNetwork:
    network = prepare(deployed(), scheme)
    generator = torch.Generator().manual_seed(1)
    calibrate(network, [torch.rand((2, 3, *TILE), generator=generator), torch.ones(1, 3, *TILE)])
    network.set_mode(Mode.QUANTIZE)
    return network


def export(network: nn.Module, scheme: str, out_dir: Path, *socs: str) -> Artifact:
    return export_artifact(
        network=network,
        scheme=scheme,
        target="qnn",
        tile=TILE,
        out_dir=out_dir,
        checkpoint_sha256="ab" * 32,
        socs=socs,
    )


def job(network: nn.Module, scheme: str, work_dir: Path, *socs: str) -> LoweringJob:
    return LoweringJob(
        network=network, scheme=scheme, model="idsa_net_mobile", scale=4, tile=TILE, work_dir=work_dir, socs=socs
    )


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    return {"fp16": deployed(), "w8a8": quantized("w8a8"), "w8a16": quantized("w8a16")}


@pytest.fixture(scope="session")
def lr() -> Image:
    return np.random.default_rng(0).integers(0, 256, (*TILE, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def onnx_files(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``model.onnx`` of each scheme, without anything compiled."""
    folder = tmp_path_factory.mktemp("onnx")
    files = {}
    for scheme, network in networks.items():
        files[scheme] = folder / f"{scheme}.onnx"
        write_onnx(job(network, scheme, files[scheme].parent), files[scheme])
    return files


@pytest.fixture(scope="session")
def artifact(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """In w8a8, for one Snapdragon of either arithmetic."""
    return export(networks["w8a8"], "w8a8", tmp_path_factory.mktemp("qnn"), "SM8750", "SM8350")


@pytest.fixture(scope="session")
def child() -> Iterator[Child]:
    """One process in which emulators are opened: each new one takes seconds."""
    with Child(what="a test", environment=toolchain.emulator_environment()) as running:
        yield running


Run = Callable[..., Image]


@pytest.fixture(scope="session")
def run(child: Child) -> Run:
    """What a file of an artifact makes of a tile."""

    def run_file(artifact: Artifact, lr: Image, *, file: str, runtime: str) -> Image:
        return ReusedRunner(with_main_file(artifact, file), child, runtime).run(lr)

    return run_file


def levels_apart(one: Image, other: Image) -> NDArray[np.int64]:
    return np.abs(one.astype(np.int64) - other)


def one_line(error: BaseException) -> bool:
    return "\n" not in str(error)


# ------------------------------------------------------------------------------------------------------- the ONNX file
@pytest.mark.parametrize("scheme", ["w8a8", "w8a16"])
def test_pictures_go_in_and_out_as_stored_whole_numbers(onnx_files: dict[str, Path], scheme: str) -> None:
    graph = onnx.load(onnx_files[scheme]).graph
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(STORED[scheme][0]))
    ends = [
        (end.name, end.type.tensor_type.elem_type, tuple(size.dim_value for size in end.type.tensor_type.shape.dim))
        for end in (*graph.input, *graph.output)
    ]
    assert ends == [("input", dtype, (1, 16, 24, 3)), ("output", dtype, (1, 64, 96, 3))]


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16"])
def test_every_bias_is_int32_in_units_of_input_scale_times_weight_scale(
    onnx_files: dict[str, Path], networks: dict[str, nn.Module], scheme: str
) -> None:
    graph = onnx.load(onnx_files[scheme]).graph
    arrays = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(isinstance(module, nn.Conv2d) for module in deployed().modules())
    with_bias = [node for node in convolutions if len(node.input) == 3]
    assert len(with_bias) > len(convolutions) / 2
    for node in with_bias:
        picture, weight, bias = (makers[name] for name in node.input)
        assert [maker.op_type for maker in (picture, weight, bias)] == 3 * ["DequantizeLinear"]
        values, scale, zero_point = (arrays[name] for name in bias.input)
        assert values.dtype == zero_point.dtype == np.int32
        assert not zero_point.any()
        product = arrays[picture.input[1]].astype(np.float64) * arrays[weight.input[1]]
        np.testing.assert_allclose(scale, product, rtol=1e-6)
        assert arrays[weight.input[0]].dtype == np.int8


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16"])
def test_nothing_is_stored_in_float_but_scales_and_nothing_is_unused(onnx_files: dict[str, Path], scheme: str) -> None:
    model = onnx.load(onnx_files[scheme])
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    scales = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    read = {name for node in graph.node for name in node.input}
    for entry in graph.initializer:
        assert entry.name in read
        assert entry.data_type != onnx.TensorProto.FLOAT or entry.name in scales, entry.name
    assert "".join(node.domain for node in graph.node) == "", "operators of ONNX itself only"


def test_a_float_network_keeps_float_pictures(onnx_files: dict[str, Path]) -> None:
    graph = onnx.load(onnx_files["fp16"]).graph
    kinds = {end.type.tensor_type.elem_type for end in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert not [node for node in graph.node if "quantize" in node.op_type.lower()]


def evaluate(path: Path, picture: NDArray[Any]) -> NDArray[Any]:
    """ONNX Runtime's CPU, every operator for itself: optimized, it replaces pieces by kernels that saturate."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"input": picture})
    return np.asarray(result)


def test_the_file_computes_what_the_quantized_network_computes(
    onnx_files: dict[str, Path], networks: dict[str, nn.Module], lr: Image
) -> None:
    expected = TorchRunner(networks["w8a8"]).run(lr)
    result = evaluate(onnx_files["w8a8"], (lr.astype(np.int16) - 128).astype(np.int8)[None])
    assert expected.std() > 10, "a flat picture would prove nothing"
    apart = levels_apart((result[0].astype(np.int16) + 128).astype(np.uint8), expected)
    # Float sums in another order may fall on the other side of a rounding edge, and later operators see one level more.
    assert apart.max() <= 1
    assert apart.mean() < 0.01


def test_the_16_bit_file_computes_what_the_quantized_network_computes(
    onnx_files: dict[str, Path], networks: dict[str, nn.Module], lr: Image
) -> None:
    with torch.no_grad():
        expected = networks["w8a16"](torch.from_numpy(lr.transpose(2, 0, 1)[None] / np.float32(255)))[0]
    steps = expected.permute(1, 2, 0).double().numpy() * 65535
    result = evaluate(onnx_files["w8a16"], lr[None].astype(np.uint16) * np.uint16(257))[0]
    assert np.abs(result.astype(np.float64) - steps).max() <= 8  # a few of its own steps, of which 257 are a level


@pytest.mark.parametrize("scheme", ["fp16", "w8a8", "w8a16"])
def test_writing_twice_gives_the_same_bytes(
    onnx_files: dict[str, Path], networks: dict[str, nn.Module], tmp_path: Path, scheme: str
) -> None:
    write_onnx(job(networks[scheme], scheme, tmp_path), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == onnx_files[scheme].read_bytes()


@pytest.mark.parametrize("scheme", ["fp16", "w8a8", "w8a16"])
def test_the_file_tells_nothing_of_the_machine_that_made_it(onnx_files: dict[str, Path], scheme: str) -> None:
    content = onnx_files[scheme].read_bytes()
    for trace in (str(Path(qnn_lower.__file__).parents[2]), "site-packages", ".py", "stack_trace"):
        assert trace.encode() not in content


def test_the_reader_finds_what_onnx_finds(onnx_files: dict[str, Path]) -> None:
    graph, proto = read_graph(onnx_files["w8a8"], "qnn"), onnx.load(onnx_files["w8a8"]).graph
    constants = {entry.name for entry in proto.initializer}
    stored = [node for node in proto.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    assert [node.kind for node in graph.nodes] == [node.op_type for node in proto.node if node not in stored]
    assert sum(value.quantization is not None for value in graph.values) == len(stored) > 0
    assert [graph.values[index].name for index in (*graph.inputs, *graph.outputs)] == ["input", "output"]


class Refused(nn.Module):
    model_name, scale, tile_multiple, context = "refused", 4, 1, 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x  # depends on the data


def test_a_network_that_the_exporter_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"expected ONNX to take idsa_net_mobile in fp16, got ") as caught:
        write_onnx(job(Refused(), "fp16", tmp_path), tmp_path / "x.onnx")
    assert one_line(caught.value)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- artifacts
def test_an_artifact_says_what_it_was_compiled_for(artifact: Artifact) -> None:
    meta = load_artifact(artifact.path).meta
    assert meta.main_file == "model.onnx"
    assert meta.compiled is not None
    found = {name: (entry.soc, entry.architecture) for name, entry in meta.compiled.items()}
    assert found == {"model_SM8750.tflite": ("SM8750", "v79"), "model_SM8350.tflite": ("SM8350", "v68")}
    assert set(meta.io) == set(meta.files) == {"model.onnx", *found}
    for name in found:
        delegation = compiled_delegation(artifact.path / name)
        assert (delegation.delegates, delegation.ops_outside) == (1, {})
        assert meta.compiled[name].delegation == delegation
    assert meta.canonical_sha256 is not None
    assert meta.self_test is not None
    assert meta.self_test.runtime.startswith("hexagon v73, emulated (QNN ")
    assert "qnn" in meta.tool_versions


def test_accuracy_is_measured_in_each_kind_of_arithmetic_compiled_for(artifact: Artifact) -> None:
    assert accuracy_runtimes(artifact.meta) == ("hexagon_v73", "hexagon_v68")
    assert artifact.meta.compiled is not None
    old = {name: entry for name, entry in artifact.meta.compiled.items() if entry.soc == "SM8350"}
    assert accuracy_runtimes(replace(artifact.meta, compiled=old)) == ("hexagon_v68",)
    assert accuracy_runtimes(replace(artifact.meta, compiled=old), thorough=True) == ("hexagon_v68", "hexagon_v73")


@pytest.mark.parametrize(("runtime", "soc"), [("hexagon_v73", "SM8750"), ("hexagon_v68", "SM8350")])
def test_a_compiled_file_gives_the_very_bytes_of_the_onnx_file(
    artifact: Artifact, lr: Image, run: Run, runtime: str, soc: str
) -> None:
    compiled = run(artifact, lr, file=f"model_{soc}.tflite", runtime=runtime)
    np.testing.assert_array_equal(compiled, run(artifact, lr, file="model.onnx", runtime=runtime))
    np.testing.assert_array_equal(compiled, run(artifact, lr, file=f"model_{soc}.tflite", runtime=runtime))
    assert compiled.std() > 10


def test_the_two_kinds_of_hexagon_round_otherwise(artifact: Artifact, lr: Image, run: Run) -> None:
    new, old = (run(artifact, lr, file="model.onnx", runtime=f"hexagon_{kind}") for kind in ("v73", "v68"))
    apart = levels_apart(new, old)
    assert 0 < apart.max() <= 10


@pytest.mark.parametrize("runtime", ["hexagon_v73", "hexagon_v68"])
def test_the_emulator_stays_near_the_quantized_network(
    artifact: Artifact, networks: dict[str, nn.Module], lr: Image, run: Run, runtime: str
) -> None:
    apart = levels_apart(run(artifact, lr, file="model.onnx", runtime=runtime), TorchRunner(networks["w8a8"]).run(lr))
    assert np.mean(apart == 0) >= 0.55
    assert np.mean(apart <= 1) >= 0.90  # noise is the hardest tile; a trained network on a photo is held to more below
    assert apart.max() <= 10


def test_the_self_test_is_passed_to_the_bit(artifact: Artifact, child: Child) -> None:
    runner = ReusedRunner(with_main_file(artifact, "model_SM8750.tflite"), child, "hexagon_v73")
    result = check_self_test(runner, artifact)
    assert result.recorded_by == result.runtime == runner.name
    assert (result.max_levels, result.mean_levels) == (0, 0.0)


def test_each_kind_of_hexagon_has_its_own_record(artifact: Artifact) -> None:
    record = artifact.meta.self_test
    assert record is not None
    (other,) = record.others
    assert other.startswith("hexagon v68, emulated (QNN ")
    runner = open_checked_runner(artifact, runtime="hexagon_v68")
    runner.close()  # type: ignore[attr-defined]
    altered = bytearray(record.of(other).samples)
    altered[len(altered) // 2] ^= 1
    wrong = replace(record, others={other: base64.b64encode(altered).decode()})
    with pytest.raises(RunnerError, match=r"model_SM8350\.tflite to give the picture .* 1 at most"):
        open_checked_runner(replace(artifact, meta=replace(artifact.meta, self_test=wrong)), runtime="hexagon_v68")
    # the record of another version of the libraries is still that of its own kind, and no longer exact
    renamed = {other.replace("QNN 2.", "QNN 1."): record.others[other]}
    older = replace(artifact, meta=replace(artifact.meta, self_test=replace(record, others=renamed)))
    runner = open_runner(artifact, runtime="hexagon_v68")
    assert check_self_test(runner, older).recorded_by == next(iter(renamed))
    runner.close()  # type: ignore[attr-defined]
    # an artifact for one kind only, asked for the other: near is all that can be asked
    alone = replace(artifact.meta, self_test=replace(record, others={}))
    runner = open_checked_runner(replace(artifact, meta=alone), runtime="hexagon_v68")
    runner.close()  # type: ignore[attr-defined]


def test_a_network_that_clips_between_grids_and_computes_in_float_goes_to_the_npu_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sides = {"blocks": 1, "channels": 8, "distilled": 4, "hidden": 8, "attention_dim": 8}
    floating = create_network("idsa_net", 4, **sides).eval().deployed()  # type: ignore[arg-type, operator]
    for parameter in floating.parameters():
        parameter.data *= 2  # so that clippings clip
    network = prepare(floating, "w8a8")
    calibrate(network, [torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1))])
    network.set_mode(Mode.QUANTIZE)
    made = export_artifact(
        network=network,
        scheme="w8a8",
        target="qnn",
        tile=(16, 16),
        out_dir=tmp_path,
        checkpoint_sha256="ab" * 32,
        socs=("SM8750", "SM8350"),
    )
    kinds = [node.op_type for node in onnx.load(made.path / "model.onnx").graph.node]
    assert "Clip" in kinds
    assert "Softmax" in kinds
    tile = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for runtime in ("hexagon_v73", "hexagon_v68"):
        whole = open_runner(made, file="model.onnx", runtime=runtime)
        assert whole.run(tile).std() > 1
        whole.close()  # type: ignore[attr-defined]
        checked = open_checked_runner(made, runtime=runtime)
        checked.close()  # type: ignore[attr-defined]


def test_a_main_file_that_the_npu_does_not_take_whole_is_an_error_of_export(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(artifact: Artifact, *, runtime: str, file: str | None = None) -> Any:
        if file == "model.onnx":
            raise RunnerError("expected Hexagon's emulator to load model.onnx, got nodes left to the CPU")
        return open_runner(artifact, runtime=runtime, file=file)

    monkeypatch.setattr("converters.self_test.open_runner", opening)
    with pytest.raises(ConversionError, match=r"expected the exported file to run, got: .* nodes left to the CPU"):
        export(networks["w8a8"], "w8a8", tmp_path, "SM8750")
    assert not list(tmp_path.iterdir())


def test_opening_and_running_prints_nothing_here(
    artifact: Artifact, lr: Image, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = open_runner(artifact)
    assert runner.run(lr).shape == (64, 96, 3)
    with pytest.raises(ShapeError, match="expected"):
        runner.run(lr[:8])
    runner.close()  # type: ignore[attr-defined]
    assert capfd.readouterr() == ("", "")


def test_a_file_for_the_other_kind_is_refused(artifact: Artifact, child: Child) -> None:
    for file, runtime in (("model_SM8350.tflite", "hexagon_v73"), ("model_SM8750.tflite", "hexagon_v68")):
        with pytest.raises(RunnerError, match=r"expected a file for Hexagon v\d\d, got model_SM\d+\.tflite") as caught:
            ReusedRunner(with_main_file(artifact, file), child, runtime)
        assert one_line(caught.value)


def test_a_chip_that_cannot_do_the_scheme_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has fp16, got SM8350 \(Hexagon v68\); leave it out, or export w8a8$"):
        export_artifacts(schemes=("fp16",), targets=("qnn",), socs=("SM8750", "SM8350"), out_dir=tmp_path)
    with pytest.raises(ConfigError, match="SM9999"):
        export_artifacts(targets=("qnn",), socs=("SM9999",), out_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_targets_runtime_and_an_unknown_file_are_refused(artifact: Artifact) -> None:
    with pytest.raises(ConfigError, match="runtime for qnn must be one of hexagon_v73, hexagon_v68, got 'tflite'"):
        open_runner(artifact, runtime="tflite")
    with pytest.raises(ArtifactError, match=r"got 'model_SM8850\.tflite'"):
        open_runner(artifact, file="model_SM8850.tflite")


def test_compiling_twice_gives_the_same_bytes(
    networks: dict[str, nn.Module], artifact: Artifact, tmp_path: Path
) -> None:
    again = qnn_lower.lower(job(networks["w8a8"], "w8a8", tmp_path, "SM8750", "SM8350"))
    for name in again.files:
        assert (tmp_path / name).read_bytes() == (artifact.path / name).read_bytes(), name


def test_the_bytecode_is_read_as_litert_wrote_it(artifact: Artifact) -> None:
    path = artifact.path / "model_SM8750.tflite"
    bytecode = read_bytecode(path)
    assert bytecode.data in path.read_bytes()
    assert len(bytecode.data) > 10_000
    (tflite,) = [name for name in artifact.meta.files if name == "model_SM8350.tflite"]
    assert read_bytecode(artifact.path / tflite).data != bytecode.data


# ------------------------------------------------------------------------------------------------ other schemes, slowly
@pytest.mark.slow
def test_fp16_is_the_float_network_to_two_levels(
    networks: dict[str, nn.Module], lr: Image, run: Run, tmp_path: Path
) -> None:
    made = export(networks["fp16"], "fp16", tmp_path, "SM8750", "SM8450")
    assert list(made.meta.compiled or {}) == ["model_SM8750.tflite", "model_SM8450.tflite"]
    expected = TorchRunner(networks["fp16"]).run(lr)
    for file, runtime in (
        ("model.onnx", "hexagon_v73"),
        ("model_SM8750.tflite", "hexagon_v73"),
        ("model.onnx", "hexagon_v68"),
        ("model_SM8450.tflite", "hexagon_v68"),
    ):
        assert levels_apart(run(made, lr, file=file, runtime=runtime), expected).max() <= 2, (file, runtime)


@pytest.mark.slow
def test_w8a16_comes_closer_to_the_float_network_than_w8a8(
    networks: dict[str, nn.Module], artifact: Artifact, lr: Image, run: Run, tmp_path: Path
) -> None:
    made = export(networks["w8a16"], "w8a16", tmp_path, "SM8750", "SM8350")
    assert list(made.meta.compiled or {}) == ["model_SM8750.onnx", "model_SM8350.onnx"]
    assert {entry.delegation.delegates for entry in (made.meta.compiled or {}).values()} == {1}
    assert [entry.delegation.ops_outside for entry in (made.meta.compiled or {}).values()] == [{}, {}]
    truth, rounded = TorchRunner(networks["fp16"]).run(lr), TorchRunner(networks["w8a16"]).run(lr)
    for soc, runtime in (("SM8750", "hexagon_v73"), ("SM8350", "hexagon_v68")):
        result = run(made, lr, file=f"model_{soc}.onnx", runtime=runtime)
        np.testing.assert_array_equal(result, run(made, lr, file="model.onnx", runtime=runtime))
        assert levels_apart(result, rounded).max() <= 1
        coarse = run(artifact, lr, file="model.onnx", runtime=runtime)
        assert levels_apart(result, truth).mean() < levels_apart(coarse, truth).mean()


def photo_tile(height: int, width: int) -> Image:
    from edge_sr.datasets import load_image_sets

    (samples,) = load_image_sets(None, None, 4)
    lr = next(iter(samples)).lr
    top, left = (lr.shape[0] - height) // 2, (lr.shape[1] - width) // 2
    return np.ascontiguousarray(lr[top : top + height, left : left + width])


@pytest.fixture(scope="session")
def trained() -> QuantizedNetwork:
    from edge_sr.checkpoints import bundled_checkpoint
    from quantization.state import load_quantized

    return load_quantized(bundled_checkpoint("idsa_net_mobile", 4, "w8a8")).qnet


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["hexagon_v73", "hexagon_v68"])
def test_a_photo_through_the_bundled_network_stays_within_the_rounding_of_hexagon(
    trained: QuantizedNetwork, run: Run, tmp_path: Path, runtime: str
) -> None:
    made = export_artifact(
        network=trained, scheme="w8a8", target="qnn", tile=(64, 64), out_dir=tmp_path, checkpoint_sha256="ab" * 32
    )
    lr = photo_tile(64, 64)
    expected = TorchRunner(trained).run(lr)
    assert expected.std() > 20
    apart = levels_apart(run(made, lr, file="model.onnx", runtime=runtime), expected)
    assert np.mean(apart == 0) >= 0.55
    assert np.mean(apart <= 1) >= 0.95
    assert apart.max() <= 10


@pytest.mark.slow
def test_every_snapdragon_takes_the_bundled_network_whole(trained: QuantizedNetwork, tmp_path: Path) -> None:
    lowered = qnn_lower.lower(replace(job(trained, "w8a8", tmp_path, *SOCS), tile=(32, 32)))
    compiled = lowered.compiled or {}
    assert [entry.soc for entry in compiled.values()] == list(SOCS)
    for entry in compiled.values():
        assert (entry.delegation.delegates, entry.delegation.ops_outside) == (1, {}), entry.soc


def test_the_table_of_snapdragons_is_that_of_litert() -> None:
    from ai_edge_litert.aot.vendors.qualcomm import target

    assert set(SOCS) == {soc.value for soc in target.SocModel} - {"ALL"}
    assert len({(soc.soc_model) for soc in SOCS.values()}) == len(SOCS)


# ------------------------------------------------------------------------------------------------------------ refusals
def test_what_a_snapdragon_cannot_do_is_refused_before_anything_is_made(
    networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"expected an NPU that has fp16, got SM8350 \(Hexagon v68\)") as caught:
        export(networks["fp16"], "fp16", tmp_path, "SM8750", "SM8350")
    assert one_line(caught.value)
    with pytest.raises(ConfigError, match=r"SoC of Qualcomm must be one of SM8350, .*, got 'SM9999'") as unknown:
        export(networks["w8a8"], "w8a8", tmp_path, "SM9999")
    assert one_line(unknown.value)
    assert list(tmp_path.iterdir()) == []


def test_a_float_network_is_not_lowered_as_a_quantized_one(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="expected a QuantizedNetwork, got "):
        qnn_lower.lower(job(networks["fp16"], "w8a8", tmp_path))


def test_a_missing_package_is_named_with_what_installs_it(
    artifact: Artifact, networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = toolchain.find_spec
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None if name.startswith("onnxruntime_qnn") else real(name))
    wanted = r"got no onnxruntime-qnn; pip install 'edge-sr\[qnn\]'"
    with pytest.raises(MissingToolError, match=wanted):
        open_runner(artifact)
    with pytest.raises(MissingToolError, match=wanted):
        export(networks["w8a8"], "w8a8", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_metadata_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "onnxscript":
            raise toolchain.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(toolchain.metadata, "version", version)
    with pytest.raises(MissingToolError, match=r"got no onnxscript; pip install 'edge-sr\[qnn\]'"):
        toolchain.tool_versions()


def test_a_file_that_the_compiler_refuses_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3 and no more")
    with toolchain.compiler_libraries() as libraries, pytest.raises(ConversionError) as caught:
        compile_ahead(
            tmp_path / "broken.tflite", tmp_path / "out.tflite", vendor="qualcomm", soc="SM8750", libraries=libraries
        )
    assert str(caught.value).startswith("expected qualcomm's compiler to take the network for SM8750, got ")
    assert one_line(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_vendor_without_its_libraries_is_one_line(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises((ConversionError, MissingToolError)) as caught:
        compile_ahead(artifact.path / "model_SM8750.tflite", tmp_path / "out.tflite", vendor="mediatek", soc="MT6989")
    assert one_line(caught.value)


def test_onnx_that_qnn_cannot_compile_is_one_line(child: Child, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    arguments = {"source": str(tmp_path / "broken.onnx"), "destination": str(tmp_path / "out.onnx"), "soc": "SM8750"}
    function = f"{compile_onnx.__module__}:{compile_onnx.__name__}"
    with pytest.raises(RunnerError, match=r"expected QNN to compile .* for SM8750, got ") as caught:
        child.ask({"do": "call", "function": function, "arguments": arguments}, timeout_s=60)
    assert one_line(caught.value)
    assert not (tmp_path / "out.onnx").exists()
