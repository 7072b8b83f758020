"""Artifact folders: what was written is what is read, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.artifact import (
    ArtifactMeta,
    Delegation,
    IoVariant,
    TensorSpec,
    artifact_name,
    fingerprint,
    load_artifact,
    record_measured,
    write_artifact,
)
from edge_sr.errors import ArtifactError

MODEL_BYTES = b"not a real model, but 35 bytes long"
PART_BYTES = b"weights"


def make_meta(source: Path) -> ArtifactMeta:
    spec = TensorSpec(name="input", dtype="uint8", layout="NHWC", shape=(1, 8, 16, 3), value_range=(0.0, 255.0))
    wide = replace(spec, name="output", shape=(1, 16, 32, 3))
    return ArtifactMeta(
        model="toy",
        scale=2,
        scheme="fp32",
        target="tflite",
        tile=(8, 16),
        overlap=4,
        main_file="model.bin",
        io={"model.bin": IoVariant(input=spec, output=wide)},
        files=fingerprint(source, ("model.bin", "package")),
        tool_versions={"tool": "1.2"},
        checkpoint_sha256="ab" * 32,
        delegation=Delegation(delegates=1, ops_outside={"GELU": 2}),
        notes=("a line",),
        weights_license="CC-BY-4.0",
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "package" / "data").mkdir(parents=True)
    (folder / "model.bin").write_bytes(MODEL_BYTES)
    (folder / "package" / "data" / "part.bin").write_bytes(PART_BYTES)
    return folder


@pytest.fixture
def folder(tmp_path: Path, source: Path) -> Path:
    path = tmp_path / "artifact"
    write_artifact(path, meta=make_meta(source), source=source)
    return path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change ``artifact.json`` as someone would who knows how its digest is made."""
    path = folder / "artifact.json"
    data = json.loads(path.read_text())
    del data["sha256"]
    change(data)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**data, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def refusal(path: Path) -> str:
    """The one line with which an artifact is refused."""
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_what_was_written_is_what_is_read(folder: Path, source: Path) -> None:
    artifact = load_artifact(folder)
    assert artifact.meta == make_meta(source)
    assert artifact.main_path.read_bytes() == MODEL_BYTES
    assert (folder / "package" / "data" / "part.bin").read_bytes() == PART_BYTES


def test_artifact_json_states_the_sha256_of_every_file(folder: Path) -> None:
    files = json.loads((folder / "artifact.json").read_text())["files"]
    assert files == {
        "model.bin": {"sha256": hashlib.sha256(MODEL_BYTES).hexdigest(), "size_bytes": len(MODEL_BYTES)},
        "package/data/part.bin": {"sha256": hashlib.sha256(PART_BYTES).hexdigest(), "size_bytes": len(PART_BYTES)},
    }


def test_default_name_says_model_scale_scheme_target_and_tile() -> None:
    name = artifact_name(model="idsa_net", scale=4, scheme="w8a8", target="coreml", tile=(96, 128))
    assert name == "idsa_net_x4_w8a8_coreml_128x96"


def test_size_counts_the_main_model_only(folder: Path, source: Path) -> None:
    meta = load_artifact(folder).meta
    assert meta.size_bytes == len(MODEL_BYTES)
    package = replace(meta, main_file="package", io={**meta.io, "package": meta.io["model.bin"]})
    assert package.size_bytes == len(PART_BYTES)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "got nothing" in refusal(tmp_path / "nowhere")


def test_file_in_place_of_a_folder_is_refused(folder: Path) -> None:
    assert "got a file" in refusal(folder / "model.bin")


def test_folder_without_artifact_json_is_refused(folder: Path) -> None:
    (folder / "artifact.json").unlink()
    assert "expected artifact.json" in refusal(folder)


def test_missing_model_file_is_refused(folder: Path) -> None:
    (folder / "model.bin").unlink()
    assert "model.bin: expected 35 bytes, got no file" in refusal(folder)


def test_truncated_model_file_is_refused(folder: Path) -> None:
    (folder / "model.bin").write_bytes(MODEL_BYTES[:-5])
    assert "model.bin: expected 35 bytes, got 30" in refusal(folder)


