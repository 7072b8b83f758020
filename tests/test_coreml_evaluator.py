"""The evaluator itself: what it takes and gives, what it lets one see, what it refuses, and that it forgets."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_programs import Array, builder, evaluate, save_program
from torch import Tensor, nn

from converters.artifact import Artifact, load_artifact
from converters.coreml_evaluator import NOTE, VERSION, Evaluator
from converters.coreml_package import PROGRAM, WEIGHTS
from converters.coreml_toolchain import import_coremltools, quiet_conversion
from converters.export import export_artifact
from converters.mil_reader import MilPackage
from converters.runners import accuracy_runtimes, open_runner
from converters.runners.coreml_evaluator_runner import CoreMLEvaluatorRunner
from edge_sr.errors import ArtifactError, ConfigError, RunnerError, ShapeError
from edge_sr.runner import TorchRunner

pytestmark = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")

TILE = (8, 12)
X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 2, 3, 4)


def two_convolutions(x: Any) -> Any:
    mb = builder()
    weight = np.linspace(-0.5, 0.5, 2 * 2 * 3 * 3, dtype=np.float32).reshape(2, 2, 3, 3)
    first = mb.conv(x=x, weight=weight, pad_type="same", name="first")
    return mb.conv(x=mb.relu(x=first, name="between"), weight=weight, pad_type="same", name="second")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_program(tmp_path_factory.mktemp("package") / "model.mlpackage", two_convolutions, {"x": X})


def edited(package: Path, folder: Path, edit: Callable[[Any], None]) -> Path:
    """A copy of the package with another program: ``edit`` changes the protobuf."""
    path = folder / "model.mlpackage"
    shutil.copytree(package, path)
    spec = MilPackage(package).spec
    edit(spec)
    (path / PROGRAM).write_bytes(spec.SerializeToString())
    return path


def operations_of(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def operation_of(spec: Any, kind: str) -> Any:
    return next(operation for operation in operations_of(spec) if operation.type == kind)


# ------------------------------------------------------------------------------------------------------- seeing inside
def test_observers_see_every_operation_in_order_and_constants_are_done_before(package: Path) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []
    evaluator = Evaluator(package)
    evaluator.run({"x": X}, observe=lambda operation, results: seen.append((operation.name, tuple(results[0].shape))))
    assert seen == [("first", (1, 2, 3, 4)), ("between", (1, 2, 3, 4)), ("second", (1, 2, 3, 4))]
    assert [operation.kind for operation in evaluator.operations] == ["conv", "relu", "conv"]


def test_a_replaced_value_is_what_the_next_operation_reads(package: Path) -> None:
    evaluator = Evaluator(package)
    seen: list[str] = []

    def replace(operation: Any, name: str, value: Tensor) -> Tensor | None:
        seen.append(operation.name)
        return torch.zeros_like(value) if operation.kind == "relu" else None

    (output,) = evaluator.run({"x": X}, replace=replace).values()
    assert not np.asarray(output).any()  # relu(0) = 0, and the second convolution has no bias
    assert {"first", "between", "second"} == set(seen)
    with pytest.raises(ShapeError, match=r"expected .* of relu 'between'"):
        evaluator.run(
            {"x": X}, replace=lambda operation, name, value: value[:, :1] if operation.kind == "relu" else None
        )


def test_values_are_forgotten_after_their_last_use(package: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def look(operation: Any, results: tuple[Tensor, ...]) -> None:
        if operation.name == "second":
            gc.collect()
            assert alive[0]() is None  # what the relu read; the relu's own result is only now done with
        alive.append(weakref.ref(results[0]))

    Evaluator(package).run({"x": X}, observe=look)
    assert len(alive) == 3


def test_a_run_leaves_inputs_and_later_runs_alone(package: Path) -> None:
    evaluator, x = Evaluator(package), torch.from_numpy(X.copy())
    first = evaluator.run({"x": x})
    assert torch.equal(x, torch.from_numpy(X))
    torch.testing.assert_close(evaluator.run({"x": x}), first, rtol=0, atol=0)
    before = torch.get_num_threads()
    Evaluator(package, threads=2).run({"x": x})
    assert torch.get_num_threads() == before


# ------------------------------------------------------------------------------------------- what it takes and refuses
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "expected inputs x, got none"),
        ({"x": X, "y": X}, "expected inputs x, got x, y"),
        ({"x": X[:, :1]}, r"expected 'x' to become \(1, 2, 3, 4\) in the program, got \(1, 1, 3, 4\)"),
        ({"x": X[0]}, r"got \(2, 3, 4\)"),
        ({"x": X.astype(np.complex64)}, "expected float32 as 'x', got torch.complex64"),
    ],
)
def test_inputs_that_do_not_fit_are_named(package: Path, inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Evaluator(package).run(inputs)


def test_wrong_options_are_named(package: Path) -> None:
    with pytest.raises(ConfigError, match="fp32, fp16, got 'int8'"):
        Evaluator(package, precision="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        Evaluator(package, threads=0)
    with pytest.raises(ArtifactError, match=r"expected an ML program with a function 'other' in .*, got main"):
        Evaluator(package, function="other")


def test_unknown_operations_are_all_named_before_anything_runs(package: Path, tmp_path: Path) -> None:
    def edit(spec: Any) -> None:
        for operation in operations_of(spec):
            operation.type = {"relu": "frobnicate", "conv": "twist"}.get(operation.type, operation.type)

    with pytest.raises(RunnerError) as caught:
        Evaluator(edited(package, tmp_path, edit))
    message = str(caught.value)
    assert message.startswith("expected operations that the evaluator knows, got twist 'first' (operation ")
    assert f"of {len(MilPackage(package).operations)} in 'main' of {tmp_path}" in message
    assert message.endswith("in all it cannot do 1 frobnicate, 2 twist")
    assert "\n" not in message


def test_a_shape_declared_wrongly_is_found_where_it_is_made(package: Path, tmp_path: Path) -> None:
    def edit(spec: Any) -> None:
        operation_of(spec, "relu").outputs[0].type.tensorType.dimensions[3].constant.size = 5

    evaluator = Evaluator(edited(package, tmp_path, edit))
    with pytest.raises(ArtifactError, match=r"of shape \(1, 2, 3, 5\) from relu 'between' .*, got \(1, 2, 3, 4\)"):
        evaluator.run({"x": X})


def test_a_type_declared_wrongly_is_found_before_anything_runs(package: Path, tmp_path: Path) -> None:
    def edit(spec: Any) -> None:
        operation_of(spec, "relu").outputs[0].type.tensorType.dataType = 10  # FLOAT16

    with pytest.raises(ArtifactError, match=r"of type float32 in relu 'between'.* declared ones of type float16"):
        Evaluator(edited(package, tmp_path, edit))


def test_an_attribute_that_no_one_knows_is_found_before_anything_runs(package: Path, tmp_path: Path) -> None:
    def edit(spec: Any) -> None:
        for operation in operations_of(spec):
            text = operation.attributes["val"].immediateValue.tensor.strings.values if operation.type == "const" else []
            if list(text) == ["same"]:
                text[0] = "sideways"

    with pytest.raises(RunnerError, match=r"pad_type to be one of .*same, same_lower in conv 'first'.*'sidew"):
        Evaluator(edited(package, tmp_path, edit))


def test_a_value_read_before_it_is_made_is_damage(package: Path, tmp_path: Path) -> None:
    def edit(spec: Any) -> None:
        operation_of(spec, "relu").inputs["x"].arguments[0].name = "nowhere"

    with pytest.raises(ArtifactError, match=r"x of relu 'between' .* to be made before it is read, got 'nowhere'"):
        Evaluator(edited(package, tmp_path, edit))


def test_missing_and_exchanged_weights_are_damage(package: Path, tmp_path: Path) -> None:
    path = edited(package, tmp_path, lambda spec: None)
    weights = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(
        weights.replace(b"\xef\xbe\xad\xde\x02", b"\xef\xbe\xad\xde\x01")
    )  # float32 -> float16
    with pytest.raises(ArtifactError, match=r"expected a blob of \d+ bytes of float32"):
        Evaluator(path)
    (path / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match="got a shorter file"):
        Evaluator(path)


def test_nan_is_an_error_that_names_where_it_appears_first() -> None:
    mb = builder()
    with pytest.raises(RunnerError, match=r"finite values as '\w+', got NaN or infinity: it appears first in log"):
        evaluate(lambda x: mb.add(x=mb.log(x=x, name="culprit"), y=np.float32(1)), {"x": X})
    large = np.full((2,), 300, np.float16)
    with pytest.raises(RunnerError, match="appears first in mul"):
        evaluate(lambda x: mb.mul(x=x, y=x), {"x": large})  # 90000 is no float16
    evaluate(lambda x: mb.cast(x=mb.mul(x=x, y=x), dtype="fp32"), {"x": large}, precision="fp32")


# ------------------------------------------------------------------------------------------- pictures, sizes, functions
class Mirror(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(3) + 0.5


def converted(module: nn.Module, example: Tensor, folder: Path, **options: Any) -> Path:
    """The module as a package, by coremltools' own way from torch to disk."""
    coremltools = import_coremltools()
    options = {"minimum_deployment_target": coremltools.target.iOS17, **options}
    with quiet_conversion(), torch.no_grad():
        program = torch.export.export(module.eval(), (example,)).run_decompositions({})
        model = coremltools.convert(program, convert_to="mlprogram", skip_model_load=True, **options)
        path = folder / "model.mlpackage"
        model.save(str(path))
    return path


