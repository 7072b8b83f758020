"""VGF artifacts: one delegate of whole numbers, the network's own levels, nothing run but what is in the program."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import one_line
from torch import nn

from apps.exporting import typed_targets
from apps.lint.engine import lint_artifacts
from apps.profiling.host import profile_artifacts
from apps.runnable import reason_not_timed
from converters import to_vgf, vgf_toolchain
from converters.artifact import Artifact, fingerprint, write_artifact
from converters.export import export_artifact
from converters.graphs import read_graph
from converters.graphs.graph import canonical_sha256
from converters.graphs.vgf_reader import read_vgf_payload
from converters.isolation import IsolatedRunner
from converters.lowering import LoweringJob
from converters.runners import accuracy_runtimes, open_runner, vgf_emulation_runner
from converters.runners.tosa_reference_runner import TosaReferenceRunner
from converters.self_test import open_checked_runner
from converters.targets import TARGETS, USUAL_TARGETS
from converters.vgf_toolchain import TOSA_FILE, compile_tosa
from edge_sr.errors import (
    ArtifactError,
    ConfigError,
    ConversionError,
    EdgeSRError,
    MissingToolError,
    RunnerError,
    ShapeError,
)
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner
from quantization.calibration import calibrate
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork, prepare

for _package in ("executorch", "model_converter", "tosa_reference_model"):
    pytest.importorskip(_package, reason=f"{_package} is not installed")

TILE = (16, 24)
MAIN = "model.pte"
SCHEMES = ("fp32", "w8a8")
QDQ = torch.ops.quantized_decomposed
Image = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """A network of one block, as each scheme computes it in PyTorch."""
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=4).eval()
    torch.nn.init.normal_(network.up.weight, std=0.15)
    deployed = network.deployed()
    return {"fp32": deployed, "w8a8": quantized(deployed)}


def quantized(deployed: nn.Module) -> QuantizedNetwork:
    network = prepare(deployed, "w8a8")
    generator = torch.Generator().manual_seed(1)
    calibrate(network, [torch.rand((2, 3, *TILE), generator=generator), torch.ones(1, 3, *TILE)])
    return network


@pytest.fixture(scope="module")
def artifacts(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("vgf")
    return {
        scheme: export_artifact(
            network=networks[scheme],
            scheme=scheme,
            target="vgf",
            tile=TILE,
            out_dir=folder,
            checkpoint_sha256="ab" * 32,
        )
        for scheme in SCHEMES
    }


@pytest.fixture(scope="module")
def runners(artifacts: dict[str, Artifact]) -> Iterator[dict[str, Any]]:
    opened: dict[str, Any] = {scheme: open_checked_runner(artifacts[scheme]) for scheme in SCHEMES}
    yield opened
    for runner in opened.values():
        runner.close()


@pytest.fixture(scope="module")
def lr() -> Image:
    return np.random.default_rng(0).integers(0, 256, (*TILE, 3), dtype=np.uint8)


def job(network: nn.Module, work_dir: Path, *, scheme: str = "w8a8", model: str = "leaky") -> LoweringJob:
    return LoweringJob(network=network, scheme=scheme, model=model, scale=2, tile=TILE, work_dir=work_dir)


def remade(artifact: Artifact, folder: Path, changes: dict[str, bytes], *, digest: bool = False) -> Artifact:
    """The artifact with other bytes and hashes that are right again; without ``digest``, as of earlier releases."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in artifact.meta.files:
        (source / name).write_bytes(changes.get(name, (artifact.path / name).read_bytes()))
    meta = replace(artifact.meta, files=fingerprint(source, artifact.meta.files))
    return write_artifact(
        folder / "artifact", meta=meta if digest else replace(meta, canonical_sha256=None), source=source
    )


# ------------------------------------------------------------------------------------------------------ what is written
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_mobile_network_is_one_delegate_with_nothing_outside(artifacts: dict[str, Artifact], scheme: str) -> None:
    delegation = artifacts[scheme].meta.delegation
    assert (delegation.delegates, delegation.ops_outside) == (1, {})