def test_one_flipped_bit_in_a_package_is_refused(folder: Path) -> None:
    part = folder / "package" / "data" / "part.bin"
    part.write_bytes(bytes([PART_BYTES[0] ^ 1]) + PART_BYTES[1:])
    assert "part.bin: expected SHA-256" in refusal(folder)


def test_file_added_to_a_package_is_refused(folder: Path) -> None:
    (folder / "package" / "extra.bin").write_bytes(b"x")
    assert "extra.bin" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "nonsense", "\x00\xff"])
def test_artifact_json_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "artifact.json").write_text(text)
    assert "artifact.json" in refusal(folder)


def test_edited_artifact_json_is_refused(folder: Path) -> None:
    path = folder / "artifact.json"
    path.write_text(path.read_text().replace('"overlap": 4', '"overlap": 5'))
    assert "altered" in refusal(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(min_value=0, max_value=10**6), bit=st.integers(min_value=0, max_value=7))
def test_any_flipped_bit_of_artifact_json_is_refused(folder: Path, position: int, bit: int) -> None:
    path = folder / "artifact.json"
    whole = path.read_bytes()
    at = position % (len(whole) - 1)  # the last byte ends the line
    path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
    try:
        refusal(folder)
    finally:
        path.write_bytes(whole)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "expected format": lambda data: data.update(format="edge-sr-artifact-9"),
    "unknown field colour": lambda data: data.update(colour="red"),
    "missing field scale": lambda data: data.pop("scale"),
    "unknown field speed": lambda data: data["delegation"].update(speed=1),
    "missing field layout": lambda data: data["io"]["model.bin"]["input"].pop("layout"),
    "scale must be": lambda data: data.update(scale=5),
    "tile must be": lambda data: data.update(tile="8x16"),
    "overlap must be": lambda data: data.update(overlap=8),
    "dtype must be": lambda data: data["io"]["model.bin"]["input"].update(dtype="int4"),
    "sha256 must be": lambda data: data["files"]["model.bin"].update(sha256="abc"),
    "wrong type": lambda data: data.update(io=[]),
    "must be among the files": lambda data: data.update(main_file="other.bin"),
    "plain relative paths": lambda data: data["files"].update({"../model.bin": data["files"]["model.bin"]}),
    "checkpoint_sha256": lambda data: data.update(checkpoint_sha256=None),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_field_that_cannot_be_is_refused_by_name(folder: Path, reason: str) -> None:
    rewrite(folder, CHANGES[reason])
    assert reason in refusal(folder)


def test_existing_artifact_is_kept_unless_overwriting_is_allowed(folder: Path, source: Path) -> None:
    newer = replace(make_meta(source), overlap=2)
    with pytest.raises(ArtifactError, match="got existing"):
        write_artifact(folder, meta=newer, source=source)
    assert load_artifact(folder).meta.overlap == 4
    write_artifact(folder, meta=newer, source=source, overwrite=True)
    assert load_artifact(folder).meta.overlap == 2


def test_overwriting_replaces_artifacts_only(tmp_path: Path, source: Path) -> None:
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "cat.png").write_bytes(b"cat")
    with pytest.raises(ArtifactError, match="remove it by hand"):
        write_artifact(precious, meta=make_meta(source), source=source, overwrite=True)
    assert (precious / "cat.png").read_bytes() == b"cat"


def test_failed_write_leaves_nothing_behind(tmp_path: Path, source: Path) -> None:
    meta = make_meta(source)
    (source / "model.bin").write_bytes(b"changed after it was fingerprinted!")
    with pytest.raises(ArtifactError, match="altered"):
        write_artifact(tmp_path / "out" / "artifact", meta=meta, source=source)
    assert list((tmp_path / "out").iterdir()) == []


def test_fingerprint_of_a_missing_file_is_refused(source: Path) -> None:
    with pytest.raises(ArtifactError, match=r"other\.bin"):
        fingerprint(source, ("other.bin",))


def test_measured_results_are_merged_and_survive(folder: Path) -> None:
    first = record_measured(load_artifact(folder), {"verified": {"Set5": {"psnr_y_db": 31.5}}})
    record_measured(first, {"latency_ms": 12.0})
    assert load_artifact(folder).meta.measured == {"verified": {"Set5": {"psnr_y_db": 31.5}}, "latency_ms": 12.0}


def test_artifact_can_be_moved(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    assert load_artifact(moved).path == moved
