"""The waterfall: drops that add up, the image and the tile that lose most, reasons where a number is missing."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import apps.verification.waterfall
from apps.progress import Progress, quiet
from apps.verification.accuracy import VerifyReport
from apps.verification.gate import GateLimits
from apps.verification.references import References
from apps.verification.rows import VerifyRow
from apps.verification.waterfall import FLOAT_SCHEME, WaterfallRow, measure_waterfall
from apps.verification.waterfall_view import (
    amplified_difference,
    draw_waterfall,
    draw_worst_tiles,
    print_waterfall,
)
from apps.verification.worst_tile import find_worst_tile
from apps.weights import calibration_batches
from converters.artifact import Artifact, ArtifactMeta, load_artifact
from edge_sr.checkpoints import bundled_checkpoint, save_checkpoint, sha256_file
from edge_sr.datasets import ImagePair
from edge_sr.errors import CheckpointError, ConfigError, RunnerError
from edge_sr.evaluation import ImageScore, SetScore
from edge_sr.images import write_image
from edge_sr.networks import create_network
from fakes import FAKE_TILE, fake_artifact
from quantization.quantizer import QuantizedNetwork

Image = NDArray[np.uint8]
# Of grey 100, in whole levels of BT.601 studio range.
GREY_LUMA = math.floor(16 + 219 / 255 * 100 + 0.5)


# ----------------------------------------------------------------------------------------------------------- stand-ins
class Offset(nn.Module):
    """Enlarges by copying pixels and adds ``levels`` to every one: its error against a copied HR image is known."""

    scale, tile_multiple, model_name, context = 4, 1, "offset", 0

    def __init__(self, levels: float) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=4, mode="nearest") + self.levels / 255.0


class OffsetRunner:
    """The same as a runner; ``corner`` levels more where a tile's LR corner pixel is brighter than 150."""

    name, scale, tile = "fake", 4, FAKE_TILE

    def __init__(self, levels: int, corner: int = 0) -> None:
        self.levels, self.corner, self.runs = levels, corner, 0

    def run(self, lr: Image) -> Image:
        self.runs += 1
        add = self.levels + (self.corner if lr[0, 0, 0] > 150 else 0)
        large = np.kron(lr, np.ones((4, 4, 1), dtype=np.uint8))
        return np.clip(large.astype(np.int16) + add, 0, 255).astype(np.uint8)


class FixedReferences(References):
    """Networks of known error in place of those of an artifact."""

    def __init__(self, *, floating: float, quantized: float | None, progress: Progress = quiet) -> None:
        super().__init__(progress=progress)
        self._float = Offset(floating)
        self._quantized = None if quantized is None else Offset(quantized)

    def float_network(self, meta: ArtifactMeta) -> nn.Module:
        return self._float

    def network(self, meta: ArtifactMeta) -> nn.Module:
        if self._quantized is None:
            raise CheckpointError("expected the checkpoint behind it, got none")
        return self._quantized


def grey_psnr(levels: int) -> float:
    """PSNR-Y of a grey image that is ``levels`` too bright, from the definition of BT.601 studio luma.

    Grey g has luma 16 + 219/255 g; on the greys used here both sides round to whole levels.
    """
    return 10 * math.log10(255**2 / (math.floor(16 + 219 / 255 * (100 + levels) + 0.5) - GREY_LUMA) ** 2)


@pytest.fixture
def greys(tmp_path: Path) -> Path:
    """One HR image of uniform grey 100, as large as six tiles: copying LR pixels gives it back exactly."""
    folder = tmp_path / "data" / "greys"
    folder.mkdir(parents=True)
    write_image(folder / "grey.png", np.full((128, 192, 3), 100, dtype=np.uint8))
    return tmp_path / "data"


def use_runner(monkeypatch: pytest.MonkeyPatch, runner: object) -> None:
    def open_runner(artifact: Artifact, *, threads: int, isolated: bool, runtime: str) -> object:
        if isinstance(runner, Exception):
            raise runner
        return runner

    monkeypatch.setattr(apps.verification.waterfall, "open_runner", open_runner)


def measure(folder: Path, data: Path, references: References, **settings: Any) -> WaterfallRow:
    artifact = load_artifact(fake_artifact(folder, scheme=settings.pop("scheme", "w8a8")))
    report = measure_waterfall([artifact], data=data, sets=["greys"], references=references, **settings)
    (row,) = report.rows
    return row


