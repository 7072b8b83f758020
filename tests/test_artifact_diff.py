"""``edge-sr diff``: every difference that was made by hand is found, with its size, and nothing else is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from apps.cli import main
from apps.verification.artifact_diff import diff_artifacts
from apps.verification.layer_diff import compare_layers
from converters.artifact import Artifact
from converters.graphs.summary import Layer
from edge_sr.images import write_image

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from hand_made import LEVEL, TILE, WEIGHT_SCALE, repeater_artifact


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return repeater_artifact(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture of mid tones, so that a level more is never clipped."""
    folder = tmp_path_factory.mktemp("photos")
    coarse = np.random.default_rng(0).integers(90, 160, (TILE[0], TILE[1], 3), dtype=np.uint8)
    write_image(folder / "one.png", np.kron(coarse, np.ones((2, 2, 1), np.uint8)))
    return folder


# ---------------------------------------------------------------------------------------------------- what is equal
def test_an_artifact_beside_itself_is_the_same(plain: Artifact) -> None:
    diff = diff_artifacts(plain.path, plain.path)
    assert diff.same_bytes
    assert diff.same_computation
    assert diff.exit_code == 0
    assert diff.fields == diff.tools == diff.files == diff.delegation == diff.outputs == ()
    assert diff.graph is not None
    assert diff.graph.changed_layers == diff.graph.ops == ()


def test_other_names_attribution_and_unread_constants_compute_the_same(plain: Artifact, tmp_path: Path) -> None:
    other = repeater_artifact(tmp_path, prefix="some/other/", extra=True, attribution="by hand")
    diff = diff_artifacts(plain.path, other.path)
    assert not diff.same_bytes
    assert diff.same_computation
    assert diff.exit_code == 0
    assert [change.name for change in diff.fields] == ["weights_attribution"]
    assert [change.name for change in diff.files] == ["model.tflite"]


# ------------------------------------------------------------------------------------------------ what is different
def test_another_overlap_is_another_computation(plain: Artifact, tmp_path: Path) -> None:
    diff = diff_artifacts(plain.path, repeater_artifact(tmp_path, overlap=4).path, outputs=False)
    assert diff.same_bytes
    assert diff.exit_code == 1
    assert [(change.name, change.before, change.after) for change in diff.fields] == [("overlap", 2, 4)]


def test_a_changed_weight_is_found_with_its_size(plain: Artifact, tmp_path: Path) -> None:
    diff = diff_artifacts(plain.path, repeater_artifact(tmp_path, weight=100).path, outputs=False)
    assert diff.exit_code == 1
    assert diff.graph is not None
    (layer,) = diff.graph.changed_layers
    assert layer.before == "#1 conv 1x1 3->12"
    assert layer.max_difference == pytest.approx(27 / 127)
    assert layer.relative_difference == pytest.approx(27 / 127)
    assert layer.bias_difference == 0
    assert diff.graph.weights.changed == 0
    assert diff.graph.activations.changed == 0


def test_a_changed_scale_is_found_with_its_ratio(plain: Artifact, tmp_path: Path) -> None:
    diff = diff_artifacts(plain.path, repeater_artifact(tmp_path, weight_scale=1.25 * WEIGHT_SCALE).path, outputs=False)
    assert diff.graph is not None
    assert (diff.graph.weights.compared, diff.graph.weights.changed) == (12, 12)
    assert diff.graph.weights.largest_ratio == pytest.approx(1.25)
    assert diff.graph.weights.where == "#1 conv 1x1 3->12"
    assert diff.graph.layers[0].max_difference == pytest.approx(0.25)


def test_one_level_of_bias_is_one_level_of_every_pixel(plain: Artifact, tmp_path: Path, photos: Path) -> None:
    diff = diff_artifacts(plain.path, repeater_artifact(tmp_path, bias=127).path, data=photos)
    (output,) = diff.outputs
    assert output.image == "one"
    assert output.max_levels == 1
    assert output.mean_levels == 1.0
    assert output.differing_percent == 100.0
    assert output.between_db == pytest.approx(20 * math.log10(255))
    assert diff.graph is not None
    assert diff.graph.changed_layers[0].bias_difference == pytest.approx(LEVEL)


def test_reordered_channels_are_put_in_order_before_they_are_compared() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 3, 1, 1))
    weight[5] = weight[2]  # equal channels have no order of their own
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    layers = [
        Layer(label=label, name="", dtype="float32", weight=rows, bias=rows[:, 0, 0, 0] * 2, weight_qscale=None)
        for label, rows in (("first", weight), ("second", weight[order]))
    ]
    ((change,), unmatched) = compare_layers(layers[:1], layers[1:])
    assert change.reordered
    assert change.max_difference == change.bias_difference == 0
    assert unmatched == ((), ())


def test_layers_of_other_shapes_are_left_over() -> None:
    layers = [
        Layer(label=f"{size}", name="", dtype="float32", weight=np.ones((size, 1)), bias=None, weight_qscale=None)
        for size in (2, 3, 4)
    ]
    changes, unmatched = compare_layers(layers[:2], layers[1:])
    assert [(change.before, change.after) for change in changes] == [("3", "3")]
    assert unmatched == (("2",), ("4",))


# ----------------------------------------------------------------------------------------------------- command line
def test_exit_status_is_that_of_diff(plain: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(plain.path), str(plain.path)]) == 0
    assert "same: every model file is identical" in capsys.readouterr().out
    other = repeater_artifact(tmp_path / "other", weight=100).path
    result = tmp_path / "diff.json"
    assert main(["diff", str(plain.path), str(other), "--no-run", "--json", str(result)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("different")
    assert "#1 conv 1x1 3->12" in said
    assert "21.26%" in said  # 27 of 127
    saved = json.loads(result.read_text(encoding="utf-8"))
    assert saved["kind"] == "edge-sr/diff"
    assert saved["same_computation"] is False
    assert saved["summaries"][0]["ops"] == {"CONV_2D": 1, "DEPTH_TO_SPACE": 1}
    assert main(["diff", str(plain.path), str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("error: expected an artifact folder")


def test_an_altered_file_is_refused_before_anything_is_compared(
    plain: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = repeater_artifact(tmp_path).path
    content = bytearray((other / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (other / "model.tflite").write_bytes(content)
    assert main(["diff", str(plain.path), str(other)]) == 2
    assert "altered file" in capsys.readouterr().err
