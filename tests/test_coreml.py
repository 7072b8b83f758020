"""Core ML: what the saved package holds, read back from its bytes. Nothing here predicts: only macOS does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import converters.runners.coreml_runner as coreml_runner
from converters.artifact import Artifact, load_artifact
from converters.coreml_package import PROGRAM, WEIGHTS
from converters.coreml_toolchain import import_coremltools, quiet_conversion
from converters.export import export_artifact
from converters.inspect_coreml import CoreMLInspection, inspect_package, require_int8_convolutions
from converters.lowering import LoweringJob
from converters.mil_reader import MilPackage, Operation
from converters.runners.coreml_runner import CoreMLRunner
from converters.to_coreml import PictureNetwork, lower
from edge_sr.errors import (
    ArtifactError,
    ConversionError,
    MissingToolError,
    RunnerError,
    ShapeError,
    UnsupportedScheme,
)
from edge_sr.networks import create_network
from edge_sr.runner import to_uint8
from quantization import QuantizedNetwork, calibrate, prepare
from quantization.fake_quant import QuantizedConv2d

# not importorskip: coremltools imported without converters.coreml_toolchain says what one of the tests listens for
pytestmark = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")

TILE = (16, 24)
CHECKPOINT = "ab" * 32
WEIGHT_CHANNELS = 8


class TinyNetwork(nn.Module):
    """Every kind of operation of the deployed mobile network, x2, 8 channels."""

    model_name = "tiny"
    scale = 2
    tile_multiple = 1
    context = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Conv2d(3, WEIGHT_CHANNELS, 3, padding=1)
        self.gate = nn.Conv2d(4, WEIGHT_CHANNELS, 1)
        self.mix = nn.Conv2d(12, WEIGHT_CHANNELS, 1, bias=False)
        self.up = nn.Conv2d(WEIGHT_CHANNELS, 12, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.empty_like(parameter).uniform_(-0.3, 0.3, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.head(x))
        gated = features * torch.sigmoid(self.gate(features[:, :4]))
        mixed = self.mix(torch.cat([gated, features[:, 4:]], dim=1)) + features
        return nn.functional.pixel_shuffle(self.up(mixed), 2)


def _quantized() -> QuantizedNetwork:
    network = prepare(TinyNetwork().eval(), "w8a8")
    calibrate(network, [torch.rand(2, 3, *TILE, generator=torch.Generator().manual_seed(1))])
    return network


def _network(scheme: str) -> nn.Module:
    return _quantized() if scheme == "w8a8" else TinyNetwork().eval()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    out_dir = tmp_path_factory.mktemp("coreml")
    return {
        scheme: export_artifact(
            network=_network(scheme),
            scheme=scheme,
            target="coreml",
            tile=TILE,
            out_dir=out_dir,
            checkpoint_sha256=CHECKPOINT,
            weights_license="CC-BY-4.0",
            weights_attribution="trained by the tests",
        )
        for scheme in ("fp32", "fp16", "w8a8")
    }


@pytest.fixture(scope="session")
def packages(artifacts: dict[str, Artifact]) -> dict[str, MilPackage]:
    return {scheme: MilPackage(artifact.main_path) for scheme, artifact in artifacts.items()}


@pytest.fixture(scope="session")
def inspections(artifacts: dict[str, Artifact]) -> dict[str, CoreMLInspection]:
    return {scheme: inspect_package(artifact.main_path) for scheme, artifact in artifacts.items()}


def _convolutions(package: MilPackage) -> list[Operation]:
    return [operation for operation in package.operations if operation.kind == "conv"]


def _layers(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    """Modules of a kind in the order in which the network runs them, which is how TinyNetwork lists them."""
    return [module for module in network.modules() if isinstance(module, kind)]


def _reader(package: MilPackage, name: str) -> Operation:
    """The one operation that reads a value."""
    readers = [o for o in package.operations if any(name in names for names in o.inputs.values())]
    assert len(readers) == 1, [reader.name for reader in readers]
    return readers[0]


# ------------------------------------------------------------------------------------------------- weights and scales
@pytest.mark.parametrize(("scheme", "dtype"), [("fp32", np.float32), ("fp16", np.float16)])
def test_float_weights_and_biases_are_the_networks_in_that_type(
    packages: dict[str, MilPackage], scheme: str, dtype: type[np.floating[Any]]
) -> None:
    package, layers = packages[scheme], _layers(TinyNetwork(), nn.Conv2d)
    operations = _convolutions(package)
    assert len(operations) == len(layers) == 4
    for operation, layer in zip(operations, layers, strict=True):
        weight = package.constant(operation, "weight")
        assert weight.dtype == dtype
        np.testing.assert_array_equal(weight, layer.weight.detach().numpy().astype(dtype))
        if layer.bias is not None:
            np.testing.assert_array_equal(
                package.constant(operation, "bias"), layer.bias.detach().numpy().astype(dtype)
            )


def test_int8_weights_are_the_float_weights_over_a_127th_of_the_largest_in_their_channel(
    packages: dict[str, MilPackage],
) -> None:
    package = packages["w8a8"]
    for operation, layer in zip(_convolutions(package), _layers(TinyNetwork(), nn.Conv2d), strict=True):
        stored = package.producer(operation, "weight")
        assert stored is not None
        assert stored.kind == "constexpr_affine_dequantize"
        weight = layer.weight.detach().numpy()
        expected_scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
        integers, scale = package.constant(stored, "quantized_data"), package.constant(stored, "scale")
        assert integers.dtype == np.int8
        assert int(package.constant(stored, "axis")) == 0
        assert not np.any(package.constant(stored, "zero_point"))
        np.testing.assert_array_equal(integers, np.rint(weight / expected_scale[:, None, None, None]))
        # float16 has 11 bits: half a unit in the last place is 2**-11 of the value
        np.testing.assert_allclose(scale, expected_scale, rtol=2.0**-11)


def test_activation_scales_and_zero_points_are_those_of_the_quantized_network(packages: dict[str, MilPackage]) -> None:
    package = packages["w8a8"]
    for operation, layer in zip(_convolutions(package), _layers(_quantized(), QuantizedConv2d), strict=True):
        before = package.producer(operation, "x")
        assert before is not None
        after = _reader(package, operation.output)
        after = _reader(package, after.output) if after.kind == "relu" else after
        for rounding, grid in ((before, layer.input_grid), (after, layer.output_grid)):
            qscale, zero_point = _qparams(package, rounding)
            np.testing.assert_allclose(qscale, grid.scale.item(), rtol=2.0**-11)
            assert zero_point == int(grid.zero_point)


def _qparams(package: MilPackage, operation: Operation) -> tuple[float, int]:
    """Scale and zero point as for int8; coremltools writes int8 with zero point -128 as uint8 with 0."""
    assert operation.kind in ("quantize", "dequantize")
    quantize = operation if operation.kind == "quantize" else package.producer(operation, "input")
    assert quantize is not None
    zero_point = package.constant(operation, "zero_point")
    offset = 128 if quantize.outputs[0][1].dtype == "uint8" else 0
    return float(package.constant(operation, "scale")), int(0 if zero_point is None else zero_point) - offset


def test_the_picture_is_read_at_a_255th_and_written_as_whole_numbers(packages: dict[str, MilPackage]) -> None:
    for package in packages.values():
        first = next(operation for operation in package.operations if operation.kind != "const")
        assert first.kind == "mul"
        assert package.constant(first, "y") == np.float32(1 / 255)
        tail = [operation.kind for operation in package.operations if operation.kind != "const"]
        assert [kind for kind in tail if kind != "cast"][-4:] == ["clip", "mul", "add", "floor"]


def test_picture_network_rounds_like_every_other_runner() -> None:
    # half levels, values outside of [0, 1] and everything between
    levels = torch.linspace(-0.1, 1.1, 3 * 40 * 40).reshape(1, 3, 40, 40)
    levels[0, 0, 0, :3] = torch.tensor([0.5 / 255, 1.5 / 255, 254.5 / 255])
    written = PictureNetwork(nn.Identity())(levels)
    np.testing.assert_array_equal(written[0].permute(1, 2, 0).numpy(), to_uint8(levels))


# ---------------------------------------------------------------------------------------------------------- inspection
def test_every_convolution_of_w8a8_is_int8_and_none_of_the_float_schemes(
    inspections: dict[str, CoreMLInspection],
) -> None:
    assert [c.is_int8 for c in inspections["w8a8"].convolutions] == [True] * 4
    require_int8_convolutions(inspections["w8a8"])
    for scheme in ("fp32", "fp16"):
        assert [c.is_int8 for c in inspections[scheme].convolutions] == [False] * 4
        with pytest.raises(ConversionError, match=r"got 4 that are not: .*float\d\d weight"):
            require_int8_convolutions(inspections[scheme])


def test_inspection_counts_what_the_network_has(inspections: dict[str, CoreMLInspection]) -> None:
    own = {"conv": 4, "relu": 1, "sigmoid": 1, "slice_by_index": 2, "concat": 1, "pixel_shuffle": 1, "clip": 1}
    for scheme, inspection in inspections.items():
        assert {kind: inspection.operations[kind] for kind in own} == own
        quantized = scheme == "w8a8"
        assert inspection.constexpr_ops == (4 if quantized else 0)
        # input, head, gate, sigmoid, product, mix, sum, up at the least
        assert (inspection.quantize_ops >= 8) == quantized
        assert (inspection.dequantize_ops >= 8) == quantized
        assert (inspection.smallest_qscale is not None) == quantized
    assert set(inspections["fp32"].value_dtypes) == {"float32"}
    assert set(inspections["fp16"].value_dtypes) == {"float16", "float32"}  # float32: the picture before its cast
    assert inspections["fp16"].value_dtypes["float32"] == 2


def test_sizes_are_those_of_the_two_files(
    artifacts: dict[str, Artifact], inspections: dict[str, CoreMLInspection]
) -> None:
    parameters = sum(p.numel() for p in TinyNetwork().parameters())
    for scheme, bytes_each in (("fp32", 4), ("fp16", 2), ("w8a8", 1)):
        inspection, package = inspections[scheme], artifacts[scheme].main_path
        assert inspection.weight_bytes == (package / WEIGHTS).stat().st_size
        assert inspection.program_bytes == (package / PROGRAM).stat().st_size
        # every blob has a 64-byte header and starts at a multiple of 64
        assert parameters * bytes_each - 200 < inspection.weight_bytes < parameters * bytes_each + 20 * 128
    assert inspections["w8a8"].weight_bytes < inspections["fp16"].weight_bytes < inspections["fp32"].weight_bytes


def test_inspection_is_json_ready(inspections: dict[str, CoreMLInspection]) -> None:
    data = json.loads(json.dumps(inspections["w8a8"].to_json()))
    assert data["specification_version"] == 8  # iOS 17
    assert data["size_bytes"] == data["weight_bytes"] + data["program_bytes"]


@pytest.mark.parametrize(
    ("model", "scheme", "config", "attention"),
    [
        ("idsa_net_mobile", "w8a8", {"channels": 8, "distilled": 4, "blocks": 1}, False),
        pytest.param(
            "idsa_net",
            "w8a8_mixed",
            {"channels": 16, "blocks": 1, "distilled": 8, "purified": 8},
            True,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_networks_convert_with_every_convolution_in_int8(
    tmp_path: Path, model: str, scheme: str, config: dict[str, int], attention: bool
) -> None:
    torch.manual_seed(0)
    deployed = create_network(model, 3, **config).eval().deployed()
    network = prepare(deployed, scheme)
    calibrate(network, [torch.rand(1, 3, 16, 16)])
    lower(LoweringJob(network=network, scheme=scheme, model=model, scale=3, tile=(16, 16), work_dir=tmp_path))
    inspection = inspect_package(tmp_path / "model.mlpackage")
    assert len(inspection.convolutions) == len(_layers(deployed, nn.Conv2d))
    require_int8_convolutions(inspection)
    assert (inspection.outputs[0].height, inspection.outputs[0].width) == (48, 48)
    assert ("softmax" in inspection.operations) == attention


# ------------------------------------------------------------------------------------------------- the package's folder
def test_pictures_and_metadata_are_described(inspections: dict[str, CoreMLInspection]) -> None:
    for scheme, inspection in inspections.items():
        (given,), (made,) = inspection.inputs, inspection.outputs
        assert (given.name, given.height, given.width, given.channels) == ("image", 16, 24, "RGB")
        assert (made.name, made.height, made.width, made.channels) == ("upscaled", 32, 48, "RGB")
        assert given.description == "RGB picture, 24x16 pixels"
        assert made.description == "RGB picture, 48x32 pixels"
        own = {key.removeprefix("edge-sr."): value for key, value in inspection.metadata.items() if "edge-sr." in key}
        assert own == {
            "model": "tiny",
            "scale": "2",
            "scheme": scheme,
            "tile": "24x16",
            "checkpoint_sha256": CHECKPOINT,
            "weights_attribution": "trained by the tests",
        }
        assert inspection.metadata["license"] == "CC-BY-4.0"
        assert inspection.metadata["author"] == "Edge SR"
        assert inspection.metadata["version"] == f"tiny x2 {scheme}"
        assert "24x16 tile" in inspection.metadata["short_description"]


def test_manifest_lists_every_file_of_the_package_and_no_other_exists(artifacts: dict[str, Artifact]) -> None:
    for artifact in artifacts.values():
        package = artifact.main_path
        manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
        items = {uuid.UUID(key): package / "Data" / item["path"] for key, item in manifest["itemInfoEntries"].items()}
        listed = {
            file for path in items.values() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
        }
        assert listed == {file for file in package.rglob("*") if file.is_file()} - {package / "Manifest.json"}
        assert items[uuid.UUID(manifest["rootModelIdentifier"])] == package / PROGRAM
        assert set(artifact.meta.files) == {
            f"model.mlpackage/{file.relative_to(package).as_posix()}" for file in package.rglob("*") if file.is_file()
        }


def test_coremltools_itself_reads_the_package(artifacts: dict[str, Artifact]) -> None:
    model = import_coremltools().models.MLModel(str(artifacts["w8a8"].main_path), skip_model_load=True)
    assert model.user_defined_metadata["edge-sr.model"] == "tiny"
    assert model.get_spec().WhichOneof("Type") == "mlProgram"


def test_delegation_is_left_to_the_device(artifacts: dict[str, Artifact]) -> None:
    for artifact in artifacts.values():
        assert artifact.meta.delegation.delegates is None
        assert artifact.meta.delegation.ops_outside == {}
        assert artifact.meta.delegation.note.startswith("decided on device")


_EXPORT_AGAIN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_coreml
from converters.lowering import LoweringJob
from converters.to_coreml import lower
lower(LoweringJob(network=test_coreml._quantized(), scheme="w8a8", model="tiny", scale=2, tile=test_coreml.TILE,
                  work_dir=Path({out!r}), checkpoint_sha256=test_coreml.CHECKPOINT, weights_license="CC-BY-4.0",
                  weights_attribution="trained by the tests"))
"""


