"""Upscaling photos: any size and kind, the artifact's own tiles, nothing half-written, nothing dropped in silence."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image as PillowImage
from PIL import ImageCms

import apps.upscaling.runners
from apps.cli import main
from apps.upscaling.batch import Forecast, upscale_photos
from apps.upscaling.jobs import list_jobs
from apps.upscaling.photo import PhotoOptions, UpscaleResult
from apps.upscaling.runners import UpscalerChoice, physical_cores
from converters.artifact import Artifact
from edge_sr.checkpoints import load_checkpoint, save_checkpoint
from edge_sr.errors import ArtifactError, CheckpointError, ConfigError, DataError, ImageError, RunnerError
from edge_sr.images import read_image, write_image
from edge_sr.networks import create_network
from edge_sr.photos.metadata import Metadata
from edge_sr.photos.reading import read_photo
from edge_sr.photos.writing import write_frames, writing_photo
from edge_sr.resize import bicubic_resize
from edge_sr.runner import TorchRunner
from fakes import FAKE_TILE, fake_artifact

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


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
    """Nearest neighbour: every LR pixel becomes 4 x 4, so the right answer is known. Red is one level off."""

    name, scale, tile, deep = "nearest", 4, FAKE_TILE, False
    tint = 0
    closed = False
    fails_on = -1

    def run(self, lr: np.ndarray) -> np.ndarray:
        assert lr.shape == (*FAKE_TILE, 3)
        if (lr == self.fails_on).all():
            raise RunnerError("got SIGABRT")
        sr = lr.repeat(4, axis=0).repeat(4, axis=1)
        sr[..., 0] += self.tint
        return sr

    def run_deep(self, lr: np.ndarray) -> np.ndarray:
        assert self.deep
        return lr.repeat(4, axis=0).repeat(4, axis=1)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> RepeatingRunner:
    one = RepeatingRunner()

    def open_runner(artifact: Artifact, *, threads: int, isolated: bool, runtime: str) -> RepeatingRunner:
        return one

    monkeypatch.setattr(apps.upscaling.runners, "open_checked_runner", open_runner)
    return one


def _upscaled(tmp_path: Path, source: Path, output: Path, **options: Any) -> UpscaleResult:
    artifact = next(tmp_path.glob("*_tflite_*"), None) or fake_artifact(tmp_path)
    report = upscale_photos(
        [source], output, choice=UpscalerChoice(artifact=artifact), options=PhotoOptions(**options), overwrite=True
    )
    return report.photos[0]


def _larger(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


# ------------------------------------------------------------------------------------------------------------- pixels
def test_photo_of_any_size_goes_through_the_artifacts_tiles(
    tmp_path: Path, photo: Path, runner: RepeatingRunner
) -> None:
    steps: list[tuple[int, int]] = []
    said: list[Forecast] = []
    report = upscale_photos(
        [photo],
        tmp_path / "big.png",
        choice=UpscalerChoice(artifact=fake_artifact(tmp_path)),
        announce=said.append,
        progress=lambda what, done, total, detail="": steps.append((done, total)),
    )
    lr = read_image(photo)
    np.testing.assert_array_equal(read_image(tmp_path / "big.png"), _larger(lr))
    # 21 rows in tiles of 16 that share 4: two; 33 columns: 0..16, 12..28, 17..33, three.
    (result,) = report.photos
    assert (result.tiles, result.lr_size, result.sr_size, report.scale) == (6, (21, 33), (84, 132), 4)
    assert steps == [(0, 6), *((done, 6) for done in range(1, 7))]
    assert runner.closed
    assert (said[0].tiles, said[0].sr_size, said[0].photos) == (6, (84, 132), 1)
    assert said[0].name.startswith("idsa_net_mobile_x4_w8a8_tflite_16x16 (nearest)")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1", "LA", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (5, 40)])
def test_every_kind_of_image_is_upscaled(
    tmp_path: Path, mode: str, size: tuple[int, int], runner: RepeatingRunner
) -> None:
    source = tmp_path / ("source.tif" if mode == "CMYK" else "source.png")
    PillowImage.new(mode, size, 1 if mode != "CMYK" else (0, 0, 0, 1)).save(source)
    _upscaled(tmp_path, source, tmp_path / "big.png")
    assert read_image(tmp_path / "big.png").shape == (4 * size[1], 4 * size[0], 3)


def test_without_artifact_the_float_network_runs(tmp_path: Path, photo: Path, checkpoint: Path) -> None:
    report = upscale_photos([photo], tmp_path / "big.png", choice=UpscalerChoice(checkpoint=checkpoint))
    # Smaller than one tile, so mirrored to 256 and cut: away from that border it is the whole image's result.
    expected = TorchRunner(load_checkpoint(checkpoint).network).run(read_image(photo))
    got = read_image(tmp_path / "big.png")
    assert got.shape == expected.shape
    assert report.photos[0].tiles == 1
    difference = np.abs(got.astype(int) - expected.astype(int))[:20, :60]
    assert difference.max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_grey_in_gives_grey_out_whatever_the_network_tints(
    tmp_path: Path, runner: RepeatingRunner, suffix: str
) -> None:
    runner.tint = 3
    grey = RNG.integers(0, 250, (20, 20), dtype=np.uint8)
    PillowImage.fromarray(grey).save(tmp_path / "grey.png")
    result = _upscaled(tmp_path, tmp_path / "grey.png", tmp_path / f"big{suffix}")
    assert result.grey
    with PillowImage.open(tmp_path / f"big{suffix}") as opened:
        assert opened.mode == "L"
    if suffix != ".jpg":
        # Three levels of red are 0.897 of luma: one level.
        np.testing.assert_array_equal(read_image(tmp_path / f"big{suffix}")[..., 0], _larger(grey) + 1)


def test_colour_files_without_colour_stay_without(tmp_path: Path, runner: RepeatingRunner) -> None:
    runner.tint = 3
    grey = RNG.integers(0, 250, (20, 20, 1), dtype=np.uint8).repeat(3, axis=2)
    write_image(tmp_path / "rgb.png", grey)
    result = _upscaled(tmp_path, tmp_path / "rgb.png", tmp_path / "big.webp")
    assert not result.grey, "three channels in, three out"
    got = read_image(tmp_path / "big.webp")
    assert (got == got[..., :1]).all()


def test_transparency_is_kept_and_no_hidden_colour_shows(tmp_path: Path, runner: RepeatingRunner) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, :10] = (20, 120, 220, 255)
    pixels[:, 10:] = (255, 0, 255, 0)  # junk under alpha 0
    PillowImage.fromarray(pixels).save(tmp_path / "icon.png")
    for suffix in (".png", ".webp", ".tif"):
        result = _upscaled(tmp_path, tmp_path / "icon.png", tmp_path / f"big{suffix}")
        assert (result.alpha, result.notes) == (True, ())
        got = read_photo(tmp_path / f"big{suffix}")
        assert got.alpha is not None
        np.testing.assert_array_equal(got.alpha, bicubic_resize(pixels[..., 3:], 80, 80)[..., 0])
        assert (got.pixels[got.alpha > 0] == (20, 120, 220)).all()
    result = _upscaled(tmp_path, tmp_path / "icon.png", tmp_path / "big.jpg", background=(255, 255, 255))
    assert result.notes == ("transparency was laid on #ffffff",)
    flat = read_image(tmp_path / "big.jpg").astype(int)
    assert np.abs(flat[:, :32] - (20, 120, 220)).max() <= 4
    assert np.abs(flat[:, 50:] - 255).max() <= 4


def test_grey_on_a_colour_becomes_colour(tmp_path: Path, runner: RepeatingRunner) -> None:
    PillowImage.merge("LA", [PillowImage.new("L", (16, 16), 90), PillowImage.new("L", (16, 16), 0)]).save(
        tmp_path / "la.png"
    )
    assert not _upscaled(tmp_path, tmp_path / "la.png", tmp_path / "big.jpg", background=(200, 40, 40)).grey
    assert np.abs(read_image(tmp_path / "big.jpg").astype(int) - (200, 40, 40)).max() <= 4
    assert _upscaled(tmp_path, tmp_path / "la.png", tmp_path / "big.jpg").grey


@pytest.mark.parametrize(("channels", "suffix"), [(1, ".png"), (3, ".png"), (4, ".png"), (3, ".tif"), (2, ".tif")])
def test_16_bits_in_give_16_bits_out_where_the_runner_is_float(
    tmp_path: Path, runner: RepeatingRunner, channels: int, suffix: str
) -> None:
    pixels = RNG.integers(1, 65536, (18, 20, channels)).astype(np.uint16)
    source = tmp_path / "deep.png"
    with writing_photo(source, height=18, width=20, channels=channels, bits=16) as writer:
        writer.write(pixels)
    runner.deep = True
    result = _upscaled(tmp_path, source, tmp_path / f"big{suffix}")
    assert (result.bits, result.notes) == (16, ())
    got = read_photo(tmp_path / f"big{suffix}").pixels
    colour = pixels[..., :1].repeat(3, axis=2) if channels < 3 else pixels[..., :3]
    np.testing.assert_array_equal(got, _larger(colour))
    assert _upscaled(tmp_path, source, tmp_path / "big.webp").notes == (
        "16 bits a channel became 8: WEBP holds no more",
    )
    runner.deep = False
    result = _upscaled(tmp_path, source, tmp_path / f"big{suffix}")
    assert (result.bits, result.notes) == (8, ("16 bits a channel became 8: nearest computes in 8 bits",))


def test_profile_exif_and_place_are_kept_or_named_or_stripped(tmp_path: Path, runner: RepeatingRunner) -> None:
    exif = PillowImage.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8825)[1] = "N"
    source = tmp_path / "p.jpg"
    write_image(tmp_path / "plain.png", RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    with PillowImage.open(tmp_path / "plain.png") as plain:
        plain.save(source, exif=exif, icc_profile=SRGB, dpi=(300, 300), comment=b"c")
    for suffix, lost in ((".png", None), (".jpg", None), (".tif", "comments"), (".webp", "comments, resolution")):
        result = _upscaled(tmp_path, source, tmp_path / f"big{suffix}")
        assert result.sr_size == (120, 80), "upright"
        expected = (
            () if lost is None else (f"{'TIFF' if suffix == '.tif' else 'WEBP'} does not hold the photo's {lost}",)
        )
        assert result.notes == expected
        with PillowImage.open(tmp_path / f"big{suffix}") as opened:
            assert opened.info["icc_profile"] == SRGB
            assert opened.getexif().get_ifd(0x8825)[1] == "N"
            assert opened.getexif().get(0x0112, 1) == 1
    _upscaled(tmp_path, source, tmp_path / "bare.png", strip_metadata=True)
    held = read_photo(tmp_path / "bare.png").metadata.held
    assert [name for name, there in held.items() if there] == ["ICC profile"]


def test_of_several_pictures_the_first_is_said_to_be_the_first_and_frames_takes_all(
    tmp_path: Path, runner: RepeatingRunner
) -> None:
    frames = [np.full((16, 16, 3), level, np.uint8) for level in (10, 120, 240)]
    for suffix in (".gif", ".webp", ".png", ".tif"):
        source = tmp_path / f"a{suffix}"
        write_frames(source, list(frames), durations_ms=[50, 60, 70], loop=0, metadata=[Metadata()] * 3)
        result = _upscaled(tmp_path, source, tmp_path / "one.png")
        assert (result.frames, result.notes) == (1, ("first of 3 pictures: --frames upscales all",))
        result = _upscaled(tmp_path, source, tmp_path / f"all{suffix}", frames=True)
        assert (result.frames, result.tiles) == (3, 3)
        with PillowImage.open(tmp_path / f"all{suffix}") as opened:
            assert (opened.n_frames, opened.size) == (3, (64, 64))  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------- files and names
@pytest.mark.parametrize("name", ["big.bmp", "no/such/big.png"])
def test_output_that_cannot_be_written_is_refused_first(
    name: str, tmp_path: Path, photo: Path, runner: RepeatingRunner
) -> None:
    with pytest.raises(ImageError):
        _upscaled(tmp_path, photo, tmp_path / name)


def test_a_result_too_large_for_its_format_is_refused_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PillowImage.new("L", (4096, 1)).save(tmp_path / "wide.png")
    monkeypatch.setattr(apps.upscaling.runners, "open_checked_runner", pytest.fail)
    with pytest.raises(ImageError, match=r"at most 16,383 pixels a side in \.webp, got 16384x4"):
        _upscaled(tmp_path, tmp_path / "wide.png", tmp_path / "big.webp")


def test_a_folder_that_refuses_files_is_found_first(
    tmp_path: Path, photo: Path, runner: RepeatingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    artifact = fake_artifact(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ImageError, match="No space left on device"):
        upscale_photos([photo], tmp_path / "big.png", choice=UpscalerChoice(artifact=artifact))
    assert not runner.closed, "it was never opened"


def test_existing_output_is_kept_unless_told(tmp_path: Path, photo: Path, runner: RepeatingRunner) -> None:
    output, choice = tmp_path / "big.png", UpscalerChoice(artifact=fake_artifact(tmp_path))
    output.write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"--skip-existing.*--overwrite"):
        upscale_photos([photo], output, choice=choice)
    assert upscale_photos([photo], output, choice=choice, skip_existing=True).skipped == (output,)
    assert output.read_bytes() == b"precious"
    upscale_photos([photo], output, choice=choice, overwrite=True)
    assert read_image(output).shape == (84, 132, 3)


def test_runner_that_fails_leaves_no_output(tmp_path: Path, photo: Path, runner: RepeatingRunner) -> None:
    write_image(photo, np.full((16, 16, 3), 7, np.uint8), overwrite=True)
    runner.fails_on = 7
    artifact = fake_artifact(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunnerError):
        upscale_photos([photo], tmp_path / "big.png", choice=UpscalerChoice(artifact=artifact))
    assert sorted(tmp_path.iterdir()) == before
    assert runner.closed


def test_folders_go_whole_and_what_failed_is_listed_last(
    tmp_path: Path, runner: RepeatingRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    album = tmp_path / "album"
    (album / "inner").mkdir(parents=True)
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    write_image(album / "a.png", pixels)
    write_image(album / "a.jpg", pixels)
    write_image(album / "inner" / "b.webp", pixels)
    write_image(album / "inner" / "crash.png", np.full((16, 16, 3), 7, np.uint8))
    (album / "broken.png").write_text("no image")
    (album / "notes.txt").write_text("no photo")
    runner.fails_on = 7
    artifact = str(fake_artifact(tmp_path))
    words = ["upscale", str(album), "-o", str(tmp_path / "large"), "--artifact", artifact]
    assert main([*words, "--json", str(tmp_path / "r.json")]) == 1
    made = sorted(path.relative_to(tmp_path / "large").as_posix() for path in (tmp_path / "large").rglob("*.png"))
    assert made == ["a_jpg_x4.png", "a_png_x4.png", "inner/b_x4.png"]
    printed = capsys.readouterr()
    assert "4 photos, at most 64x64, 4 tiles" in printed.out
    assert "error: broken.png" in printed.err
    assert "error: crash.png: got SIGABRT" in printed.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert [Path(row["output"]).name for row in report["photos"]] == ["a_jpg_x4.png", "a_png_x4.png", "b_x4.png"]
    assert {Path(row["source"]).name for row in report["failures"]} == {"broken.png", "crash.png"}
    runner.fails_on = -1
    assert main([*words, "--skip-existing"]) == 1, "broken.png is broken still"
    assert (tmp_path / "large" / "inner" / "crash_x4.png").is_file()
    assert "3 left as they were" in capsys.readouterr().out


def test_results_of_an_earlier_run_are_no_sources_of_the_next(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for name in ("a.png", "a_x4.png", "b_x4.png"):
        write_image(tmp_path / name, pixels)
    jobs = list_jobs([tmp_path], tmp_path / "out", scale=4).jobs
    assert [job.source.name for job in jobs] == ["a.png", "b_x4.png"], "no b.png lies beside the last one"


def test_no_result_takes_the_place_of_another_or_of_its_photo(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for name in ("x/a.png", "y/a.png", "z/a.png", "z/a.jpg", "z/a_png.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, pixels)
    out = tmp_path / "out"
    for sources in (["x/a.png", "y/a.png"], ["x", "y"], ["z"]):
        with pytest.raises(ConfigError, match="a place of its own"):
            list_jobs([tmp_path / name for name in sources], out, scale=4)
    twice = [tmp_path / "x" / "a.png", tmp_path / "y" / ".." / "x" / "a.png"]
    assert len(list_jobs(twice, out, scale=4).jobs) == 1, "one photo under two spellings"
    with pytest.raises(ConfigError, match="than the photo"):
        list_jobs([tmp_path / "x" / "a.png"], tmp_path / "x" / "a.png", scale=4, overwrite=True)
    for stream in ("-", "/dev/null"):
        with pytest.raises(ConfigError, match="pictures are not written into streams"):
            list_jobs([tmp_path / "x" / "a.png"], Path(stream), scale=4)


def test_results_with_the_suffix_in_their_names_are_no_sources_either(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    for job in list_jobs([tmp_path], None, scale=4).jobs:
        write_image(job.output, np.zeros((16, 16, 3), np.uint8))
    again = list_jobs([tmp_path], None, scale=4, skip_existing=True)
    assert (again.jobs, len(again.skipped)) == ((), 2)


def test_pages_of_several_sizes_are_no_animation_and_times_that_change_are_said(
    tmp_path: Path, runner: RepeatingRunner
) -> None:
    pages = [np.zeros((16, 16, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)]
    write_frames(tmp_path / "p.tif", list(pages), durations_ms=[0, 0], loop=None, metadata=[Metadata()] * 2)
    for name in ("p.webp", "p.png", "p.gif"):
        with pytest.raises(ImageError, match=r"one size for .*; write \.tif"):
            _upscaled(tmp_path, tmp_path / "p.tif", tmp_path / name, frames=True)
    moving = [np.full((16, 16, 3), level, np.uint8) for level in (0, 200)]
    write_frames(tmp_path / "m.png", list(moving), durations_ms=[33, 50], loop=0, metadata=[Metadata()] * 2)
    notes = _upscaled(tmp_path, tmp_path / "m.png", tmp_path / "l.gif", frames=True).notes
    assert "times became whole 10 ms: GIF counts those" in notes
    assert _upscaled(tmp_path, tmp_path / "m.png", tmp_path / "l.tif", frames=True).notes == (
        "TIFF holds no times of frames",
    )


def test_the_picture_in_place_of_an_animation_is_no_frame_of_it(tmp_path: Path, runner: RepeatingRunner) -> None:
    frames = [PillowImage.new("RGB", (16, 16), (level, 0, 0)) for level in (10, 100, 200)]
    frames[0].save(tmp_path / "d.png", save_all=True, append_images=frames[1:], default_image=True, duration=50)
    result = _upscaled(tmp_path, tmp_path / "d.png", tmp_path / "l.webp", frames=True)
    assert (result.frames, result.notes) == (2, ("the picture in place of the animation was left out",))


def test_names_made_here_stand_beside_the_photo_or_in_the_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    (job,) = list_jobs([tmp_path / "a.jpg"], None, scale=3).jobs
    assert job.output == tmp_path / "a_x3.png"
    (job,) = list_jobs([tmp_path / "a.jpg"], tmp_path / "new", scale=2, suffix=".jpg").jobs
    assert job.output == tmp_path / "new" / "a_x2.jpg"
    with pytest.raises(ConfigError, match="folder for the results"):
        list_jobs([tmp_path / "a.jpg", tmp_path], tmp_path / "one.png", scale=4)
    with pytest.raises(ConfigError, match=r"format must be one of png.*, got 'bmp'"):
        list_jobs([tmp_path / "a.jpg"], None, scale=4, suffix=".bmp")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    with pytest.raises(DataError, match=r"got 1 file \(1 \.txt\)"):
        list_jobs([tmp_path / "texts"], None, scale=4)


# ----------------------------------------------------------------------------------------------------------- what runs
def test_core_ml_packages_run_in_the_evaluator_where_there_is_no_macos(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def open_runner(artifact: Artifact, *, threads: int, isolated: bool, runtime: str) -> RepeatingRunner:
        asked.append(runtime)
        return RepeatingRunner()

    monkeypatch.setattr(apps.upscaling.runners, "open_checked_runner", open_runner)
    monkeypatch.setattr("converters.runners.sys.platform", "linux")
    upscale_photos([photo], tmp_path / "big.png", choice=UpscalerChoice(artifact=fake_artifact(tmp_path, "coreml")))
    assert asked == ["coreml_evaluator"]


def test_a_model_file_stands_for_its_artifact(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path)
    loaded = UpscalerChoice(artifact=artifact / "model.bin").loaded()
    assert loaded is not None
    assert loaded.path == artifact


def test_bad_sources_are_named(tmp_path: Path, photo: Path, checkpoint: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(ImageError, match="text"):
        upscale_photos([text], tmp_path / "big.png", choice=UpscalerChoice(checkpoint=checkpoint))
    with pytest.raises(ArtifactError):
        upscale_photos([photo], tmp_path / "big.png", choice=UpscalerChoice(artifact=tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="x4"):
        upscale_photos([photo], tmp_path / "big.png", choice=UpscalerChoice(checkpoint=checkpoint, scale=2))
    with pytest.raises(ConfigError, match="both"):
        UpscalerChoice(checkpoint=checkpoint, artifact=tmp_path)


def test_too_little_memory_is_said_before_the_first_tile(
    tmp_path: Path, photo: Path, runner: RepeatingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nothing:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Nothing)
    monkeypatch.setattr(RepeatingRunner, "run", pytest.fail)
    with pytest.raises(ImageError, match=r"free memory for photo\.png"):
        _upscaled(tmp_path, photo, tmp_path / "big.png")


def test_memory_that_runs_out_is_one_line(
    tmp_path: Path,
    photo: Path,
    runner: RepeatingRunner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(self: RepeatingRunner, lr: np.ndarray) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(RepeatingRunner, "run", run)
    words = ["upscale", str(photo), "-o", str(tmp_path / "big.png"), "--artifact", str(fake_artifact(tmp_path))]
    assert main(words) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: expected enough memory")
    assert not (tmp_path / "big.png").exists()


def test_threads_are_physical_cores_that_may_be_used() -> None:
    assert 1 <= physical_cores() <= (psutil.cpu_count(logical=True) or 1)


def test_a_colour_that_is_none_is_refused(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", str(photo), "--background", "whitish"]) == 2
    assert "expected a colour" in capsys.readouterr().err
