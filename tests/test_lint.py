"""Lint: readers agree on the arithmetic, backends are asked, rules find what was put there and have a source."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tflite import TinyModel
from torch import nn

from apps.cli import main
from apps.lint import backends, neural_engine, placement
from apps.lint.engine import (
    ACCELERATORS,
    ASKED,
    OFF,
    ON,
    UNKNOWN,
    UNSURE,
    Forecast,
    LintReport,
    asked,
    forecast,
    lint_artifacts,
)
from apps.lint.graph import Graph, Op, Tensor
from apps.lint.lint_view import STATE_COLOURS, strip_chart
from apps.lint.partitions import partition
from apps.lint.reader import read_operators
from apps.lint.rules import CONFIDENCES, ERROR, FOLKLORE, SEVERITIES, SOURCES, Rule
from converters import vulkan, webgpu
from converters.artifact import Artifact, fingerprint, load_artifact, write_artifact
from converters.export import export_artifact
from converters.graphs import file_canonical_sha256
from edge_sr.errors import ArtifactError, ConfigError, RunnerError
from edge_sr.networks import create_network
from edge_sr.quiet import quiet_native
from fakes import fake_artifact
from quantization.calibration import calibrate
from quantization.fake_quant import Mode
from quantization.quantizer import prepare

pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")

TILE = (16, 24)
MODULES = (neural_engine, backends, placement)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval().deployed()


def export(scheme: str, target: str, out_dir: Path) -> Artifact:
    network: nn.Module = small_network()
    if scheme == "w8a8":
        quantized = prepare(network, scheme)
        calibrate(quantized, [torch.rand(2, 3, *TILE)])
        quantized.set_mode(Mode.QUANTIZE)
        network = quantized
    return export_artifact(
        network=network, scheme=scheme, target=target, tile=TILE, out_dir=out_dir, checkpoint_sha256="ab" * 32
    )


def convolution_macs() -> int:
    """Multiply-accumulates of the network by PyTorch's own shapes: output elements times weights per output channel."""
    total = 0

    def count(module: nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    network = small_network()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, *TILE))
    return total