def test_another_process_exports_the_same_bytes_and_says_nothing(
    artifacts: dict[str, Artifact], tmp_path: Path, project_root: Path
) -> None:
    program = _EXPORT_AGAIN.format(tests=str(project_root / "tests"), out=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project_root,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    package = artifacts["w8a8"].main_path
    files = [file.relative_to(package) for file in package.rglob("*") if file.is_file()]
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "model.mlpackage" / file).read_bytes() == (package / file).read_bytes(), file


# ---------------------------------------------------------------------------------------------------------- what fails
def test_damaged_packages_are_refused_by_the_reader(packages: dict[str, MilPackage], tmp_path: Path) -> None:
    source = packages["w8a8"].path
    program, weights = (source / PROGRAM).read_bytes(), (source / WEIGHTS).read_bytes()
    package = tmp_path / "model.mlpackage"
    (package / WEIGHTS).parent.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="expected a Core ML package"):
        MilPackage(package)
    (package / PROGRAM).write_bytes(program[:-100])
    with pytest.raises(ArtifactError, match="damaged"):
        MilPackage(package)
    (package / PROGRAM).write_bytes(b"")
    with pytest.raises(ArtifactError, match="function 'main'"):
        MilPackage(package)
    (package / PROGRAM).write_bytes(program)
    for broken in (b"", weights[:100], weights[:64] + b"\0" * (len(weights) - 64)):
        (package / WEIGHTS).write_bytes(broken)
        with pytest.raises(ArtifactError, match=r"weight\.bin"):
            inspect_package(package)


