"""The measurement of what is lost counts what is there, and finds what it is made to find."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

import apps.upscaling.runners
from apps.history.measurement import Measurement
from apps.progress import quiet
from converters.artifact import load_artifact
from edge_sr.errors import ConfigError
from edge_sr.images import write_image
from fakes import FAKE_TILE, fake_artifact
from scripts import measure_reliability, reliability_damage, render_docs
from scripts.reliability_damage import damage_histories, flipped
from scripts.reliability_memory import upscale_watched
from scripts.reliability_writers import begin_histories, kill_while_overwriting, record_at_once


def test_nothing_is_lost_where_several_begin_a_history(tmp_path: Path) -> None:
    found = begin_histories(tmp_path, writes=40, progress=quiet)
    assert found == {"processes": 8, "histories": 1, "writes": 40, "lost": 0, "failures": {}}


def test_nothing_is_lost_where_several_record_and_nothing_left(tmp_path: Path) -> None:
    artifact = load_artifact(fake_artifact(tmp_path))
    (tmp_path / "work").mkdir()
    found = record_at_once(artifact, tmp_path / "work", writes=40, progress=quiet)
    assert found == {"processes": 4, "writes": 40, "lost": 0, "failures": {}, "left_behind": []}


def test_a_killed_writer_leaves_an_artifact(tmp_path: Path) -> None:
    artifact = load_artifact(fake_artifact(tmp_path))
    (tmp_path / "work").mkdir()
    found = kill_while_overwriting(artifact, tmp_path / "work", kills=2, seed=0, progress=quiet)
    assert found["reads"] > 0
    lost = ("missing", "damaged", "reads_of_none", "reads_of_damage", "left_after_the_next_write")
    assert {name: found[name] for name in lost} == dict.fromkeys(lost, 0)


def test_rows_that_are_read_as_something_else_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = damage_histories(tmp_path, count=20, seed=0, progress=quiet)["rows"]["history"]
    assert sum(found.values()) == 20
    assert set(found) <= {"refused", "same"}

    def believe(path: Path) -> tuple[Measurement, ...]:
        return () if path.stem.isdecimal() else (reliability_damage.EXAMPLE,)

    monkeypatch.setattr(reliability_damage, "read", believe)
    (tmp_path / "again").mkdir()
    assert damage_histories(tmp_path / "again", count=5, seed=0, progress=quiet)["rows"] == {
        "history": {"different": 5}
    }


def test_flips_are_few_and_the_same_for_the_same_seed() -> None:
    content = bytes(1000)
    counts = set()
    for seed in range(50):
        damaged = flipped(content, np.random.default_rng(seed))
        assert damaged == flipped(content, np.random.default_rng(seed))
        counts.add(int(np.unpackbits(np.frombuffer(damaged, np.uint8)).sum()))
    assert 1 in counts
    assert max(counts) <= 64


def test_a_part_replaces_its_own_section_and_the_result_is_one_that_documents_know(tmp_path: Path) -> None:
    out = tmp_path / "reliability.json"
    for content in ({"lost": 1}, {"lost": 0}):
        measure_reliability.write_part(out, "history", content)
    measure_reliability.write_part(out, "record", {"lost": 2})
    written = json.loads(out.read_text())
    assert {name: section["lost"] for name, section in written.items()} == {"history": 0, "record": 2}
    assert measure_reliability.RESULT.stem in render_docs.RESULT_NAMES
    with pytest.raises(ConfigError, match="parts must be among history, record, overwrite"):
        measure_reliability.main(["nothing", "--work", str(tmp_path)])


def test_the_memory_of_a_tile_is_seen_and_stands_beside_the_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = 100_000_000

    class Hungry:
        name, scale, tile = "hungry", 4, FAKE_TILE

        def run(self, lr: np.ndarray) -> np.ndarray:
            memory = np.ones(held, np.uint8)  # ones: zeros are not in memory before they are written
            time.sleep(0.2)  # twenty looks
            return lr.repeat(4, axis=0).repeat(4, axis=1) * memory[0]

    monkeypatch.setattr(apps.upscaling.runners, "open_checked_runner", lambda artifact, **_: Hungry())
    write_image(tmp_path / "p.png", np.zeros((16, 16, 3), np.uint8))
    found = upscale_watched(str(tmp_path / "p.png"), str(tmp_path / "large.png"), str(fake_artifact(tmp_path)))
    assert found["peak_bytes"] - found["base_bytes"] > 0.9 * held
    # 3 bytes of 16x16 pixels, and three times 64x64 pixels under way: 37,632 bytes, and the process itself.
    # Announced right after it was forecast: in between, this process holds about the same.
    assert abs(found["forecast_bytes"] - 37_632 - found["base_bytes"]) < 20_000_000
    assert (found["tiles"], found["lr_size"], found["sr_size"]) == (1, [16, 16], [64, 64])
