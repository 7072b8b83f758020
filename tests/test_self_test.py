"""The self-test: an artifact that no longer does what export saw is told apart from another processor's rounding."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from converters import self_test
from converters.artifact import Artifact, SelfTest, load_artifact, write_artifact
from converters.self_test import PATTERN, check_self_test, open_checked_runner, record_self_test, self_test_tile
from edge_sr.errors import ArtifactError, ConversionError, EdgeSRError, MissingToolError, RunnerError
from fakes import FAKE_TILE, fake_artifact

Image = NDArray[np.uint8]


@dataclass
class FakeRunner:
    """Nearest enlargement, and then whatever a test does to it."""

    change: Callable[[Image], Image] = lambda sr: sr
    name: str = "ai-edge-litert 2.3.0"
    scale: int = 4
    tile: tuple[int, int] = FAKE_TILE
    closed: bool = False

    def run(self, lr: Image) -> Image:
        return self.change(lr.repeat(4, axis=0).repeat(4, axis=1))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """An artifact that recorded what :class:`FakeRunner` makes of the tile."""
    plain = load_artifact(fake_artifact(tmp_path))
    monkeypatch.setattr(self_test, "open_runner", lambda *a, **k: FakeRunner())
    meta = record_self_test(plain.meta, plain.path)
    return write_artifact(tmp_path / "recorded", meta=meta, source=plain.path)


def noisy(levels: int, share: float) -> Callable[[Image], Image]:
    """Moves a share of the values up or down by so many levels."""

    def change(sr: Image) -> Image:
        rng = np.random.default_rng(0)
        moved = np.where(rng.random(sr.shape) < share, rng.choice([-levels, levels], sr.shape), 0)
        # Towards the middle where it would be clipped.
        wide = sr.astype(int)
        return np.where((wide + moved < 0) | (wide + moved > 255), wide - moved, wide + moved).astype(np.uint8)

    return change


# ---------------------------------------------------------------------------------------------------------------- tile
def test_the_tile_never_changes() -> None:
    # A record is worth nothing against another tile: whoever changes the tile has to raise PATTERN.
    digest = hashlib.sha256(self_test_tile(64, 48).tobytes()).hexdigest()
    assert (PATTERN, digest) == (1, "1a686af1888808087899be51bafd09121872925fbebb68532c59b0240aba19b1")


@pytest.mark.parametrize("size", [(8, 8), (16, 64), (1024, 512)])
def test_the_tile_holds_every_kind_of_content(size: tuple[int, int]) -> None:
    tile = self_test_tile(*size)
    assert (tile.shape, tile.dtype) == ((*size, 3), np.uint8)
    assert (tile.min(axis=(0, 1)) <= 40).all()
    assert (tile.max(axis=(0, 1)) >= 215).all()
    assert len(np.unique(tile)) > 40
    assert (tile[..., 0] != tile[..., 2]).mean() > 0.5, "colours, not grey"


def test_samples_are_few_and_fall_on_every_position_of_a_pixel_shuffle(artifact: Artifact) -> None:
    record = artifact.meta.self_test
    assert record is not None
    rows = range(0, 4 * FAKE_TILE[0], record.stride)
    assert {row % 4 for row in rows} == {0, 1, 2, 3}
    assert len(record.samples) == 3 * len(rows) ** 2 <= 3 * 40**2
    expected = self_test_tile(*FAKE_TILE).repeat(4, axis=0).repeat(4, axis=1)[:: record.stride, :: record.stride]
    assert record.samples == expected.tobytes()
    assert load_artifact(artifact.path).meta.self_test == record, "it survives the JSON"


# ----------------------------------------------------------------------------------------------------------- comparing
def test_the_same_picture_passes_with_nothing_between(artifact: Artifact) -> None:
    result = check_self_test(FakeRunner(), artifact)
    assert (result.recorded_by, result.max_levels, result.mean_levels, result.far_percent) == (
        "ai-edge-litert 2.3.0", 0, 0.0, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize(("levels", "share"), [(1, 0.6), (2, 0.25), (30, 0.01)])
def test_another_processors_rounding_passes(artifact: Artifact, levels: int, share: float) -> None:
    result = check_self_test(FakeRunner(noisy(levels, share), name="ai-edge-litert 2.4.1"), artifact)
    assert result.mean_levels == pytest.approx(levels * share, rel=0.8)  # of 507 values
    assert result.max_levels in (levels, 0)


DAMAGE: dict[str, Callable[[Image], Image]] = {
    "one level on every value": noisy(1, 1.0),
    "three levels on a twentieth": noisy(3, 0.05),
    "colours exchanged": lambda sr: sr[..., ::-1],
    "shifted by one pixel": lambda sr: np.roll(sr, 1, axis=1),
    "darker": lambda sr: sr - sr // 8,
    "upside down": lambda sr: sr[::-1],
    "a corner lost": lambda sr: np.where(np.indices(sr.shape).sum(axis=0) < 40, 0, sr).astype(np.uint8),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_wrong_picture_is_refused_and_its_runner_closed(
    artifact: Artifact, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = FakeRunner(DAMAGE[damage])
    monkeypatch.setattr(self_test, "open_runner", lambda *a, **k: runner)
    with pytest.raises(RunnerError, match=r"the picture it gave when it was exported, got one that differs by \d"):
        open_checked_runner(artifact)
    assert runner.closed


FLAT: dict[str, Callable[[Image], Image]] = {
    "one flat colour": lambda sr: np.broadcast_to(np.array([9, 120, 200], np.uint8), sr.shape),
    "constant red": lambda sr: np.concatenate([sr[..., :1] * 0, sr[..., 1:]], axis=2),
    "constant green and blue": lambda sr: np.concatenate([sr[..., :1], sr[..., 1:] * 0 + 255], axis=2),
}


@pytest.mark.parametrize("kind", FLAT)
def test_flat_results_are_named_even_without_a_record(tmp_path: Path, kind: str) -> None:
    old = load_artifact(fake_artifact(tmp_path))
    assert old.meta.self_test is None
    with pytest.raises(RunnerError, match=f"got {kind}: its weights are damaged"):
        check_self_test(FakeRunner(FLAT[kind]), old)


def test_an_older_artifact_passes_with_any_picture(tmp_path: Path) -> None:
    old = load_artifact(fake_artifact(tmp_path))
    assert "self_test" not in old.meta.to_json(), "and its JSON stays as older releases wrote it"
    assert check_self_test(FakeRunner(DAMAGE["darker"]), old).recorded_by is None


def test_a_record_of_a_later_tile_is_not_compared(artifact: Artifact) -> None:
    assert artifact.meta.self_test is not None
    later = replace(artifact.meta, self_test=replace(artifact.meta.self_test, pattern=PATTERN + 1))
    assert check_self_test(FakeRunner(DAMAGE["darker"]), replace(artifact, meta=later)).recorded_by is None


def test_a_record_of_another_size_is_refused(artifact: Artifact) -> None:
    assert artifact.meta.self_test is not None
    short = base64.b64encode(artifact.meta.self_test.samples[:-3]).decode()
    other = replace(artifact.meta, self_test=replace(artifact.meta.self_test, pixels=short))
    with pytest.raises(RunnerError, match="bytes in the self-test"):
        check_self_test(FakeRunner(), replace(artifact, meta=other))


def test_another_runtime_may_differ_by_more_than_another_processor(artifact: Artifact) -> None:
    change = noisy(4, 0.25)
    with pytest.raises(RunnerError, match=r"differs by"):
        check_self_test(FakeRunner(change), artifact)
    assert check_self_test(FakeRunner(change, name="coreml"), artifact).max_levels == 4


# ----------------------------------------------------------------------------------------------------------- recording
def refusing(error: EdgeSRError) -> Callable[..., FakeRunner]:
    def open_runner(*arguments: object, **options: object) -> FakeRunner:
        raise error

    return open_runner


@pytest.mark.parametrize("error", [RunnerError("NaN at every pixel"), ArtifactError("no program")])
def test_export_refuses_a_file_that_its_own_runtime_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: EdgeSRError
) -> None:
    fresh = load_artifact(fake_artifact(tmp_path, "executorch"))
    monkeypatch.setattr(self_test, "open_runner", refusing(error))
    with pytest.raises(ConversionError, match=f"expected the exported file to run, got: {error}"):
        record_self_test(fresh.meta, fresh.path)


@pytest.mark.parametrize(
    ("target", "error"),
    [("tflite", MissingToolError("pip install it")), ("coreml", RunnerError("an unknown operation"))],
)
def test_where_nothing_can_run_the_artifact_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, error: EdgeSRError
) -> None:
    fresh = load_artifact(fake_artifact(tmp_path, target))
    monkeypatch.setattr(self_test, "open_runner", refusing(error))
    monkeypatch.setattr(
        self_test, "accuracy_runtimes", lambda meta: {"coreml": ("coreml_evaluator",)}.get(meta.target, (meta.target,))
    )
    meta = record_self_test(fresh.meta, fresh.path)
    assert meta.self_test is None
    assert meta.notes == (*fresh.meta.notes, f"no self-test was recorded: {error}")


def test_export_refuses_a_network_that_gives_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = load_artifact(fake_artifact(tmp_path))
    monkeypatch.setattr(self_test, "open_runner", lambda *a, **k: FakeRunner(FLAT["one flat colour"]))
    with pytest.raises(ConversionError, match="got one flat colour; look at its weights"):
        record_self_test(fresh.meta, fresh.path)


@pytest.mark.parametrize("changes", [{"pattern": 0}, {"stride": True}, {"pixels": "?"}, {"runtime": ""}])
def test_a_record_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    fields: dict[str, object] = {"pattern": 1, "stride": 5, "runtime": "x", "pixels": ""}
    with pytest.raises(ArtifactError, match="self_test"):
        SelfTest(**(fields | changes))  # type: ignore[arg-type]