def _job(network: nn.Module, scheme: str, work_dir: Path) -> LoweringJob:
    return LoweringJob(network=network, scheme=scheme, model="tiny", scale=2, tile=TILE, work_dir=work_dir)


def test_an_operation_that_core_ml_has_not_is_a_conversion_error_of_one_line(tmp_path: Path) -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.lgamma(x + 1)

    with pytest.raises(ConversionError, match="expected tiny x2 fp32 to convert") as caught:
        lower(_job(Unknown(), "fp32", tmp_path))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_schemes_networks_and_targets_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedScheme, match="fp32, fp16, w8a8"):
        lower(_job(TinyNetwork(), "w4a8", tmp_path))
    with pytest.raises(ConversionError, match="expected a QuantizedNetwork for w8a8, got TinyNetwork"):
        lower(_job(TinyNetwork(), "w8a8", tmp_path))
    with pytest.raises(ConversionError, match="iOS17, iOS18, got 'iOS3'"):
        lower(_job(TinyNetwork(), "fp32", tmp_path), deployment_target="iOS3")


def test_ios18_stores_the_same_weights_in_its_own_operation(
    artifacts: dict[str, Artifact], packages: dict[str, MilPackage], tmp_path: Path
) -> None:
    lower(_job(_quantized(), "w8a8", tmp_path), deployment_target="iOS18")
    newer, older = MilPackage(tmp_path / "model.mlpackage"), packages["w8a8"]
    inspection = inspect_package(tmp_path / "model.mlpackage")
    assert inspection.specification_version == 9
    require_int8_convolutions(inspection)
    for new, old in zip(_convolutions(newer), _convolutions(older), strict=True):
        new_weight, old_weight = newer.producer(new, "weight"), older.producer(old, "weight")
        assert new_weight is not None
        assert old_weight is not None
        assert new_weight.kind == "constexpr_blockwise_shift_scale"
        np.testing.assert_array_equal(newer.constant(new_weight, "data"), older.constant(old_weight, "quantized_data"))
        np.testing.assert_array_equal(
            newer.constant(new_weight, "scale").ravel(), older.constant(old_weight, "scale").ravel()
        )