def score_of(psnr: float, **images: float) -> SetScore:
    scores = images or {"grey": psnr}
    return SetScore(
        set_name="greys",
        scale=4,
        images=tuple(ImageScore(name=name, psnr_y_db=value, ssim=None) for name, value in scores.items()),
    )


def row_of(**changes: Any) -> WaterfallRow:
    row = WaterfallRow(
        artifact_path=Path("net_w8a8"),
        model="net",
        scale=4,
        scheme="w8a8",
        target="tflite",
        runtime="tflite",
        tile=FAKE_TILE,
        overlap=4,
        set_name="greys",
        float_whole=score_of(30.0),
        float_tiled=score_of(29.875),
        fake_quant=score_of(29.625),
        artifact=score_of(29.5625),
    )
    return replace(row, **changes)


# ------------------------------------------------------------------------------------------------------------- drops
def test_drops_are_differences_of_neighbouring_stages_and_add_up() -> None:
    row = row_of()
    assert row.tiling_drop_db == 0.125
    assert row.quantization_drop_db == 0.25
    assert row.conversion_drop_db == 0.0625
    assert row.drop_db == 0.125 + 0.25 + 0.0625
    assert row.culprit == "quantization"


def test_gain_is_a_negative_drop_and_never_the_culprit() -> None:
    row = row_of(fake_quant=score_of(30.125))
    assert row.quantization_drop_db == -0.25
    assert row.culprit == "conversion"
    assert row.drop_db == pytest.approx(0.125 - 0.25 + 0.5625, abs=1e-12)


def test_float_scheme_has_no_quantization_step() -> None:
    row = row_of(scheme="fp32", fake_quant=None, fake_quant_reason=FLOAT_SCHEME)
    assert row.quantization_drop_db is None
    assert row.conversion_drop_db == 29.875 - 29.5625
    assert row.drop_db == 0.125 + 0.3125
    assert row.reasons == ()


def test_quantized_artifact_without_its_network_has_no_conversion_drop() -> None:
    row = row_of(fake_quant=None, fake_quant_reason="no checkpoint")
    assert (row.quantization_drop_db, row.conversion_drop_db) == (None, None)
    assert row.drop_db == 0.4375
    assert row.reasons == ("no checkpoint",)


def test_two_perfect_stages_differ_by_nothing() -> None:
    perfect = score_of(math.inf)
    row = row_of(float_whole=perfect, float_tiled=perfect, fake_quant=perfect, artifact=perfect)
    assert (row.drop_db, row.culprit) == (0.0, None)
    assert row.to_json()["artifact_psnr_y_db"] == 100.0


def test_image_that_loses_most_need_not_be_the_lowest() -> None:
    row = row_of(float_whole=score_of(0, a=30.0, b=40.0), artifact=score_of(0, a=29.875, b=39.5))
    assert row.largest_drop is not None
    assert row.lowest is not None
    assert (row.largest_drop.name, row.largest_drop.drop_db, row.lowest.name) == ("b", 0.5, "a")