@pytest.mark.parametrize("colour", ["RGB", "BGR", "GRAYSCALE"])
def test_pictures_go_in_and_come_out_in_rgb(tmp_path: Path, colour: str) -> None:
    coremltools = import_coremltools()
    channels = 1 if colour == "GRAYSCALE" else 3
    layout = getattr(coremltools.colorlayout, colour)
    path = converted(
        Mirror(),
        torch.zeros(1, channels, *TILE),
        tmp_path,
        inputs=[coremltools.ImageType(name="picture", shape=(1, channels, *TILE), color_layout=layout)],
        outputs=[coremltools.ImageType(name="mirrored", color_layout=layout)],
    )
    evaluator = Evaluator(path)
    shape = TILE if colour == "GRAYSCALE" else (*TILE, 3)
    assert [(f.name, f.kind, f.shape, f.colour) for f in (*evaluator.inputs, *evaluator.outputs)] == [
        ("picture", "image", shape, colour),
        ("mirrored", "image", shape, colour),
    ]
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    made = evaluator.run({"picture": picture})["mirrored"]
    assert isinstance(made, np.ndarray)
    assert made.dtype == np.uint8
    # half a level rounds upwards, and 255.5 is cut to 255
    np.testing.assert_array_equal(made, np.minimum(picture[:, ::-1].astype(int) + 1, 255))
    for wrong in (picture.astype(np.float32), picture[:-1], picture[..., None]):
        with pytest.raises(ShapeError, match="'picture'"):
            evaluator.run({"picture": wrong})