@pytest.fixture(scope="module")
def executorch(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("executorch", reason="executorch is not installed")
    return export("w8a8", "executorch", tmp_path_factory.mktemp("executorch"))


@pytest.fixture(scope="module")
def coreml(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    return export("w8a8", "coreml", tmp_path_factory.mktemp("coreml"))


def tflite_artifact(folder: Path, model: TinyModel, inputs: list[int], outputs: list[int]) -> Path:
    """An artifact around a hand-made model: the fake's description, a real file."""
    described = load_artifact(fake_artifact(folder)).meta
    source = folder / "made"
    source.mkdir()
    model.write(source / "model.bin", inputs, outputs)
    meta = replace(described, files=fingerprint(source, ["model.bin"]))
    return write_artifact(folder / "artifact", meta=meta, source=source).path


def rules_of(row: Forecast) -> set[str]:
    return {finding.rule.id for finding in row.findings}


# ------------------------------------------------------------------------------------------------------ real artifacts
def test_executorch_program_is_read_operator_by_operator(executorch: Artifact) -> None:
    graph = read_operators(executorch.main_path, "executorch")
    assert graph.macs == convolution_macs()
    assert graph.delegates == executorch.meta.delegation.delegates == 1
    assert [tensor.shape for tensor in (*graph.inputs, *graph.outputs)] == [(1, 3, 16, 24), (1, 3, 64, 96)]


def test_executorch_float_islands_are_found(executorch: Artifact) -> None:
    # The program's only float operators between int8 ones: sigmoids (XNNPACK has none in int8 as ExecuTorch calls it)
    # and the pixel shuffle at the end.
    (row,) = lint_artifacts([executorch.path]).forecasts
    islands = [finding for finding in row.findings if finding.rule.id == "float-island"]
    assert any("XNNSigmoid" in finding.detail for finding in islands)
    assert (row.count(ON), row.count(OFF), row.macs_share, row.partitions) == (len(row.ops), 0, 1.0, 1)


def test_core_ml_package_is_read_operation_by_operation(coreml: Artifact) -> None:
    (row,) = lint_artifacts([coreml.path]).forecasts
    assert row.macs == convolution_macs()
    # One convolution is dilated, which is said to fall back: doubtful, not certain.
    doubtful = [op for op in row.ops if op.state == UNSURE]
    assert [op.kind for op in doubtful] == ["conv"]
    assert row.macs_share == pytest.approx(1 - doubtful[0].macs / row.macs)
    assert {"ane-int8-activations", "ane-known-bad", "ane-float32-interface"} <= rules_of(row)
    assert row.worst() == "warning"


def test_work_of_core_ml_operations_is_that_of_their_definition(tmp_path: Path) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed")
    from coreml_programs import builder, save_program

    mb = builder()

    def build(y: Any, x: Any, picture: Any) -> Any:
        product = mb.matmul(x=x, y=y)
        dense = mb.linear(x=product, weight=np.ones((3, 4), np.float32))
        grouped = mb.conv(x=picture, weight=np.ones((8, 2, 3, 3), np.float32), groups=2, pad_type="same")
        spread = mb.conv_transpose(x=grouped, weight=np.ones((8, 3, 2, 2), np.float32), groups=2, strides=[2, 2])
        return dense, spread

    shapes = {"y": (2, 16, 4), "x": (2, 8, 16), "picture": (1, 4, 5, 5)}
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    graph = read_operators(save_program(tmp_path / "m.mlpackage", build, values), "coreml")
    assert {op.kind: (op.macs, op.taps) for op in graph.ops if op.macs} == {
        "matmul": (2 * 8 * 16 * 4, 0),
        "linear": (2 * 8 * 4 * 3, 0),
        # 8 channels of 5x5, each from 3x3 of 2 channels.
        "conv": (8 * 25 * 9 * 2, 9),
        # Each of the 8 channels of 5x5 goes into 2x2 of the 3 channels of its group.
        "conv_transpose": (8 * 25 * 4 * 3, 4),
    }


def test_program_in_pieces_is_read_through(tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Upsample(scale_factor=2),  # XNNPACK has none of nearest neighbours
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
    ).eval()
    exported = torch.export.export(network, (torch.zeros(1, 3, 8, 8),))
    with quiet_native():
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path = tmp_path / "model.pte"
    path.write_bytes(program.buffer)
    graph = read_operators(path, "executorch")
    assert graph.delegates == 2
    assert [op.index for op in graph.ops] == list(range(len(graph.ops)))
    outside = [op for op in graph.ops if not op.settled]
    assert [(op.kind, op.inputs[0].shape, op.output.shape) for op in outside if op.inputs[0] is not None] == [
        ("aten::upsample_nearest2d.vec_out", (1, 4, 8, 8), (1, 4, 16, 16))
    ]
    assert [(op.kind, op.macs, op.taps) for op in graph.ops if op.macs] == [
        ("XNNConv2d", 4 * 64 * 9 * 3, 9),
        # Each of the 4 channels of 16x16 goes into 2x2 of the 3 channels of its group.
        ("XNNConvTranspose2d", 4 * 256 * 4 * 3, 4),
    ]
    described = load_artifact(fake_artifact(tmp_path, target="executorch"))
    row = asked(described, graph, backends.XNNPACK)
    assert (row.partitions, row.count(OFF), rules_of(row)) == (2, 1, {"outside", "transpose"})
    assert [op.kind for op in row.ops if op.state == OFF] == ["aten::upsample_nearest2d.vec_out"]
    # What the reader of whole graphs does not look into has no canonical hash.
    assert file_canonical_sha256(path, "executorch") is None


def test_damaged_executorch_program_is_one_error(executorch: Artifact, tmp_path: Path) -> None:
    data = (executorch.path / executorch.meta.main_file).read_bytes()
    for content in (b"", b"not a program", data[:200], data[:4] + b"XXXX" + data[8:]):
        (tmp_path / "model.pte").write_bytes(content)
        with pytest.raises(ArtifactError):
            read_operators(tmp_path / "model.pte", "executorch")


def test_a_delegate_whose_weights_are_cut_is_one_error(executorch: Artifact, tmp_path: Path) -> None:
    # The last bytes of a program are those of a constant.
    data = executorch.main_path.read_bytes()
    for missing in (1, 64, len(data) // 2):
        (tmp_path / "model.pte").write_bytes(data[:-missing])
        with pytest.raises(ArtifactError):
            read_operators(tmp_path / "model.pte", "executorch")


# ------------------------------------------------------------------------------------------------ hand-made models
def float_island(folder: Path) -> Path:
    """Int8 convolution-like add, dequantize, float GELU and SOFTMAX, quantize, add: one island with two conversions."""
    model = TinyModel()
    shape = (1, 8, 8, 6)
    start = model.tensor(shape, "int8", name="start")
    first, last, result = (model.tensor(shape, "int8") for _ in range(3))
    floats = [model.tensor(shape) for _ in range(3)]
    model.op("ADD", [start, start], [first], "Add", version=2)
    model.op("DEQUANTIZE", [first], [floats[0]], version=2)
    model.op("GELU", [floats[0]], [floats[1]], "Gelu")
    model.op("SOFTMAX", [floats[1]], [floats[2]], "Softmax", beta=1.0)
    model.op("QUANTIZE", [floats[2]], [last], version=1)
    model.op("ADD", [last, start], [result], "Add", version=2)
    return tflite_artifact(folder, model, [start], [result])


def test_float_island_names_operators_neighbours_and_cost(tmp_path: Path) -> None:
    (row,) = lint_artifacts([float_island(tmp_path)], accelerators=["xnnpack"]).forecasts
    (island,) = [finding for finding in row.findings if finding.rule.id == "float-island"]
    assert [place.kind for place in island.places] == ["GELU", "SOFTMAX"]
    # 8 * 8 * 6 = 384 elements at either border.
    assert island.detail == "GELU, SOFTMAX in float between 2 ADD: 2 conversions of 768 elements"
    assert row.count(OFF) == 0


def int8_attention(folder: Path) -> Path:
    """Int8 attention, spelled as a post-training quantizer spells it: four kinds that XNNPACK leaves in int8."""
    model = TinyModel()
    words = [model.tensor((2, 8, 8), "int8") for _ in range(2)]
    scores = model.tensor((2, 8, 8), "int8")
    model.op("BATCH_MATMUL", [words[0], words[1]], [scores], "BatchMatMul", version=2)
    shares = model.tensor((2, 8, 8), "int8", scale=1 / 256, zero_point=-128)
    model.op("SOFTMAX", [scores], [shares], "Softmax", version=2, beta=1.0)
    # The second operand of this product has a zero point: not taken.
    mixed = model.tensor((2, 8, 8), "int8")
    model.op("BATCH_MATMUL", [words[0], shares], [mixed], "BatchMatMul", version=2)
    bent = model.tensor((2, 8, 8), "int8")
    model.op("GELU", [mixed], [bent], "Gelu", version=2)
    summed = model.tensor((2, 8, 8), "int8")
    model.op("ADD", [bent, words[1]], [summed], "Add", version=2)
    root = model.tensor((2, 8, 8), "int8")
    model.op("RSQRT", [summed], [root], version=2)
    last = model.tensor((2, 8, 8), "int8")
    model.op("MUL", [root, summed], [last], "Mul", version=2)
    return tflite_artifact(folder, model, words, [last])


def test_xnnpack_is_asked_what_it_leaves_of_int8_attention(tmp_path: Path) -> None:
    (row,) = lint_artifacts([int8_attention(tmp_path)], accelerators=["xnnpack"]).forecasts
    assert (row.label, row.count(ON), row.count(OFF), row.partitions) == (ASKED, 3, 4, 3)
    details = {finding.detail for finding in row.findings if finding.rule.id == "outside"}
    assert details == {"1 SOFTMAX", "1 BATCH_MATMUL", "1 GELU", "1 RSQRT"}
    # Which of the two products stays is not said, so neither is claimed, and no share of the arithmetic.
    assert [op.state for op in row.ops if op.kind == "BATCH_MATMUL"] == [UNSURE, UNSURE]
    assert [op.kind for op in row.ops if op.state == OFF] == ["SOFTMAX", "GELU", "RSQRT"]
    assert row.macs_share is None


def five_axes(folder: Path) -> Path:
    model = TinyModel()
    tensors = [model.tensor((1, 4, 4, 4)), model.tensor((1, 2, 2, 4, 4)), model.tensor((1, 2, 2, 4, 4))]
    model.op("ABS", tensors[:1], [first := model.tensor((1, 4, 4, 4))])
    shape = model.tensor((5,), "int32", data=[1, 2, 2, 4, 4])
    model.op("RESHAPE", [first, shape], [tensors[1]], "Reshape", newShape=[1, 2, 2, 4, 4])
    model.op("ABS", [tensors[1]], [tensors[2]])
    return tflite_artifact(folder, model, tensors[:1], tensors[2:])


def test_the_gpu_accelerator_is_asked_and_names_the_operator_with_five_axes(tmp_path: Path, vulkan: None) -> None:
    (row,) = lint_artifacts([five_axes(tmp_path)], accelerators=["gpu-delegate"]).forecasts
    assert row.label == ASKED
    assert row.count(OFF) >= 2
    details = [finding.detail for finding in row.findings if finding.rule.id == "outside"]
    assert "1 RESHAPE: Tensor dimensions must be less than 5" in details
    assert row.worst() == "error"


def test_the_gpu_accelerator_takes_a_chain_of_four_axes_whole(tmp_path: Path, vulkan: None) -> None:
    model = TinyModel()
    tensors = [model.tensor((1, 8, 8, 4)) for _ in range(4)]
    for kind, source, result in zip(("ABS", "SQRT", "EXP"), tensors, tensors[1:], strict=False):
        model.op(kind, [source], [result])
    path = tflite_artifact(tmp_path, model, tensors[:1], tensors[-1:])
    (row,) = lint_artifacts([path], accelerators=["gpu-delegate"]).forecasts
    assert (row.label, row.count(ON), row.count(OFF), row.partitions, row.findings) == (ASKED, 3, 0, 1, ())


def test_a_backend_that_cannot_be_asked_here_is_unknown_and_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vulkan, "_CHROMIUM", (str(tmp_path),))
    (row,) = lint_artifacts([float_island(tmp_path)], accelerators=["gpu-delegate"]).forecasts
    assert (row.label, row.partitions, row.macs_share) == (UNKNOWN, None, None)
    assert {op.state for op in row.ops} == {UNSURE}
    (finding,) = row.findings
    assert (finding.rule.id, finding.rule.severity) == ("not-asked", "warning")
    assert "scripts/install_browser.sh" in finding.detail


def test_a_backend_that_refuses_the_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> webgpu.GpuAnswer:
        raise RunnerError(f"expected a file, got {path.name}")

    monkeypatch.setattr(webgpu, "ask", refuse)
    (row,) = lint_artifacts([float_island(tmp_path)], accelerators=["gpu-delegate"]).forecasts
    assert [(finding.rule.id, finding.detail) for finding in row.findings] == [
        ("file-refused", "expected a file, got model.bin")
    ]
    assert LintReport(forecasts=(row,)).breaches(ERROR) == 1


def test_open_dimensions_transposes_and_requantizing_are_found(tmp_path: Path) -> None:
    model = TinyModel()
    start = model.tensor((1, 8, 8, 4), "int8", name="start")
    model.graph.tensors[start].shapeSignature = [1, -1, -1, 4]
    turned, moved, result = (model.tensor((1, 4, 8, 8), "int8", scale=s) for s in (1 / 64, 1 / 32, 1 / 32))
    axes = model.tensor((4,), "int32", data=[0, 3, 1, 2])
    model.op("TRANSPOSE", [start, axes], [turned], "Transpose", version=2)
    model.op("QUANTIZE", [turned], [moved], version=2)
    model.op("ADD", [moved, moved], [result], "Add", version=2)
    path = tflite_artifact(tmp_path, model, [start], [result])
    (row,) = lint_artifacts([path], accelerators=["xnnpack"]).forecasts
    details = {finding.rule.id: finding.detail for finding in row.findings}
    assert details == {
        "transpose": "256 elements moved per run",
        "requantize": "256 elements converted per run",
        "dynamic-shape": "open dimensions: start [1, -1, -1, 4]",
    }


def test_float_program_on_the_neural_engine_runs_elsewhere() -> None:
    picture = Tensor(name="x", dtype="float32", shape=(1, 3, 8, 8))
    flat = Tensor(name="y", dtype="float16", shape=(3, 64))
    deep = Tensor(name="z", dtype="float16", shape=(1, 1, 1, 3, 8, 8))
    graph = Graph(
        format="coreml",
        ops=(
            Op(index=0, kind="relu", name="r", inputs=(picture,), outputs=(replace(picture, name="a"),), arithmetic=""),
            Op(index=1, kind="gather", name="g", inputs=(picture,), outputs=(flat,), arithmetic="float16"),
            Op(index=2, kind="reshape", name="d", inputs=(flat,), outputs=(deep,), arithmetic="float16"),
            Op(index=3, kind="cumsum", name="c", inputs=(flat,), outputs=(replace(flat, name="b"),), arithmetic=""),
        ),
        inputs=(picture,),
        outputs=(deep,),
        flexible={"x": "range"},
    )
    row = forecast(graph, neural_engine.NEURAL_ENGINE, path=Path("p"), scheme="fp32")
    assert [op.state for op in row.ops] == [OFF, UNSURE, OFF, UNSURE]
    assert {"ane-float32", "ane-known-bad", "ane-rank", "ane-operator", "ane-range-shape"} <= rules_of(row)


def test_partitions_of_a_diamond_by_hand() -> None:
    # a -> b -> d, a -> c -> d with c refused: {a, b}, {c}, {d}.
    def op(index: int, inputs: str, output: str) -> Op:
        made = [Tensor(name=name, dtype="float32", shape=(1,)) for name in (*inputs, output)]
        return Op(
            index=index, kind="k", name=output, inputs=tuple(made[:-1]), outputs=(made[-1],), arithmetic="float32"
        )

    start = Tensor(name="x", dtype="float32", shape=(1,))
    ops = (op(0, "x", "a"), op(1, "a", "b"), op(2, "a", "c"), op(3, "bc", "d"))
    graph = Graph(format="tflite", ops=ops, inputs=(start,), outputs=(ops[3].output,))
    assert partition(graph, [True, True, False, True]) == [[0, 1], [3]]
    assert partition(graph, [True] * 4) == [[0, 1, 2, 3]]
    assert partition(graph, [False] * 4) == []


# ------------------------------------------------------------------------------------------------------------ rules
def all_rules() -> list[Rule]:
    from apps.lint import general

    values = [value for module in (*MODULES, general) for value in vars(module).values()]
    return list({value.id: value for value in values if isinstance(value, Rule)}.values())


def test_every_rule_says_why_how_and_where_it_was_read() -> None:
    rules = all_rules()
    assert len(rules) >= 15
    for rule in rules:
        assert rule.severity in SEVERITIES
        assert rule.confidence in CONFIDENCES
        assert rule.why.endswith(".")
        assert rule.fix.endswith(".")
        assert SOURCES[rule.source].where
    assert {rule.source for rule in rules} == set(SOURCES)


def test_rule_names_are_unique_over_all_accelerators() -> None:
    values = [value for module in MODULES for value in vars(module).values() if isinstance(value, Rule)]
    by_id: dict[str, Rule] = {}
    for rule in values:
        assert by_id.setdefault(rule.id, rule) == rule


def test_folklore_is_never_called_certain() -> None:
    with pytest.raises(ValueError, match="folklore is no certainty"):
        Rule(id="x", severity=ERROR, confidence=FOLKLORE, why="w.", fix="f.", source="ane-layers")


# ---------------------------------------------------------------------------------------------------------- command
def test_command_prints_writes_and_fails_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "island").mkdir()
    (tmp_path / "attention").mkdir()
    island, attention = float_island(tmp_path / "island"), int8_attention(tmp_path / "attention")
    words = ["lint", str(attention), "--for", "xnnpack"]
    files = ["--json", str(tmp_path / "lint.json"), "--figure", str(tmp_path / "lint.png")]
    assert main([*words, *files]) == 0
    shown = capsys.readouterr().out
    assert "ASKED" in shown
    assert "1 SOFTMAX" in shown
    assert "apps/lint/backends.py" in shown
    content = json.loads((tmp_path / "lint.json").read_text())
    assert {row["label"] for row in content["forecasts"]} == {"ASKED"}
    assert (tmp_path / "lint.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--fail-on", "error"]) == 3
    assert main(["lint", str(island), "--for", "xnnpack", "--fail-on", "error"]) == 0
    assert main(["lint", str(island), "--for", "xnnpack", "--fail-on", "warning"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--for", "tpu"], "--for must be one of xnnpack, gpu-delegate, hexagon, ane"),
        (["--for", "ane"], "expected --for xnnpack, gpu-delegate, hexagon for the tflite artifact"),
        (["--fail-on", "note"], "--fail-on must be one of error, warning"),
        (["--figure", "x.pdf"], "--figure must name a .png file"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", str(float_island(tmp_path)), *words]) == 2
    assert message in capsys.readouterr().err


def test_altered_artifact_is_refused(tmp_path: Path) -> None:
    path = float_island(tmp_path)
    shutil.copy(path / "artifact.json", path / "model.bin")
    with pytest.raises(ArtifactError, match=r"bytes|SHA-256"):
        lint_artifacts([path])


def test_no_artifact_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one artifact"):
        lint_artifacts([])


def test_strip_shows_every_state_in_its_colour(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    (row,) = lint_artifacts([float_island(tmp_path)], accelerators=["xnnpack"]).forecasts
    states = (ON, OFF, UNSURE, ON, ON, ON)
    mixed = replace(row, ops=tuple(replace(op, state=s) for op, s in zip(row.ops, states, strict=True)))
    pixels = np.asarray(Image.open(BytesIO(strip_chart([mixed]))).convert("RGB")).reshape(-1, 3)
    # The legend shows each colour too, in a patch of some hundreds of pixels; the strip has thousands.
    for state, colour in STATE_COLOURS.items():
        wanted = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
        assert (pixels == wanted).all(axis=1).sum() > 3000, state


def test_defaults_are_all_accelerators_that_read_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "_CHROMIUM", (str(tmp_path),))  # it need not be asked for this
    report: LintReport = lint_artifacts([float_island(tmp_path)])
    assert [row.accelerator for row in report.forecasts] == ["xnnpack", "gpu-delegate", "hexagon"]
    assert set(ACCELERATORS) == {"ane", "xnnpack", "gpu-delegate", "hexagon"}