# ------------------------------------------------------------------------------------------------------ measured rows
def test_each_stage_is_scored_with_its_own_network(
    tmp_path: Path, greys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runner(monkeypatch, OffsetRunner(15))
    row = measure(tmp_path, greys, FixedReferences(floating=5, quantized=10), isolated=False)
    expected = [grey_psnr(5), grey_psnr(5), grey_psnr(10), grey_psnr(15)]
    stages = (row.float_whole, row.float_tiled, row.fake_quant, row.artifact)
    assert [None if stage is None else stage.psnr_y_db for stage in stages] == pytest.approx(expected, abs=1e-9)
    assert row.tiling_drop_db == pytest.approx(0.0, abs=1e-12)
    assert row.quantization_drop_db == pytest.approx(grey_psnr(5) - grey_psnr(10), abs=1e-9)
    assert row.conversion_drop_db == pytest.approx(grey_psnr(10) - grey_psnr(15), abs=1e-9)


def _ended(works: list[str]) -> Progress:
    """Collects the names of the pieces of work that have ended."""

    def progress(what: str, done: float, total: int, detail: str = "") -> None:
        if done == total:
            works.append(what)

    return progress


def test_scores_of_verification_are_not_computed_again(
    tmp_path: Path, greys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = OffsetRunner(15)
    use_runner(monkeypatch, runner)
    artifact = load_artifact(fake_artifact(tmp_path))
    meta = artifact.meta
    known = VerifyRow(
        artifact_path=artifact.path,
        model=meta.model,
        scheme=meta.scheme,
        target=meta.target,
        runtime="tflite",
        tile=meta.tile,
        overlap=meta.overlap,
        float_whole=score_of(33.0),
        float_tiled=score_of(32.5),
        artifact=score_of(31.0),
    )
    done: list[str] = []
    references = FixedReferences(floating=5, quantized=10, progress=_ended(done))
    report = measure_waterfall(
        [artifact],
        data=greys,
        sets=["greys"],
        references=references,
        verified=VerifyReport(rows=(known,), limits=GateLimits(), checks=()),
        worst_tiles=False,
    )
    (row,) = report.rows
    assert (row.drop_db, row.tiling_drop_db) == (2.0, 0.5)
    assert runner.runs == 0
    assert [what.split(",")[0] for what in done] == ["fake-quant network"]


def test_one_network_is_scored_once_for_all_its_artifacts(
    tmp_path: Path, greys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runner(monkeypatch, OffsetRunner(15))
    done: list[str] = []
    references = FixedReferences(floating=5, quantized=10, progress=_ended(done))
    artifacts = [load_artifact(fake_artifact(tmp_path, target)) for target in ("tflite", "executorch")]
    report = measure_waterfall(artifacts, data=greys, sets=None, references=references, worst_tiles=False)
    assert [row.target for row in report.rows] == ["tflite", "executorch"]
    assert len(done) == 3  # float whole, float tiled, fake-quant tiled


def test_missing_network_costs_its_own_stage_only(tmp_path: Path, greys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_runner(monkeypatch, OffsetRunner(15))
    row = measure(tmp_path, greys, FixedReferences(floating=5, quantized=None), worst_tiles=False)
    assert (row.fake_quant, row.quantization_drop_db) == (None, None)
    assert row.reasons == ("expected the checkpoint behind it, got none",)
    assert row.drop_db == pytest.approx(grey_psnr(5) - grey_psnr(15), abs=1e-9)


def test_runtime_that_refuses_leaves_no_number_in_its_place(
    tmp_path: Path, greys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_runner(monkeypatch, RunnerError("refused"))
    row = measure(tmp_path, greys, FixedReferences(floating=5, quantized=10))
    assert (row.artifact, row.drop_db, row.conversion_drop_db, row.worst_tile) == (None, None, None, None)
    assert row.worst_tile_reason == "refused"
    assert row.quantization_drop_db == pytest.approx(grey_psnr(5) - grey_psnr(10), abs=1e-9)
    assert draw_waterfall(row) is None
    print_waterfall(apps.verification.waterfall.WaterfallReport(rows=(row,)))
    assert f"{row.label}: refused" in capsys.readouterr().out


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one artifact"):
        measure_waterfall([], data=None, sets=None)


# ---------------------------------------------------------------------------------------------------------- worst tile
def picture_pair(height: int = 32, width: int = 48) -> ImagePair:
    """Grey, but for the tile at row 0, column 32, whose corner pixel is bright."""
    lr = np.full((height, width, 3), 100, dtype=np.uint8)
    lr[0, 32] = 200
    return ImagePair(name="marked", lr=lr, hr=np.kron(lr, np.ones((4, 4, 1), dtype=np.uint8)))


def test_worst_tile_is_the_one_whose_squared_error_grows_most() -> None:
    reference, artifact = OffsetRunner(5), OffsetRunner(5, corner=10)
    worst = find_worst_tile(picture_pair(), reference, artifact, overlap=0, set_name="made")
    assert (worst.top, worst.left, worst.height, worst.width) == (0, 32, 16, 16)
    assert worst.max_levels == 10
    # 64x64 HR pixels of the tile, less the 4 ignored along its upper and right edges, the bright ones among them.
    counted = 60 * 60
    own, other = (math.floor(16 + 219 / 255 * (100 + add) + 0.5) - GREY_LUMA for add in (5, 15))
    assert worst.squared_error_increase == pytest.approx(counted * (other**2 - own**2), rel=1e-12)
    assert worst.float_psnr_y_db == pytest.approx(10 * math.log10(255**2 / own**2), abs=1e-9)
    assert worst.drop_db == pytest.approx(20 * math.log10(other / own), abs=1e-9)
    assert worst.artifact_sr.shape == worst.hr.shape == (64, 64, 3)
    assert worst.lr.shape == (16, 16, 3)
    assert "artifact_sr" not in worst.to_json()


def test_worst_tile_of_another_tile_size_is_refused() -> None:
    reference = OffsetRunner(0)
    reference.tile = (8, 8)  # type: ignore[misc]
    with pytest.raises(ConfigError, match="reference"):
        find_worst_tile(picture_pair(), reference, OffsetRunner(0), overlap=0, set_name="made")


def test_difference_is_amplified_around_grey_and_clipped() -> None:
    first = np.array([[[100, 100, 100]]], dtype=np.uint8)
    second = np.array([[[101, 98, 120]]], dtype=np.uint8)
    assert amplified_difference(first, second, 16).tolist() == [[[144, 96, 255]]]


def test_pictures_are_drawn_and_the_table_names_the_culprit(
    tmp_path: Path, greys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_runner(monkeypatch, OffsetRunner(15))
    row = measure(tmp_path, greys, FixedReferences(floating=5, quantized=8))
    assert row.worst_tile is not None
    assert row.culprit == "conversion"
    drawn = draw_waterfall(row)
    assert drawn is not None
    assert [bar.label for bar in drawn.bars[:-1]] == ["float, whole images", "tiling", "quantization", "conversion"]
    assert drawn.bars[2].text == f"{grey_psnr(8) - grey_psnr(5):+.3f} dB"
    (panels,) = draw_worst_tiles([row])
    assert [panel.label.partition(",")[0] for panel in panels] == ["LR", "HR", "float", "TFLite w8a8", "difference x16"]
    print_waterfall(apps.verification.waterfall.WaterfallReport(rows=(row,)))
    printed = capsys.readouterr().out
    assert "conversion" in printed
    assert f"{grey_psnr(5) - grey_psnr(8):+.3f}" in printed


# ---------------------------------------------------------------------------------------------------------- references
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4), {})
    return path


def meta_of(folder: Path, checkpoint: Path, **changes: Any) -> ArtifactMeta:
    sha256 = sha256_file(checkpoint)
    return replace(load_artifact(fake_artifact(folder, checkpoint_sha256=sha256)).meta, **changes)


def test_network_after_training_is_rebuilt_only_from_the_same_pixels(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "calibration"
    folder.mkdir()
    photo = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    write_image(folder / "photo.png", photo)
    digest = hashlib.sha256()
    for batch in calibration_batches(folder, scale=4, multiple=1):
        digest.update(batch.numpy().tobytes())
    meta = meta_of(tmp_path, checkpoint, calibration_sha256=digest.hexdigest())
    references = References([checkpoint], calibration=folder)
    assert isinstance(references.network(meta), QuantizedNetwork)
    with pytest.raises(CheckpointError, match="expected the calibration images"):
        references.network(replace(meta, calibration_sha256="f" * 64))


def test_artifact_of_an_unknown_checkpoint_is_told_what_to_name(tmp_path: Path, checkpoint: Path) -> None:
    meta = meta_of(tmp_path, checkpoint, checkpoint_sha256="e" * 64)
    for ask in (References([checkpoint]).network, References([checkpoint]).float_network):
        with pytest.raises(CheckpointError, match=r"behind .* \(eeeeeeeeeeee\.\.\.\).*name it with --checkpoint"):
            ask(meta)


def test_float_artifact_shares_one_network_with_its_reference(tmp_path: Path, checkpoint: Path) -> None:
    references = References([checkpoint])
    meta = meta_of(tmp_path, checkpoint, scheme="fp32")
    assert references.network(meta) is references.float_network(meta)


def test_bundled_quantized_artifact_finds_its_float_parent(tmp_path: Path) -> None:
    sha256 = sha256_file(bundled_checkpoint("idsa_net_mobile", 4, "w8a8"))
    meta = load_artifact(fake_artifact(tmp_path, checkpoint_sha256=sha256)).meta
    references = References()
    assert isinstance(references.network(meta), QuantizedNetwork)
    assert not isinstance(references.float_network(meta), QuantizedNetwork)