class Shapes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2, keepdim=True).expand(-1, -1, x.shape[2] * x.shape[3]).reshape(x.shape) - x


def test_flexible_sizes_follow_the_input(tmp_path: Path) -> None:
    coremltools = import_coremltools()
    side = torch.export.Dim("side", min=2, max=9)
    with quiet_conversion(), torch.no_grad():
        program = torch.export.export(Shapes(), (torch.zeros(1, 2, 3, 5),), dynamic_shapes=({2: side},))
        model = coremltools.convert(
            program.run_decompositions({}),
            convert_to="mlprogram",
            inputs=[coremltools.TensorType(name="x", shape=(1, 2, coremltools.RangeDim(2, 9, default=3), 5))],
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "model.mlpackage"))
    evaluator = Evaluator(tmp_path / "model.mlpackage")
    assert evaluator.inputs[0].shape == (1, 2, 3, 5)
    for height in (2, 3, 9):
        x = torch.randn(1, 2, height, 5)
        (got,) = evaluator.run({"x": x}).values()
        torch.testing.assert_close(got, Shapes()(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match=r"expected 'x' to become \(1, 2, any, 5\)"):
        evaluator.run({"x": torch.randn(1, 2, 3, 4)})


def test_a_package_of_several_functions_runs_the_one_asked_for(tmp_path: Path) -> None:
    coremltools = import_coremltools()
    paths = {}
    for name, factor in (("twice", 2.0), ("thrice", 3.0)):
        paths[name] = save_program(
            tmp_path / f"{name}.mlpackage",
            lambda x, f=factor: builder().mul(x=x, y=np.full_like(X, f)),
            {"x": X},
            opset="iOS18",
        )
    descriptor = coremltools.utils.MultiFunctionDescriptor()
    for name, path in paths.items():
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "twice"
    with quiet_conversion():
        coremltools.utils.save_multifunction(descriptor, str(tmp_path / "both.mlpackage"))
    for function, factor in ((None, 2), ("twice", 2), ("thrice", 3)):
        (got,) = Evaluator(tmp_path / "both.mlpackage", function=function).run({"x": X}).values()
        np.testing.assert_array_equal(np.asarray(got), X * np.float32(factor))


# --------------------------------------------------------------------------------------------------------- the runner
class Doubling(nn.Module):
    model_name, scale, tile_multiple, context = "doubling", 2, 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 12, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.empty_like(parameter).uniform_(-0.2, 0.3, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.up(x), 2)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    exported = export_artifact(
        network=Doubling().eval(),
        scheme="fp32",
        target="coreml",
        tile=TILE,
        out_dir=tmp_path_factory.mktemp("artifact"),
        checkpoint_sha256="ab" * 32,
        weights_license="CC-BY-4.0",
        weights_attribution="made by the tests",
    )
    return load_artifact(exported.path)


@pytest.mark.parametrize("isolated", [False, True])
def test_the_runner_gives_the_networks_pixels_in_this_process_and_in_a_child(
    artifact: Artifact, isolated: bool
) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (*TILE, 3), dtype=np.uint8)
    runner = open_runner(artifact, runtime="coreml_evaluator", isolated=isolated)
    try:
        assert (runner.name, runner.scale, runner.tile) == (f"coreml evaluator {VERSION} (fp16)", 2, TILE)
        np.testing.assert_array_equal(runner.run(lr), TorchRunner(Doubling()).run(lr))
        with pytest.raises(ShapeError, match="expected a tile of 12 wide, 8 high"):
            runner.run(lr[1:])
    finally:
        getattr(runner, "close", lambda: None)()


