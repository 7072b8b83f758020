"""The agreement matrix: pairs from hand arithmetic, tiles that stand for a set, who cannot run, one real network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import apps.verification.agreement
from apps.verification.agreement import AgreementMatrix, compare_results, measure_agreement
from apps.verification.agreement_view import draw_agreement, print_agreement
from apps.verification.references import References
from apps.verification.sample_tiles import measure_detail, pick_tiles
from converters.artifact import Artifact, ArtifactMeta, load_artifact
from converters.export import export_artifact
from edge_sr.datasets import load_image_sets
from edge_sr.errors import ConfigError, ConversionError, MissingToolError, RunnerError
from edge_sr.images import write_image
from edge_sr.networks import create_network
from fakes import FAKE_TILE, fake_artifact
from quantization.calibration import calibrate
from quantization.quantizer import prepare

Image = NDArray[np.uint8]


# ---------------------------------------------------------------------------------------------------------- stand-ins
class Enlarge(nn.Module):
    """Copies every pixel into 4x4: a float network whose result is known."""

    scale, tile_multiple = 4, 1

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=4, mode="nearest")


class EnlargeRunner:
    """The same as a runner, with ``levels`` more of red, and ``on_noise`` more in colour pictures."""

    scale, tile = 4, FAKE_TILE

    def __init__(self, levels: int, on_noise: int = 0) -> None:
        self.levels, self.on_noise, self.name = levels, on_noise, f"fake +{levels}"

    def run(self, lr: Image) -> Image:
        large = np.kron(lr, np.ones((4, 4, 1), dtype=np.int16)).astype(np.int16)
        add = self.levels + (self.on_noise if (lr[:, :, 0] != lr[:, :, 1]).any() else 0)
        large[:, :, 0] += np.where(large[:, :, 0] > 127, -add, add).astype(np.int16)
        return large.astype(np.uint8)


class EnlargeReferences(References):
    def network(self, meta: ArtifactMeta) -> nn.Module:
        return Enlarge()

    def float_network(self, meta: ArtifactMeta) -> nn.Module:
        return Enlarge()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images: a flat one, a smooth one of four tiles, a striped one smaller than a tile."""
    data = tmp_path_factory.mktemp("data")
    folder = data / "photos"
    folder.mkdir()
    write_image(folder / "flat.png", np.full((64, 64, 3), 90, dtype=np.uint8))
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    write_image(folder / "smooth.png", np.broadcast_to(ramp[None, :, None], (128, 128, 3)).copy())
    stripes = np.zeros((48, 60, 3), dtype=np.uint8)
    stripes[:, (np.arange(60) // 4) % 2 == 1] = 255
    write_image(folder / "stripes.png", stripes)
    return data


def use_runners(monkeypatch: pytest.MonkeyPatch, runners: Mapping[str, Any]) -> None:
    def open_runner(artifact: Artifact, *, threads: int, isolated: bool, runtime: str) -> Any:
        runner = runners[runtime]
        if isinstance(runner, Exception):
            raise runner
        return runner

    monkeypatch.setattr(apps.verification.agreement, "open_runner", open_runner)


def measure(folder: Path, data: Path, targets: tuple[str, ...], **settings: Any) -> AgreementMatrix:
    artifacts = [load_artifact(fake_artifact(folder, target, scheme="fp32")) for target in targets]
    chosen = {"data": data, "sets": ["photos"], "references": EnlargeReferences(), "tiles": 5, **settings}
    (matrix,) = measure_agreement(artifacts, **chosen)
    return matrix


# -------------------------------------------------------------------------------------------------------------- pairs
def test_pair_is_measured_over_all_channel_values_of_all_tiles() -> None:
    first = [np.full((2, 2, 3), 100, dtype=np.uint8), np.full((2, 2, 3), 250, dtype=np.uint8)]
    second = [first[0].copy(), first[1].copy()]
    second[0][0, 0] = (101, 100, 98)
    second[1][1, 1, 2] = 255
    pair = compare_results(first, second, ("a", "b"))
    # 24 values: differences 1, 2, 5 and 21 zeros.
    assert (pair.max_levels, pair.worst_tile) == (5, 1)
    assert pair.mean_levels == pytest.approx((1 + 2 + 5) / 24)
    assert (pair.share_equal, pair.share_over_1, pair.share_over_2) == pytest.approx((21 / 24, 2 / 24, 1 / 24))
    assert pair.psnr_db == pytest.approx(10 * math.log10(255**2 / ((1 + 4 + 25) / 24)))
    assert pair.max_levels_by_tile == (2, 5)
    assert pair.mean_levels_by_tile == pytest.approx((3 / 12, 5 / 12))


def test_white_against_black_does_not_wrap_around() -> None:
    black, white = np.zeros((1, 1, 3), dtype=np.uint8), np.full((1, 1, 3), 255, dtype=np.uint8)
    pair = compare_results([black], [white], ("a", "b"))
    assert (pair.max_levels, pair.psnr_db) == (255, 0.0)


def test_identical_results_are_infinitely_close() -> None:
    same = [np.arange(48, dtype=np.uint8).reshape(4, 4, 3)]
    pair = compare_results(same, same, ("a", "b"))
    assert (pair.max_levels, pair.mean_levels, pair.share_equal, pair.psnr_db) == (0, 0.0, 1.0, math.inf)


# -------------------------------------------------------------------------------------------------------------- tiles
def test_tiles_hold_the_most_detailed_the_flattest_and_noise(photos: Path) -> None:
    tiles = pick_tiles(load_image_sets(photos, ["photos"], 4), FAKE_TILE, 5)
    assert [(tile.kind, tile.image) for tile in tiles] == [
        ("most detailed", "stripes"),
        ("flattest", "flat"),
        ("spread", "smooth"),
        ("noise", ""),
    ]
    assert tiles[1].detail == 0.0
    assert all(tile.lr.shape == (16, 16, 3) for tile in tiles)
    again = pick_tiles(load_image_sets(photos, ["photos"], 4), FAKE_TILE, 5)
    assert all(np.array_equal(one.lr, other.lr) for one, other in zip(tiles, again, strict=True))


def test_detail_is_the_mean_step_between_neighbours() -> None:
    grey = np.zeros((2, 2, 3), dtype=np.uint8)
    grey[:, 1] = 255
    # Two horizontal steps of 219 levels of luma, two vertical ones of none.
    assert measure_detail(grey) == pytest.approx((219 + 219 + 0 + 0) / 4, abs=1e-6)


def test_mirrored_pixels_of_a_small_image_are_not_scored(photos: Path) -> None:
    tiles = pick_tiles(load_image_sets(photos, None, 4), FAKE_TILE, 4)
    stripes = next(tile for tile in tiles if tile.image == "stripes")
    assert stripes.hr is not None
    assert stripes.hr.shape == (48, 60, 3)
    result = np.zeros((64, 64, 3), dtype=np.uint8)
    result[:48, :60] = stripes.hr
    assert stripes.psnr_y_db(result, 4) == math.inf


def test_noise_has_no_ground_truth(photos: Path) -> None:
    noise = pick_tiles(load_image_sets(photos, None, 4), FAKE_TILE, 3)[-1]
    assert noise.psnr_y_db(np.zeros((64, 64, 3), dtype=np.uint8), 4) is None


def test_too_few_tiles_are_refused(photos: Path) -> None:
    with pytest.raises(ConfigError, match="3 or more tiles"):
        pick_tiles(load_image_sets(photos, None, 4), FAKE_TILE, 2)


# ------------------------------------------------------------------------------------------------------------- matrix
def test_every_pair_of_participants_is_compared(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_runners(monkeypatch, {"tflite": EnlargeRunner(1), "executorch": EnlargeRunner(2)})
    matrix = measure(tmp_path, photos, ("tflite", "executorch"))
    assert [participant.name for participant in matrix.participants] == ["float", "TFLite", "ExecuTorch"]
    found = {(pair.first, pair.second): (pair.max_levels, pair.mean_levels) for pair in matrix.pairs}
    # One channel of three is off by so much on every pixel.
    assert found == {
        ("float", "TFLite"): (1, pytest.approx(1 / 3)),
        ("float", "ExecuTorch"): (2, pytest.approx(2 / 3)),
        ("TFLite", "ExecuTorch"): (1, pytest.approx(1 / 3)),
    }
    assert matrix.max_levels == 2
    assert matrix.pair("ExecuTorch", "float") is matrix.pair("float", "ExecuTorch")
    assert matrix.divergences == ()


def test_the_gpu_takes_part_in_a_thorough_comparison_and_says_why_where_it_is_absent(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runners = {"tflite": EnlargeRunner(0), "webgpu": EnlargeRunner(1), "webgpu_fp16": MissingToolError("no lavapipe")}
    use_runners(monkeypatch, runners)
    matrix = measure(tmp_path, photos, ("tflite",), thorough=True)
    assert [(participant.name, participant.reason) for participant in matrix.participants] == [
        ("float", None),
        ("TFLite", None),
        ("WebGPU (SwiftShader, fp32)", None),
        ("WebGPU (lavapipe, fp16)", "no lavapipe"),
    ]
    pair = matrix.pair("TFLite", "WebGPU (SwiftShader, fp32)")
    assert pair is not None
    assert pair.max_levels == 1


def test_participant_that_cannot_run_is_listed_with_its_reason(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_runners(monkeypatch, {"tflite": EnlargeRunner(0), "executorch": RunnerError("refused")})
    matrix = measure(tmp_path, photos, ("tflite", "executorch"))
    (absent,) = [participant for participant in matrix.participants if participant.reason is not None]
    assert (absent.name, absent.reason, absent.psnr_y_db) == ("ExecuTorch", "refused", None)
    assert [(pair.first, pair.second) for pair in matrix.pairs] == [("float", "TFLite")]
    print_agreement(matrix)
    assert "did not run: refused" in capsys.readouterr().out


def test_ground_truth_score_is_the_mean_over_the_tiles_of_photos(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runners(monkeypatch, {"tflite": EnlargeRunner(9)})
    matrix = measure(tmp_path, photos, ("tflite",), diverging=False)
    scores = [score for tile in matrix.tiles if (score := tile.psnr_y_db(EnlargeRunner(9).run(tile.lr), 4)) is not None]
    assert len(scores) == 3
    assert matrix.participants[1].psnr_y_db == pytest.approx(sum(scores) / 3)


def test_artifacts_of_other_networks_are_not_compared(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runners(monkeypatch, {"tflite": EnlargeRunner(0)})
    artifacts = []
    for index in (1, 2):
        folder = tmp_path / str(index)
        folder.mkdir()
        artifacts.append(load_artifact(fake_artifact(folder, scheme="fp32", checkpoint_sha256=str(index) * 64)))
    matrices = measure_agreement(
        artifacts, data=photos, sets=["photos"], references=EnlargeReferences(), tiles=3, diverging=False
    )
    assert [matrix.checkpoint_sha256[0] for matrix in matrices] == ["1", "2"]
    assert [len(matrix.pairs) for matrix in matrices] == [1, 1]


def test_same_target_twice_in_a_group_keeps_two_names(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runners(monkeypatch, {"tflite": EnlargeRunner(0)})
    artifact = load_artifact(fake_artifact(tmp_path, scheme="fp32"))
    (matrix,) = measure_agreement(
        [artifact, artifact, artifact], data=photos, sets=None, references=EnlargeReferences(), tiles=3
    )
    names = [participant.name for participant in matrix.participants]
    assert len(set(names)) == len(names) == 4


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one artifact"):
        measure_agreement([], data=None, sets=None)


# --------------------------------------------------------------------------------------------------------- divergence
def test_search_starts_above_two_levels_and_on_the_worst_tile(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def find_divergence(network: nn.Module, **settings: Any) -> Any:
        asked.append((settings["participant"], settings["tile_label"]))
        raise ConversionError("no toolchain")

    monkeypatch.setattr(apps.verification.agreement, "find_divergence", find_divergence)
    use_runners(monkeypatch, {"tflite": EnlargeRunner(0, on_noise=3), "executorch": EnlargeRunner(2)})
    matrix = measure(tmp_path, photos, ("tflite", "executorch"))
    # The photos are grey. On noise TFLite is 3 levels off; ExecuTorch is 2 off everywhere, and 1 from TFLite there.
    assert asked == [("TFLite", "noise")]
    assert matrix.divergence_reasons == (("TFLite", "no toolchain"),)
    pair = matrix.pair("float", "TFLite")
    assert pair is not None
    assert (pair.max_levels, matrix.photo_max_levels(pair)) == (3, 0)
    print_agreement(matrix)
    assert "TFLite: no search for the first diverging layer: no toolchain" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- views
def test_heat_map_is_drawn_and_the_table_holds_every_pair(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_runners(monkeypatch, {"tflite": EnlargeRunner(0), "executorch": EnlargeRunner(1)})
    matrix = measure(tmp_path, photos, ("tflite", "executorch"))
    drawn = draw_agreement(matrix)
    assert len(drawn) == len(matrix.participants)
    for row, (name, cells) in enumerate(drawn):
        assert [cell is None for cell in cells] == [column == row for column in range(len(drawn))]
        for other, cell in zip(matrix.participants, cells, strict=True):
            pair = matrix.pair(name, other.name) if cell else None
            assert cell is None or (pair is not None and cell.max_levels == pair.max_levels)
    warmth = {cell.max_levels: cell.warmth for _, cells in drawn for cell in cells if cell}
    assert warmth[0] == 0.0
    assert warmth == {levels: levels / 4 for levels in warmth}, "four levels are as warm as can be"
    print_agreement(matrix)
    printed = capsys.readouterr().out
    assert "identical" in printed
    assert "66.6667%" in printed  # one channel of three differs
    assert draw_agreement(replace(matrix, participants=matrix.participants[:1], pairs=())) == []


def test_json_names_tiles_without_their_pixels(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_runners(monkeypatch, {"tflite": EnlargeRunner(0)})
    saved = measure(tmp_path, photos, ("tflite",)).to_json()
    assert saved["pairs"][0]["psnr_db"] == "inf"
    assert saved["tiles"][0] == {
        "kind": "most detailed",
        "set_name": "photos",
        "image": "stripes",
        "top": 0,
        "left": 0,
        "detail": saved["tiles"][0]["detail"],
    }


# ------------------------------------------------------------------------------------------------------- a real network
def test_fake_quantized_network_its_graph_and_its_file_agree(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    torch.manual_seed(0)
    deployed = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval().deployed()
    network = prepare(deployed, "w8a8")
    generator = torch.Generator().manual_seed(1)
    calibrate(network, [torch.rand((2, 3, *FAKE_TILE), generator=generator), torch.ones(1, 3, *FAKE_TILE)])
    artifact = export_artifact(
        network=network, scheme="w8a8", target="tflite", tile=FAKE_TILE, out_dir=tmp_path, checkpoint_sha256="ab" * 32
    )
    monkeypatch.setattr(References, "network", lambda self, meta: network)
    (matrix,) = measure_agreement([artifact], data=photos, sets=None, tiles=4, isolated=False, diverging=False)
    assert [participant.name for participant in matrix.participants] == ["fake-quant", "QDQ", "TFLite"]
    assert all(participant.reason is None for participant in matrix.participants)
    # A sum that lies exactly between two levels is rounded one way by PyTorch and the other way by XNNPACK; later
    # layers see one level more.
    assert matrix.max_levels is not None
    assert matrix.max_levels <= 2
    scores = [participant.psnr_y_db for participant in matrix.participants]
    assert scores[1:] == pytest.approx([scores[0]] * 2, abs=0.1)