def test_missing_coremltools_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingToolError, match="pip install coremltools"):
        lower(_job(TinyNetwork(), "fp32", tmp_path))


def test_quiet_conversion_lets_other_warnings_pass_and_restores_the_bars() -> None:
    import_coremltools()
    from coremltools.converters.mil.mil.passes import pass_pipeline

    bar = pass_pipeline.tqdm
    with quiet_conversion():
        assert pass_pipeline.tqdm is not bar
        with pytest.warns(UserWarning, match="of another kind"):
            warnings.warn("of another kind", UserWarning, stacklevel=1)
    assert pass_pipeline.tqdm is bar


# ---------------------------------------------------------------------------------------------------------- the runner
def test_runner_says_that_core_ml_predicts_on_macos_only(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreml_runner, "_platform", lambda: "linux")
    with pytest.raises(
        RunnerError, match=r"predicts on macOS only, got linux: copy tiny_x2_fp16_coreml_24x16 to a Mac"
    ):
        CoreMLRunner(artifacts["fp16"])


class _FakeModel:
    """Stands in for Apple's framework: enlarges by repetition and gives RGBA, as a pixel buffer's picture may be."""

    loaded: tuple[str, str]

    def __init__(self, path: str, *, compute_units: str) -> None:
        _FakeModel.loaded = (path, compute_units)

    def predict(self, given: dict[str, Any]) -> dict[str, Any]:
        ((name, picture),) = given.items()
        assert (name, picture.mode, picture.size) == ("image", "RGB", (24, 16))
        return {"upscaled": picture.resize((48, 32), Image.Resampling.NEAREST).convert("RGBA")}


