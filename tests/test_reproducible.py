"""One checkpoint gives one artifact, byte for byte; the canonical hash sees what is computed and nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apps.weights import resolve_weights
from converters.artifact import Artifact, load_artifact
from converters.graphs import read_graph
from converters.graphs.executorch_reader import ExecuTorchProgram
from converters.graphs.flatbuffer_schema import FlatbufferSchema
from converters.graphs.graph import ComputeGraph, Node, Value, canonical_sha256
from converters.graphs.summary import ArtifactSummary, summarize
from edge_sr.checkpoints import save_checkpoint
from edge_sr.errors import ArtifactError
from edge_sr.images import write_image
from edge_sr.networks import create_network

for _package in ("litert_torch", "ai_edge_litert", "executorch", "coremltools"):
    if importlib.util.find_spec(_package) is None:
        pytest.skip(f"{_package} is not installed", allow_module_level=True)

TARGETS = ("tflite", "executorch", "coreml")
# In a process of its own: export from a float checkpoint, quantized after training, for every target.
EXPORT = """
import sys, torch
from apps.cli import main
torch.set_num_threads(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""
# What may differ from one process to the next, and what a second machine would differ in.
SETTINGS: tuple[dict[str, str], ...] = (
    {"threads": "1", "PYTHONHASHSEED": "1"},
    {"threads": "2", "PYTHONHASHSEED": "2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4)
    torch.nn.init.normal_(network.up.weight, std=0.05)  # type: ignore[union-attr, arg-type]
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, network, {})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        write_image(folder / f"{name}.png", np.kron(coarse, np.ones((8, 8, 1), np.uint8)))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, photos: Path) -> list[Path]:
    """Two export commands in fresh processes that have little in common."""
    folders = []
    for number, setting in enumerate(SETTINGS):
        home = tmp_path_factory.mktemp(f"run{number}")
        words = ["export", "--checkpoint", str(checkpoint), "--calibration", str(photos), "--tile", "16x16"]
        words += ["--overlap", "4", "--scheme", "w8a8", "--out", str(home / "out")]
        environment = {**os.environ, **setting, "TMPDIR": str(home)}
        command = [sys.executable, "-c", EXPORT, setting["threads"], *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        folders.append(home / "out")
    return folders


def artifact_of(folder: Path, target: str) -> Artifact:
    return load_artifact(folder / f"idsa_net_mobile_x4_w8a8_{target}_16x16")


@pytest.fixture(scope="module")
def artifacts(runs: list[Path]) -> dict[str, Artifact]:
    return {target: artifact_of(runs[0], target) for target in TARGETS}


@pytest.fixture(scope="module")
def summaries(artifacts: dict[str, Artifact]) -> dict[str, ArtifactSummary]:
    return {
        target: summarize(read_graph(artifact.main_path, target), target=target, canonical_sha256="")
        for target, artifact in artifacts.items()
    }


# ----------------------------------------------------------------------------------------------------- byte for byte
@pytest.mark.parametrize("target", TARGETS)
def test_two_processes_write_the_same_bytes(runs: list[Path], target: str) -> None:
    first, second = (artifact_of(folder, target).meta for folder in runs)
    assert first.files == second.files
    assert first.canonical_sha256 == second.canonical_sha256 is not None
    assert first.calibration_sha256 == second.calibration_sha256 is not None


@pytest.mark.parametrize("target", TARGETS)
def test_artifact_json_differs_in_nothing_but_what_the_runtime_computed(runs: list[Path], target: str) -> None:
    texts = [json.loads((artifact_of(folder, target).path / "artifact.json").read_text()) for folder in runs]
    for text in texts:
        # The self-test holds pixels, which Core ML's evaluator computes with torch on this very processor.
        text.pop("self_test", None)
        text.pop("sha256")
    assert texts[0] == texts[1]


# -------------------------------------------------------------------------------------------------------- three readers
def test_three_formats_hold_the_same_layers(summaries: dict[str, ArtifactSummary]) -> None:
    shapes = {target: [layer.weight.shape for layer in entry.layers] for target, entry in summaries.items()}
    assert len(shapes["tflite"]) > 5
    assert shapes["tflite"] == shapes["executorch"] == shapes["coreml"]
    for tflite, executorch, coreml in zip(*(summaries[target].layers for target in TARGETS), strict=True):
        if tflite.weight.shape[0] != 48:  # TFLite's pixel shuffle wants the channels in another order
            np.testing.assert_array_equal(tflite.weight, executorch.weight)
        # Scales of float16: rounded by half a unit of an 11-bit mantissa.
        np.testing.assert_allclose(coreml.weight, executorch.weight, rtol=2.0**-11)


def test_scales_in_the_files_are_those_of_the_network(
    summaries: dict[str, ArtifactSummary], checkpoint: Path, photos: Path
) -> None:
    weights = resolve_weights("idsa_net_mobile", 4, "w8a8", checkpoint=checkpoint, calibration=photos)
    grids: Any = weights.network
    expected = {np.float32(grid.qparams()[0]) for _, grid in grids.grids()}
    for target in ("tflite", "executorch"):
        assert {np.float32(entry.qscale) for entry in summaries[target].activation_scales} == expected


# ----------------------------------------------------------------------------------------------------- canonical hash
def chain(*, names: str = "", swap: bool = False, value: float = 2.0, kind: str = "mul", dead: bool = False) -> str:
    """Hash of ``input * constant`` and ``input + constant``, added; two nodes of it may come in either order."""
    constant = np.array([value], np.float32)
    values = [
        Value(name=f"{names}{number}", dtype="float32", shape=(1,), data=constant if number == 1 else None)
        for number in range(6)
    ]
    branches = [
        Node(kind=kind, inputs=(0, 1), outputs=(2,), attributes={"a": 1}, name=f"{names}x"),
        Node(kind="add", inputs=(0, 1), outputs=(3,), attributes={}, name=f"{names}y"),
    ]
    nodes = [*(reversed(branches) if swap else branches), Node(kind="add", inputs=(2, 3), outputs=(4,), attributes={})]
    if dead:
        nodes.append(Node(kind="relu", inputs=(4,), outputs=(5,), attributes={}))
    graph = ComputeGraph(values=tuple(values), nodes=tuple(nodes), inputs=(0,), outputs=(4,))
    return canonical_sha256(graph, target="any")


def test_names_order_and_unread_results_do_not_count() -> None:
    assert len({chain(), chain(names="other"), chain(swap=True), chain(dead=True)}) == 1


def test_constants_kinds_and_targets_count() -> None:
    assert len({chain(), chain(value=2.0000002), chain(kind="sub")}) == 3


def test_a_node_that_reads_what_nothing_made_is_refused() -> None:
    value = Value(name="lost", dtype="float32", shape=(1,))
    node = Node(kind="relu", inputs=(1,), outputs=(2,), attributes={}, name="r")
    graph = ComputeGraph(values=(value, value, value), nodes=(node,), inputs=(0,), outputs=(2,))
    with pytest.raises(ArtifactError, match="expected relu 'r' to read a value made before, got 'lost'"):
        canonical_sha256(graph, target="any")


def _flip_program(artifact: Artifact, path: Path) -> None:
    """Change one byte of the largest named constant of a program."""
    content = artifact.main_path.read_bytes()
    largest = max(ExecuTorchProgram(artifact.main_path).constants.values(), key=len)
    place = content.index(largest)
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def _flip_tflite(artifact: Artifact, path: Path) -> None:
    from converters.tflite_graph import read_model, write_model

    model = read_model(artifact.main_path)
    buffer = max((buffer for buffer in model.buffers if buffer.data is not None), key=lambda entry: len(entry.data))
    buffer.data = np.array(buffer.data)
    buffer.data[0] ^= 1
    write_model(model, path)


def _flip_package(artifact: Artifact, path: Path) -> None:
    import shutil

    shutil.copytree(artifact.main_path, path)
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    content[128] ^= 1  # the first byte of the first blob
    weights.write_bytes(content)


@pytest.mark.parametrize(
    ("target", "flip"), [("executorch", _flip_program), ("tflite", _flip_tflite), ("coreml", _flip_package)]
)
def test_one_bit_of_one_weight_changes_the_hash(
    artifacts: dict[str, Artifact], tmp_path: Path, target: str, flip: Callable[[Artifact, Path], None]
) -> None:
    artifact = artifacts[target]
    altered = tmp_path / artifact.main_path.name
    flip(artifact, altered)
    before = canonical_sha256(read_graph(artifact.main_path, target), target=target)
    assert before == artifact.meta.canonical_sha256
    assert canonical_sha256(read_graph(altered, target), target=target) != before


def test_other_names_and_metadata_keep_the_hash(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    from converters.tflite_graph import read_model, write_model

    model = read_model(artifacts["tflite"].main_path)
    model.description, model.metadata = b"made elsewhere", []
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        tensor.name = f"tensor {number}".encode()
    path = tmp_path / "renamed.tflite"
    write_model(model, path)
    assert path.read_bytes() != artifacts["tflite"].main_path.read_bytes()
    found = canonical_sha256(read_graph(path, "tflite"), target="tflite")
    assert found == artifacts["tflite"].meta.canonical_sha256


# -------------------------------------------------------------------------------------------------- flatbuffers, .pte
SCHEMA = """
namespace test;
enum Color : short { red = 1, green, blue = 7 }
union Shape { Circle, Box: Rectangle }   // a comment { with braces }
table Circle { radius: float; }
table Rectangle { sides: [uint]; old: int (deprecated); label: string; }
table Scene { color: Color = green; count: ulong = 12; on: bool = true; shape: Shape; parts: [Rectangle];
  names: [string]; bytes: [ubyte] (force_align: 16); }
root_type Scene;
"""


def _flatc() -> Path:
    found = importlib.util.find_spec("executorch")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations))) / "data" / "bin" / "flatc"