def test_precision_is_in_the_runners_name_and_the_note_is_honest(artifact: Artifact) -> None:
    assert CoreMLEvaluatorRunner(artifact, precision="fp32").name.endswith("(fp32)")
    assert "Neural Engine" in NOTE
    assert "may differ" in NOTE


def test_runtimes_are_those_of_the_target_and_this_system(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, expected in (("linux", ("coreml_evaluator",)), ("darwin", ("coreml", "coreml_evaluator"))):
        monkeypatch.setattr(sys, "platform", platform)
        assert accuracy_runtimes(artifact.meta) == expected
        assert accuracy_runtimes(replace(artifact.meta, target="tflite")) == ("tflite",)
        assert accuracy_runtimes(replace(artifact.meta, target="executorch")) == ("executorch",)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="coreml, mediatek, google_tensor, samsung, qnn, vgf, got 'abacus'"):
        accuracy_runtimes(replace(artifact.meta, target="abacus"))
    with pytest.raises(ConfigError, match="runtime for coreml must be one of coreml, coreml_evaluator, got 'tflite'"):
        open_runner(artifact, runtime="tflite")


def test_reading_a_package_imports_no_toolchain(package: Path, project_root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from converters.coreml_evaluator import Evaluator;"
        f"Evaluator(Path({str(package)!r}));"
        "print([name for name in ('coremltools', 'torchao', 'executorch') if name in sys.modules]);"
        "import coremltools; from coremltools.proto import Model_pb2; Model_pb2.Model();"
        f"Evaluator(Path({str(package)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