@pytest.fixture
def fake_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    units = types.SimpleNamespace(ALL="all units", CPU_ONLY="cpu only")
    fake = types.SimpleNamespace(models=types.SimpleNamespace(MLModel=_FakeModel), ComputeUnit=units)
    monkeypatch.setattr(coreml_runner, "_platform", lambda: "darwin")
    monkeypatch.setattr(coreml_runner, "import_coremltools", lambda: fake)


@pytest.mark.usefixtures("fake_mac")
def test_runner_on_a_mac_hands_pictures_over_and_takes_them_back(artifacts: dict[str, Artifact]) -> None:
    runner = CoreMLRunner(load_artifact(artifacts["fp16"].path), compute_units="CPU_ONLY")
    assert (runner.name, runner.scale, runner.tile) == ("coreml", 2, TILE)
    assert _FakeModel.loaded == (str(artifacts["fp16"].main_path), "cpu only")
    lr = np.random.default_rng(0).integers(0, 256, (*TILE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(runner.run(lr), lr.repeat(2, axis=0).repeat(2, axis=1))
    for wrong in (lr[:-1], lr.transpose(1, 0, 2), lr.astype(np.float32)):
        with pytest.raises(ShapeError, match=r"tile of 24 wide, 16 high|uint8"):
            runner.run(wrong)


@pytest.mark.usefixtures("fake_mac")
def test_runner_refuses_what_core_ml_cannot_be_told(artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(RunnerError, match="picks its own threads, got 2"):
        CoreMLRunner(artifacts["fp16"], threads=2)
    with pytest.raises(RunnerError, match="ALL, CPU_ONLY, CPU_AND_GPU, CPU_AND_NE, got 'TPU'"):
        CoreMLRunner(artifacts["fp16"], compute_units="TPU")
