"""Verification: the drop and its two parts, what cannot run here, and the gate."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import apps.verification.accuracy
from apps.cli import main
from apps.history.store import read
from apps.tables import print_verify
from apps.verification.accuracy import verify_artifacts
from apps.verification.gate import GateLimits
from apps.verification.rows import VerifyRow
from converters.artifact import (
    Artifact,
    load_artifact,
)
from edge_sr.checkpoints import load_checkpoint, save_checkpoint, sha256_file
from edge_sr.errors import ArtifactError, CheckpointError, DataError, RunnerError
from edge_sr.evaluation import ImageScore, SetScore
from edge_sr.images import write_image
from edge_sr.metrics import psnr_y
from edge_sr.networks import create_network
from edge_sr.resize import make_lr
from edge_sr.runner import TorchRunner
from fakes import FAKE_TILE, fake_artifact

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, network, {})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images: one as large as a tile, one that needs four tiles."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name, (height, width) in {"one": (64, 64), "four": (88, 100)}.items():
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        write_image(folder / f"{name}.png", np.kron(coarse, np.ones((4, 4, 1), dtype=np.uint8)))
    return folder


def _artifact(folder: Path, checkpoint: Path, *, scheme: str = "fp32", target: str = "tflite") -> Path:
    return fake_artifact(folder, target, scheme=scheme, checkpoint_sha256=sha256_file(checkpoint))


class DarkerRunner:
    """The float network, with ``levels`` taken off every pixel."""

    name, scale, tile = "fake", 4, FAKE_TILE

    def __init__(self, checkpoint: Path, levels: int) -> None:
        network = load_checkpoint(checkpoint).network.deployed()
        self.inner, self.levels = TorchRunner(network, tile=FAKE_TILE), levels

    def run(self, lr: Image) -> Image:
        return np.clip(self.inner.run(lr).astype(np.int16) - self.levels, 0, 255).astype(np.uint8)


def _use_runner(monkeypatch: pytest.MonkeyPatch, runner: object) -> None:
    def open_checked_runner(artifact: Artifact, *, threads: int, isolated: bool, runtime: str) -> object:
        if isinstance(runner, Exception):
            raise runner
        return runner

    monkeypatch.setattr(apps.verification.accuracy, "open_checked_runner", open_checked_runner)


def _score(psnr: float, name: str = "Set5") -> SetScore:
    return SetScore(set_name=name, scale=4, images=(ImageScore(name="a", psnr_y_db=psnr, ssim=0.9),))


def _row(
    *, whole: float = 30.0, tiled: float = 29.875, artifact: float | None = 29.75, failed: bool = False
) -> VerifyRow:
    return VerifyRow(
        artifact_path=Path("net_w8a8"),
        model="net",
        scheme="w8a8",
        target="tflite",
        runtime="tflite",
        tile=FAKE_TILE,
        overlap=4,
        float_whole=_score(whole),
        float_tiled=_score(tiled),
        artifact=None if artifact is None else _score(artifact),
        reason="broken" if artifact is None else None,
        failed=failed,
    )


# ------------------------------------------------------------------------------------------------------------- drops
def test_drop_is_the_sum_of_tiling_and_quantization() -> None:
    row = _row(whole=30.0, tiled=29.875, artifact=29.75)
    assert (row.drop_db, row.tiling_drop_db, row.quantization_drop_db) == (0.25, 0.125, 0.125)


def test_two_perfect_results_differ_by_nothing() -> None:
    row = _row(whole=math.inf, tiled=math.inf, artifact=math.inf)
    assert (row.drop_db, row.tiling_drop_db) == (0.0, 0.0)


def test_artifact_equal_to_the_float_network_loses_nothing_to_quantization(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_runner(monkeypatch, DarkerRunner(checkpoint, levels=0))
    (row,) = verify_artifacts([_artifact(tmp_path, checkpoint)], data=photos, checkpoints=[checkpoint]).rows
    assert row.quantization_drop_db == 0.0
    assert row.drop_db == row.tiling_drop_db
    # One tile holds the whole of the first image, so tiling cannot change it.
    whole, tiled = ({image.name: image.psnr_y_db for image in s.images} for s in (row.float_whole, row.float_tiled))
    assert whole["one"] == pytest.approx(tiled["one"], abs=1e-9)


def test_scores_are_those_of_the_artifacts_own_output(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = DarkerRunner(checkpoint, levels=40)
    _use_runner(monkeypatch, runner)
    (row,) = verify_artifacts([_artifact(tmp_path, checkpoint)], data=photos, checkpoints=[checkpoint]).rows
    assert row.artifact is not None
    from edge_sr.images import read_image

    hr = read_image(photos / "one.png")
    expected = psnr_y(runner.run(make_lr(hr, 4)), hr, crop_border=4)
    assert {image.name: image.psnr_y_db for image in row.artifact.images}["one"] == pytest.approx(expected, abs=1e-9)
    assert row.quantization_drop_db not in (None, 0.0)


def test_float_network_runs_once_however_many_artifacts_share_it(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_runner(monkeypatch, DarkerRunner(checkpoint, levels=1))
    paths = [
        _artifact(tmp_path, checkpoint, target="tflite"),
        _artifact(tmp_path, checkpoint, target="executorch"),
    ]
    works: list[str] = []

    def progress(what: str, done: float, total: int, detail: str = "") -> None:
        if done == total:
            works.append(what)

    verify_artifacts(paths, data=photos, checkpoints=[checkpoint], progress=progress)
    assert len([what for what in works if what.startswith("float")]) == 2  # whole images, tiles


def test_progress_goes_on_within_an_image(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_runner(monkeypatch, DarkerRunner(checkpoint, levels=1))
    reported: list[float] = []

    def progress(what: str, done: float, total: int, detail: str = "") -> None:
        if what.startswith("idsa_net_mobile"):
            reported.append(done)

    verify_artifacts(
        [_artifact(tmp_path, checkpoint)], data=photos, checkpoints=[checkpoint], threads=1, progress=progress
    )
    images = len(list(photos.iterdir()))
    assert reported == sorted(set(reported))
    assert [done for done in reported if done == int(done)] == list(range(images + 1))
    assert len(reported) > images + 1


# ----------------------------------------------------------------------------------------------- what cannot run here
@pytest.mark.parametrize(
    ("system", "runtimes"), [("linux", ["coreml_evaluator"]), ("darwin", ["coreml", "coreml_evaluator"])]
)
def test_core_ml_package_is_scored_by_the_evaluator_and_on_macos_by_core_ml_too(
    system: str,
    runtimes: list[str],
    tmp_path: Path,
    checkpoint: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []

    def open_checked_runner(artifact: Artifact, *, threads: int, isolated: bool, runtime: str) -> object:
        opened.append(runtime)
        return DarkerRunner(checkpoint, levels=0)

    monkeypatch.setattr("converters.runners.sys.platform", system)
    monkeypatch.setattr(apps.verification.accuracy, "open_checked_runner", open_checked_runner)
    rows = verify_artifacts(
        [_artifact(tmp_path, checkpoint, target="coreml")], data=photos, checkpoints=[checkpoint]
    ).rows
    assert [row.runtime for row in rows] == opened == runtimes
    assert rows[-1].label.endswith("(coreml_evaluator)")


def test_row_without_a_score_says_why_and_holds_no_number(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_runner(monkeypatch, RunnerError("refused"))
    (row,) = verify_artifacts([_artifact(tmp_path, checkpoint)], data=photos, checkpoints=[checkpoint]).rows
    assert (row.artifact, row.drop_db, row.quantization_drop_db) == (None, None, None)
    saved = row.to_json()
    assert (saved["psnr_y_db"], saved["ssim"], saved["drop_db"]) == (None, None, None)


def test_runtime_that_refuses_costs_its_own_row_only(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_runner(monkeypatch, RunnerError("refused"))
    report = verify_artifacts(
        [_artifact(tmp_path, checkpoint)], data=photos, checkpoints=[checkpoint], limits=GateLimits(max_drop_db=1.0)
    )
    (row,) = report.rows
    assert row.failed
    assert row.reason == "refused"
    assert math.isfinite(row.float_whole.psnr_y_db)
    assert "refused" in report.gate_failures[0]


# --------------------------------------------------------------------------------------------------------- bad input
def test_float_artifact_of_another_checkpoint_is_refused(tmp_path: Path, checkpoint: Path, photos: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4), {"run": 2})
    with pytest.raises(CheckpointError, match="--checkpoint"):
        verify_artifacts([_artifact(tmp_path, checkpoint)], data=photos, checkpoints=[other])


def test_altered_artifact_is_refused_before_anything_runs(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_runner(monkeypatch, AssertionError("an artifact was opened"))
    good = _artifact(tmp_path, checkpoint)
    bad = _artifact(tmp_path, checkpoint, target="executorch")
    (bad / "model.bin").write_bytes(b"not a m0del")
    with pytest.raises(ArtifactError, match="altered"):
        verify_artifacts([good, bad], data=photos, checkpoints=[checkpoint])


def test_missing_data_folder_is_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        verify_artifacts([_artifact(tmp_path, checkpoint)], data=tmp_path / "nowhere", checkpoints=[checkpoint])


def test_a_flat_picture_beside_a_photo_neither_hides_nor_makes_a_drop(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    write_image(folder / "black.png", np.zeros((64, 64, 3), dtype=np.uint8))
    (folder / "one.png").write_bytes((photos / "one.png").read_bytes())
    write_image(folder / "icon.png", np.zeros((10, 10, 3), dtype=np.uint8))

    class Flat:
        """Black as it is, and any other picture 40 levels off."""

        name, scale, tile = "fake", 4, FAKE_TILE

        def run(self, lr: Image) -> Image:
            sr = np.kron(lr, np.ones((4, 4, 1), dtype=np.uint8))
            return sr if not lr.any() else np.clip(sr.astype(np.int16) - 40, 0, 255).astype(np.uint8)

    _use_runner(monkeypatch, Flat())
    limits = GateLimits(max_drop_db=1.0)
    report = verify_artifacts([_artifact(tmp_path, checkpoint)], data=folder, checkpoints=[checkpoint], limits=limits)
    (row,) = report.rows
    assert row.artifact is not None
    by_name = {image.name: image.psnr_y_db for image in row.artifact.images}
    assert by_name["black"] == math.inf
    assert row.artifact.psnr_y_db == pytest.approx((100 + by_name["one"]) / 2)
    drops = [check.measured for check in report.checks if check.name == "mean drop"]
    assert [drop is not None and math.isfinite(drop) for drop in drops] == [True]
    saved = json.loads(json.dumps(report.to_json(), allow_nan=False))["rows"][0]
    assert (saved["images"], saved["capped"], saved["left_out"]) == (2, ["black"], ["icon"])
    assert saved["artifact"]["images"][0]["psnr_y_db"] == "inf"
    print_verify(report)
    assert "2 (1 capped, 1 left out)" in capsys.readouterr().out
    assert any("counts as 100 dB in a mean: black" in line for line in report.notices)


# ------------------------------------------------------------------------------------------------------------- command
def test_scores_go_into_the_history_and_a_passing_gate_says_so(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use_runner(monkeypatch, DarkerRunner(checkpoint, levels=0))
    history = tmp_path / "kept" / "history.sqlite3"
    words = ["verify", str(_artifact(tmp_path, checkpoint)), "--data", str(photos), "--checkpoint", str(checkpoint)]
    assert main([*words, "--history", str(history), "--no-history"]) == 0
    assert "gate" not in capsys.readouterr().out, "nothing was asked"
    assert not history.parent.exists()
    assert main([*words, "--history", str(history), "--max-drop", "40"]) == 0
    assert "gate passed: 2 checks held (runs, mean drop)" in capsys.readouterr().out
    (kept,) = read(history)
    assert (kept.kind, kept.set_name, kept.images) == ("accuracy", "photos", 2)


def test_result_is_shown_and_kept_before_a_file_that_cannot_be_written(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("apps.results.write_json", full)
    _use_runner(monkeypatch, DarkerRunner(checkpoint, levels=0))
    words = ["verify", str(_artifact(tmp_path, checkpoint)), "--data", str(photos), "--checkpoint", str(checkpoint)]
    history = tmp_path / "history.sqlite3"
    assert main([*words, "--history", str(history), "--json", str(tmp_path / "x.json")]) == 2
    said = capsys.readouterr()
    assert "photos" in said.out
    assert "No space left" in said.err
    assert len(read(history)) == 1


# ------------------------------------------------------------------------------------------------------------- record
def test_recorded_scores_stand_in_the_artifact(
    tmp_path: Path, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_runner(monkeypatch, DarkerRunner(checkpoint, levels=2))
    path = _artifact(tmp_path, checkpoint)
    (row,) = verify_artifacts([path], data=photos, checkpoints=[checkpoint], record=True).rows
    assert load_artifact(path).meta.measured["verified"]["photos"]["drop_db"] == pytest.approx(row.drop_db)
