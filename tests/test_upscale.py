"""Upscaling a photo: any size, any kind of image, the artifact's own tiles, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import apps.upscale
from apps.upscale import upscale_photo
from converters.artifact import (
    Artifact,
)
from edge_sr.checkpoints import load_checkpoint, save_checkpoint
from edge_sr.errors import ArtifactError, CheckpointError, ConfigError, ImageError, RunnerError
from edge_sr.images import read_image, write_image
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner
from fakes import FAKE_TILE, fake_artifact


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4), {})
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (21, 33, 3), dtype=np.uint8))
    return path


class RepeatingRunner:
    """Nearest neighbour: every LR pixel becomes 4 x 4, so the right answer is known."""

    name, scale, tile = "nearest", 4, FAKE_TILE
    closed = False

    def run(self, lr: np.ndarray) -> np.ndarray:
        assert lr.shape == (*FAKE_TILE, 3)
        return lr.repeat(4, axis=0).repeat(4, axis=1)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> RepeatingRunner:
    one = RepeatingRunner()

    def open_runner(artifact: Artifact, *, threads: int, isolated: bool) -> RepeatingRunner:
        return one

    monkeypatch.setattr(apps.upscale, "open_checked_runner", open_runner)
    return one


def test_photo_of_any_size_goes_through_the_artifacts_tiles(
    tmp_path: Path, photo: Path, runner: RepeatingRunner
) -> None:
    steps: list[tuple[int, int]] = []
    result = upscale_photo(
        photo,
        tmp_path / "big.png",
        artifact=fake_artifact(tmp_path),
        progress=lambda what, done, total, detail="": steps.append((done, total)),
    )
    lr = read_image(photo)
    np.testing.assert_array_equal(read_image(tmp_path / "big.png"), lr.repeat(4, axis=0).repeat(4, axis=1))
    # 21 rows in tiles of 16 that share 4: two; 33 columns: 0..16, 12..28, 17..33, three.
    assert (result.tiles, result.lr_size, result.sr_size, result.scale) == (6, (21, 33), (84, 132), 4)
    assert steps == [(0, 6), *((done, 6) for done in range(1, 7))]
    assert runner.closed


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1"])
@pytest.mark.parametrize("size", [(1, 1), (5, 40)])
def test_every_kind_of_image_is_upscaled(
    tmp_path: Path, mode: str, size: tuple[int, int], runner: RepeatingRunner
) -> None:
    source = tmp_path / "source.png"
    PillowImage.new(mode, size, 1).save(source)
    upscale_photo(source, tmp_path / "big.png", artifact=fake_artifact(tmp_path))
    assert read_image(tmp_path / "big.png").shape == (4 * size[1], 4 * size[0], 3)


def test_without_artifact_the_float_network_runs(tmp_path: Path, photo: Path, checkpoint: Path) -> None:
    result = upscale_photo(photo, tmp_path / "big.png", checkpoint=checkpoint)
    # Smaller than one tile, so mirrored to 256 and cut: away from that border it is the whole image's result.
    expected = TorchRunner(load_checkpoint(checkpoint).network).run(read_image(photo))
    got = read_image(tmp_path / "big.png")
    assert got.shape == expected.shape
    assert result.tiles == 1
    difference = np.abs(got.astype(int) - expected.astype(int))[:20, :60]
    assert difference.max() <= 1


@pytest.mark.parametrize("name", ["big.gif", "big", "no/folder/big.png"])
def test_output_that_cannot_be_written_is_refused_first(
    name: str, tmp_path: Path, photo: Path, runner: RepeatingRunner
) -> None:
    with pytest.raises(ImageError):
        upscale_photo(photo, tmp_path / name, artifact=tmp_path / "not looked at")


def test_existing_output_is_kept_unless_told(tmp_path: Path, photo: Path, runner: RepeatingRunner) -> None:
    output, artifact = tmp_path / "big.png", fake_artifact(tmp_path)
    output.write_bytes(b"precious")
    with pytest.raises(ImageError, match="--overwrite"):
        upscale_photo(photo, output, artifact=artifact)
    assert output.read_bytes() == b"precious"
    upscale_photo(photo, output, artifact=artifact, overwrite=True)
    assert read_image(output).shape == (84, 132, 3)


def test_runner_that_fails_leaves_no_output(
    tmp_path: Path, photo: Path, runner: RepeatingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: RepeatingRunner, lr: np.ndarray) -> np.ndarray:
        raise RunnerError("got SIGABRT")

    monkeypatch.setattr(RepeatingRunner, "run", fail)
    artifact = fake_artifact(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunnerError):
        upscale_photo(photo, tmp_path / "big.png", artifact=artifact)
    assert sorted(tmp_path.iterdir()) == before
    assert runner.closed


@pytest.mark.skipif("sys.platform == 'darwin'", reason="Core ML is missing: this tests what happens without it")
def test_core_ml_artifact_is_refused_with_the_reason(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(RunnerError, match="predicts on macOS only"):
        upscale_photo(photo, tmp_path / "big.png", artifact=fake_artifact(tmp_path, "coreml"))


def test_bad_sources_are_named(tmp_path: Path, photo: Path, checkpoint: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(ImageError, match="text"):
        upscale_photo(text, tmp_path / "big.png", checkpoint=checkpoint)
    with pytest.raises(ArtifactError):
        upscale_photo(photo, tmp_path / "big.png", artifact=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="x4"):
        upscale_photo(photo, tmp_path / "big.png", checkpoint=checkpoint, scale=2)
    with pytest.raises(ConfigError, match="both"):
        upscale_photo(photo, tmp_path / "big.png", checkpoint=checkpoint, artifact=tmp_path)