def test_a_quantized_network_asks_for_whole_numbers_alone_and_a_float_one_for_floats(
    artifacts: dict[str, Artifact],
) -> None:
    assert artifacts["w8a8"].meta.notes == ("the VGF inside asks for TOSA-1.0+INT",)
    assert artifacts["fp32"].meta.notes == ("the VGF inside asks for TOSA-1.0+FP",)


def test_the_artifact_says_how_a_phone_fills_and_reads_it(artifacts: dict[str, Artifact]) -> None:
    whole, floats = artifacts["w8a8"].meta.io[MAIN], artifacts["fp32"].meta.io[MAIN]
    for spec, shape in ((whole.input, (1, 3, *TILE)), (whole.output, (1, 3, 2 * TILE[0], 2 * TILE[1]))):
        assert (spec.dtype, spec.layout, spec.shape, spec.value_range) == ("int8", "NCHW", shape, (-128, 127))
        assert (spec.qscale, spec.zero_point) == (1 / 255, -128), "a pixel minus 128"
    assert (floats.input.dtype, floats.input.layout, floats.input.value_range) == ("float32", "NCHW", (0.0, 1.0))


def test_the_program_is_what_the_tosa_beside_it_compiles_to_and_names_no_folder(artifacts: dict[str, Artifact]) -> None:
    for artifact in artifacts.values():
        program, tosa = artifact.main_path.read_bytes(), (artifact.path / TOSA_FILE).read_bytes()
        assert read_vgf_payload(artifact.main_path) == compile_tosa(tosa)
        assert b"edge-sr-vgf-" not in program
        assert b"edge-sr-vgf-" not in tosa


def test_int8_weights_take_a_byte_each(artifacts: dict[str, Artifact], networks: dict[str, nn.Module]) -> None:
    weights = sum(m.weight.numel() for m in networks["fp32"].modules() if isinstance(m, nn.Conv2d))
    sizes = {scheme: artifacts[scheme].meta.files[MAIN].size_bytes for scheme in SCHEMES}
    # Scales, tables and the longer graph cost something, a float copy of the weights would save nothing.
    assert weights < sizes["w8a8"] < sizes["fp32"]