def test_a_buffer_that_flatc_wrote_is_read_as_its_json(tmp_path: Path) -> None:
    content = {
        "color": "blue",
        "shape_type": "Box",
        "shape": {"sides": [3, 4], "label": "größer"},
        "parts": [{"sides": []}, {"label": "x"}],
        "names": ["a", "bc"],
        "bytes": [1, 2, 255],
    }
    (tmp_path / "s.fbs").write_text(SCHEMA, encoding="utf-8")
    (tmp_path / "s.json").write_text(json.dumps(content), encoding="utf-8")
    words = [str(_flatc()), "--binary", "-o", str(tmp_path), str(tmp_path / "s.fbs"), str(tmp_path / "s.json")]
    subprocess.run(words, check=True)
    read = FlatbufferSchema(SCHEMA).read((tmp_path / "s.bin").read_bytes(), "Scene")
    member, shape = read["shape"]
    assert (read["color"], read["count"], read["on"], member) == ("blue", 12, True, "Box")
    assert shape["sides"].tolist() == [3, 4]
    assert "old" not in shape
    assert shape["label"] == "größer"
    assert [part["label"] for part in read["parts"]] == [None, "x"]
    assert read["names"] == ["a", "bc"]
    assert read["bytes"].tolist() == [1, 2, 255]


def test_damaged_programs_are_refused_or_read_but_never_crash(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    content = artifacts["executorch"].main_path.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.pte"
    refused = 0
    for number in range(200):
        damaged = bytearray(content)
        if number % 2:
            damaged = damaged[: int(rng.integers(len(content)))]
        for place in rng.integers(0, max(len(damaged), 1), 20):
            if place < len(damaged):
                damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            read_graph(path, "executorch")
        except ArtifactError:
            refused += 1
    assert refused >= 100  # every one that was cut