def test_linting_it_is_refused_in_words(artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(ConfigError, match=r"lint reads, got \S+_vgf_24x16 of target vgf; see"):
        lint_artifacts([artifacts["w8a8"].path])


def test_its_time_on_a_computer_is_no_measurement(artifacts: dict[str, Artifact]) -> None:
    (row,) = profile_artifacts([artifacts["w8a8"].path], threads=(1,)).rows
    assert (row.timing, row.failed) == (None, False)
    assert row.reason == reason_not_timed("vgf") is not None


@pytest.mark.parametrize(
    ("targets", "backend", "meant"),
    [(["executorch"], "vgf", ("vgf",)), (["executorch"], "xnnpack", ("executorch",)), (["tflite"], None, ["tflite"])],
)
def test_a_backend_of_executorch_is_a_target(targets: list[str], backend: str | None, meant: Any) -> None:
    assert typed_targets(targets, backend=backend) == meant


@pytest.mark.parametrize("targets", [None, ["tflite"], ["executorch", "coreml"], ["vgf"]])
def test_a_backend_beside_other_targets_is_refused(targets: list[str] | None) -> None:
    with pytest.raises(ConfigError, match="--backend goes with --target executorch alone, got"):
        typed_targets(targets, backend="vgf")


def test_it_is_exported_by_name_alone() -> None:
    assert "vgf" in TARGETS
    assert USUAL_TARGETS == ("tflite", "executorch", "coreml")


# ---------------------------------------------------------------------------------------------------------- its numbers
def test_the_reference_model_gives_the_fake_quantized_networks_levels(
    runners: dict[str, Any], networks: dict[str, nn.Module], lr: Image
) -> None:
    apart = runners["w8a8"].run(lr).astype(int) - TorchRunner(networks["w8a8"]).run(lr)
    assert (apart == 0).mean() >= 0.97, "TOSA rounds sums of products twice, halves away from fake quantization"
    assert np.abs(apart).max() <= 4


def test_a_float_program_gives_the_networks_levels_in_8_and_16_bits(
    runners: dict[str, Any], networks: dict[str, nn.Module], lr: Image
) -> None:
    torch_runner = TorchRunner(networks["fp32"])
    assert np.abs(runners["fp32"].run(lr).astype(int) - torch_runner.run(lr)).max() <= 1
    deep = lr.astype(np.uint16) * 257
    assert np.abs(runners["fp32"].run_deep(deep).astype(int) - torch_runner.run_deep(deep)).max() <= 2


@pytest.fixture
def emulated() -> None:
    """Arm's emulation layer on lavapipe; else the test is skipped, and the line says what is missing."""
    try:
        vgf_toolchain.scenario_runner()
        vgf_toolchain.emulation_environment()
    except MissingToolError as error:
        pytest.skip(str(error))


def test_the_program_itself_gives_the_reference_models_levels_on_vulkan(
    artifacts: dict[str, Artifact], runners: dict[str, Any], lr: Image, emulated: None
) -> None:
    runner = open_runner(artifacts["w8a8"], runtime="vgf_emulation")
    np.testing.assert_array_equal(runner.run(lr), runners["w8a8"].run(lr))
    assert runner.name.startswith("vgf emulation layer ")
    floats = open_runner(artifacts["fp32"], runtime="vgf_emulation")
    assert np.abs(floats.run(lr).astype(int) - runners["fp32"].run(lr)).max() <= 1


def test_a_program_that_vulkan_refuses_is_one_line(
    artifacts: dict[str, Artifact], lr: Image, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = read_vgf_payload(artifacts["w8a8"].path / MAIN)
    for content in (payload[:200], payload[: len(payload) // 2], bytes(reversed(payload))):
        monkeypatch.setattr(vgf_emulation_runner, "read_vgf_payload", lambda path, content=content: content)
        with pytest.raises(RunnerError, match=r"expected the emulation layer to run .* got ") as caught:
            open_runner(artifacts["w8a8"], runtime="vgf_emulation").run(lr)
        assert one_line(caught.value)


def test_the_emulation_is_asked_where_everything_is_compared(artifacts: dict[str, Artifact]) -> None:
    meta = artifacts["w8a8"].meta
    assert accuracy_runtimes(meta) == ("tosa_reference",)
    assert accuracy_runtimes(meta, thorough=True) == ("tosa_reference", "vgf_emulation")


def test_the_runner_lives_in_a_process_of_its_own_and_names_the_model(runners: dict[str, Any], lr: Image) -> None:
    assert isinstance(runners["w8a8"], IsolatedRunner)
    assert runners["w8a8"].name.startswith("tosa reference model 20")
    with pytest.raises(RunnerError, match="a float model for 16 bits"):
        runners["w8a8"].run_deep(lr.astype(np.uint16))
    with pytest.raises(ShapeError, match="expected a tile of 24 wide, 16 high"):
        runners["w8a8"].run(np.zeros((8, 8, 3), np.uint8))


# ------------------------------------------------------------------------------------------------------------- refusals
class Doubled(nn.Module):
    """Sorting is nothing that TOSA knows."""

    model_name, scale, tile_multiple, context = "doubled", 2, 1, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(torch.sort(x, 3).values, scale_factor=2.0, mode="nearest")


def test_a_network_in_pieces_is_refused_with_what_stays_outside(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"with nothing outside for doubled x2 fp32 .* outside") as caught:
        to_vgf.lower(job(Doubled(), tmp_path, scheme="fp32", model="doubled"))
    assert one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_float_network_under_an_int8_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="expected a QuantizedNetwork for scheme w8a8, got Doubled"):
        to_vgf.lower(job(Doubled(), tmp_path))


def test_missing_packages_are_named_with_a_cure_that_leaves_the_other_toolchains_alone(
    monkeypatch: pytest.MonkeyPatch, artifacts: dict[str, Artifact]
) -> None:
    cure = r"pip install --no-deps tosa-tools==\d"
    monkeypatch.setattr(vgf_toolchain, "_inside", lambda package, relative: None)
    with pytest.raises(MissingToolError, match=cure):
        compile_tosa(b"")
    with pytest.raises(MissingToolError, match="pip install ai-ml-sdk-scenario-runner"):
        open_runner(artifacts["w8a8"], runtime="vgf_emulation")
    monkeypatch.setattr(vgf_emulation_runner, "scenario_runner", lambda: Path("scenario-runner"))
    with pytest.raises(MissingToolError, match="ai-ml-emulation-layer-for-vulkan"):
        open_runner(artifacts["w8a8"], runtime="vgf_emulation")
    monkeypatch.setitem(sys.modules, "tosa_reference_model", None)
    with pytest.raises(MissingToolError, match=cure):
        TosaReferenceRunner(artifacts["w8a8"])


def test_executorchs_way_to_the_compiler_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "/elsewhere"):
        if before is None:
            monkeypatch.delenv("MODEL_CONVERTER_PATH", raising=False)
        else:
            monkeypatch.setenv("MODEL_CONVERTER_PATH", before)
        with vgf_toolchain.compiler_known():
            assert os.access(os.environ["MODEL_CONVERTER_PATH"], os.X_OK)
        assert os.environ.get("MODEL_CONVERTER_PATH") == before


# --------------------------------------------------------------------------------------------------------------- damage
def _payload_at(program: bytes, artifact: Artifact) -> int:
    return program.index(read_vgf_payload(artifact.main_path))


def _flip_weight(program: bytes, artifact: Artifact) -> bytes:
    changed = bytearray(program)
    changed[_payload_at(program, artifact) + len(read_vgf_payload(artifact.main_path)) - 40] ^= 0x40
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes, Artifact], bytes]] = {
    "cut in the middle": lambda program, _: program[: len(program) // 2],
    "cut at the end": lambda program, _: program[:-64],
    "empty": lambda program, _: b"",
    "other bytes": lambda program, _: b"TFL3" * 100,
    "a flipped constant": _flip_weight,
    "another backend": lambda program, _: program.replace(b"VgfBackend", b"VgfBackenD"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_program_is_refused_before_it_runs_with_a_digest_and_without(
    artifacts: dict[str, Artifact], tmp_path: Path, damage: str
) -> None:
    artifact = artifacts["w8a8"]
    program = DAMAGES[damage](artifact.main_path.read_bytes(), artifact)
    with pytest.raises(ArtifactError) as caught:
        remade(artifact, tmp_path / "digest", {MAIN: program}, digest=True)
    assert one_line(caught.value)
    with pytest.raises(EdgeSRError) as caught_later:
        TosaReferenceRunner(remade(artifact, tmp_path / "none", {MAIN: program}))
    assert one_line(caught_later.value)


@pytest.mark.parametrize("change", ["cut", "flipped", "of another network"])
def test_a_tosa_that_the_program_was_not_compiled_from_is_refused(
    artifacts: dict[str, Artifact], tmp_path: Path, change: str
) -> None:
    tosa = (artifacts["w8a8"].path / TOSA_FILE).read_bytes()
    flipped = bytearray(tosa)
    flipped[len(tosa) // 2] ^= 0x10
    other = (artifacts["fp32"].path / TOSA_FILE).read_bytes()
    content = {"cut": tosa[:-100], "flipped": bytes(flipped), "of another network": other}[change]
    with pytest.raises(RunnerError, match=r"model\.tosa") as caught:
        TosaReferenceRunner(remade(artifacts["w8a8"], tmp_path, {TOSA_FILE: content}, digest=True))
    assert one_line(caught.value)


def test_a_program_of_another_tile_than_the_artifact_says_is_refused(
    artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    meta = artifacts["w8a8"].meta
    own = meta.io[MAIN]
    tall = replace(
        own, input=replace(own.input, shape=(1, 3, 24, 16)), output=replace(own.output, shape=(1, 3, 48, 32))
    )
    other = replace(artifacts["w8a8"], meta=replace(meta, tile=(24, 16), io={MAIN: tall}))
    with pytest.raises(RunnerError, match=r"expected input \(1, 3, 24, 16\) int8 .*, got \(1, 3, 16, 24\) int8"):
        TosaReferenceRunner(remade(other, tmp_path, {}))


def test_an_artifact_without_its_tosa_is_refused(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    meta = artifacts["w8a8"].meta
    alone = replace(artifacts["w8a8"], meta=replace(meta, files={MAIN: meta.files[MAIN]}))
    with pytest.raises(RunnerError, match=r"expected model\.tosa beside"):
        TosaReferenceRunner(remade(alone, tmp_path, {}))


def test_the_digest_is_of_the_vgf_and_of_the_call_around_it(artifacts: dict[str, Artifact]) -> None:
    graph = read_graph(artifacts["w8a8"].main_path, "vgf")
    assert graph.operations() == {"VgfBackend": 1}
    digest = canonical_sha256(graph, target="vgf")
    assert digest == artifacts["w8a8"].meta.canonical_sha256
    for name in ("payload_sha256", "plan"):
        (node,) = graph.nodes
        changed = replace(node, attributes={**node.attributes, name: "another"})
        assert canonical_sha256(replace(graph, nodes=(changed,)), target="vgf") != digest, name


# ---------------------------------------------------------------------------------------------------------------- marks
class Island(nn.Module):
    """int8, then floats (a square root), then int8 again, with a clipping behind a convolution."""

    scale, tile_multiple, context, model_name = 2, 1, 2, "island"

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 12, 3, padding=1)
        with torch.no_grad():
            for conv in (self.first, self.second):
                conv.weight.copy_(torch.rand(conv.weight.shape, generator=generator) / 9 - 0.03)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.hardtanh(self.first(x), -0.3, 0.4)
        x = torch.sqrt(x * x + 0.01)
        return torch.nn.functional.pixel_shuffle(self.second(x), 2)


def test_operators_of_an_island_of_floats_are_not_marked_as_whole_numbers() -> None:
    network = quantized(Island())
    ends = {"int32_biases": True, "integer_ends": True, "round_before_clips": True}
    module = to_qdq(network, weights="int8", duplicate_dequantize=True, **ends)
    graph = torch.export.export(module, (torch.zeros((1, 3, *TILE), dtype=torch.int8),)).graph
    marked = {node.target for node in to_vgf.quantized_operators(graph)}
    aten = torch.ops.aten
    assert {aten.conv2d.default, aten.hardtanh.default} <= marked
    assert marked & {aten.sqrt.default, aten.add.Tensor} == set()


@pytest.mark.slow
def test_islands_of_floats_lower_in_the_same_delegate(tmp_path: Path, lr: Image) -> None:
    network = quantized(Island())
    artifact = export_artifact(
        network=network, scheme="w8a8", target="vgf", tile=TILE, out_dir=tmp_path, checkpoint_sha256="ab" * 32
    )
    assert (artifact.meta.delegation.delegates, artifact.meta.delegation.ops_outside) == (1, {})
    assert "the VGF inside asks for TOSA-1.0+FP+INT" in artifact.meta.notes
    with open_runner(artifact) as runner:  # type: ignore[attr-defined]
        apart = runner.run(lr).astype(int) - TorchRunner(network).run(lr)
    assert np.abs(apart).max() <= 4
    assert (apart == 0).mean() >= 0.97
