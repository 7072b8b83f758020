"""Damaged artifact folders under the hashes that export wrote: the loader refuses them, in one line, all by itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damages, one_line, resize, rewrite, write_digested
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from converters.artifact import ArtifactMeta, fingerprint, load_artifact, record_measured, write_artifact
from converters.graphs import file_canonical_sha256
from edge_sr.errors import ArtifactError
from fakes import fake_artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of a file and a package, whose models are none: the loader never asks."""
    path = tmp_path / "artifact"
    write_package(path, seed=0)
    return path


def write_package(path: Path, seed: int) -> None:
    source = path.with_name(f"{path.name}-source")
    for name in ("model.bin", "package/Manifest.json", "package/data/weight.bin"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(np.random.default_rng((seed, len(name))).bytes(200 + len(name)))
    meta = load_artifact(fake_artifact(source)).meta
    files = fingerprint(source, ["model.bin", "package"])
    write_artifact(path, meta=replace(meta, files=files), source=source)


def assert_refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    assert one_line(caught.value), str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.bin", "package/Manifest.json", "package/data/weight.bin", "artifact.json"])
def test_every_damage_to_any_file_is_refused_before_a_runtime_sees_it(folder: Path, name: str) -> None:
    sound = (folder / name).read_bytes()
    for kind, damaged in damages(sound, bytes(len(sound)), 3, 60):
        if name == "artifact.json" and kind == "last byte lost":
            continue  # the end of the last line
        (folder / name).write_bytes(damaged)
        assert damaged != sound, kind
        assert_refused(folder)
    (folder / name).write_bytes(sound)
    assert load_artifact(folder).meta.model == "idsa_net_mobile"


@pytest.mark.parametrize("name", ["model.bin", "package/data/weight.bin", "artifact.json"])
@pytest.mark.parametrize("state", ["missing", "a folder", "a dangling link", "a link to itself", "a pipe", "another's"])
def test_what_stands_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path, name: str, state: str) -> None:
    path = folder / name
    if state == "another's":
        write_package(tmp_path / "other", seed=1)
        shutil.copyfile(tmp_path / "other" / name, path)
        assert_refused(folder)
        return
    path.unlink()
    match state:
        case "a folder":
            path.mkdir()
        case "a dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case "a link to itself":
            path.symlink_to(path)
        case "a pipe":
            os.mkfifo(path)
    assert_refused(folder)


def test_a_link_to_the_true_bytes_is_as_good_as_the_bytes(folder: Path, tmp_path: Path) -> None:
    # Stores that keep one copy of equal files (Hugging Face's cache, git-annex, Bazel) hand out links.
    shutil.move(folder / "model.bin", tmp_path / "blob")
    (folder / "model.bin").symlink_to(tmp_path / "blob")
    assert load_artifact(folder).meta.main_file == "model.bin"


@pytest.mark.parametrize("kind", ["file", "folder", "link to a folder", "pipe"])
def test_nothing_may_be_added_to_a_package(folder: Path, tmp_path: Path, kind: str) -> None:
    extra = folder / "package" / "data" / "extra"
    match kind:
        case "file":
            extra.write_bytes(b"")
        case "folder":
            extra.mkdir()
        case "link to a folder":
            extra.symlink_to(tmp_path)
        case _:
            os.mkfifo(extra)
    assert "one more" in assert_refused(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("../model.bin", "/etc/passwd", "a/../../b", "./model.bin", "a//b", "", ".", "..", "package/", "a\\b", "C:b"),
        *("a\0b", "a\nb", "\x1b[31m", "x" * 300, "Artifact.JSON", "\u202eb"),
    ],
)
def test_a_name_that_could_mean_another_place_is_refused(folder: Path, name: str) -> None:
    rewrite(folder, lambda data: data["files"].update({name: data["files"]["model.bin"]}))
    assert "plain relative paths" in assert_refused(folder)


def test_unicode_names_are_names(tmp_path: Path) -> None:
    path = tmp_path / "Ärtefakt 模型 \N{SNOWMAN}"
    write_package(path, seed=0)
    assert load_artifact(path).path == path


TEXTS: dict[str, str | bytes] = {
    "deep lists": '{"format": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a number of 10000 digits": '{"format": ' + "9" * 10_000 + "}",
    "not a number": '{"format": NaN}',
    "infinity": '{"format": 1e999}',
    "a lone surrogate": '{"format": "\\ud800"}',
    "two objects": "{}{}",
    "a list": "[1, 2]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "bytes of no encoding": b"\xff\xfe\x00\xd8",
    "five megabytes": '{"format": "' + "x" * 5_000_000 + '"}',
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_that_is_no_artifact_json_is_refused(folder: Path, kind: str) -> None:
    text = TEXTS[kind]
    (folder / "artifact.json").write_bytes(text.encode() if isinstance(text, str) else text)
    assert_refused(folder)


def test_a_key_that_stands_there_twice_is_refused(folder: Path) -> None:
    path = folder / "artifact.json"
    whole = path.read_text()
    path.write_text(whole.replace('"scale": 4', '"scale": 2, "scale": 4', 1))
    assert json.loads(path.read_text()) == json.loads(whole), "other readers would take it for the same"
    assert "twice" in assert_refused(folder)


SELF_TEST = {"pattern": 1, "stride": 1, "runtime": "x", "pixels": ""}
SIZES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tile": lambda data: resize(data, 10**9, 10**9, 4),
    "tile alone": lambda data: data.update(tile=[32, 32]),
    "output alone": lambda data: data["io"]["model.bin"]["output"].update(shape=[1, 16, 16, 3]),
    "shape": lambda data: data["io"]["model.bin"]["input"].update(shape=[1, 2**62, 2**62, 3]),
    "file size": lambda data: data["files"]["model.bin"].update(size_bytes=2**80),
    "negative size": lambda data: data["files"]["model.bin"].update(size_bytes=-1),
    "overlap": lambda data: data.update(overlap=True),
    "scale": lambda data: data.update(scale=4.0),
    "layout": lambda data: data["io"]["model.bin"]["input"].update(layout="image"),
    "range": lambda data: data["io"]["model.bin"]["input"].update(value_range=["black", "white"]),
    "qscale": lambda data: data["io"]["model.bin"]["input"].update(qscale="1", zero_point=0),
    "notes": lambda data: data.update(notes="a line"),
    "versions": lambda data: data.update(tool_versions=["torch"]),
    "measured": lambda data: data.update(measured=[]),
    "model with a path": lambda data: data.update(model="../../etc"),
    "model with two lines": lambda data: data.update(model="net\nwork"),
    "self-test": lambda data: data.update(self_test={**SELF_TEST, "stride": 0}),
    "self-test's pixels": lambda data: data.update(
        self_test={"pattern": 1, "stride": 1, "runtime": "x", "pixels": "?"}
    ),
    "self-test of null": lambda data: data.update(self_test=None),
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_size_or_type_that_cannot_be_is_refused(folder: Path, kind: str) -> None:
    rewrite(folder, SIZES[kind])
    assert_refused(folder)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**63), 2**63 - 1, 2**63, "\ud800", json.loads("[" * 60 + "]" * 60)])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_in_any_place_is_taken_as_it_is_or_refused_in_one_line(folder: Path, data: st.DataObject) -> None:
    path = folder / "artifact.json"
    whole = path.read_text()
    content = json.loads(whole)
    del content["sha256"]
    node, key = data.draw(st.sampled_from(list(places(content))))
    node[key] = data.draw(JSON_VALUES)
    write_digested(path, content)
    try:
        loaded = load_artifact(folder).meta.to_json()
    except ArtifactError as error:
        event("refused")
        refusal = error
    else:
        event("taken")
        refusal = None
        assert loaded.items() >= content.items()
        json.dumps(loaded, ensure_ascii=False, allow_nan=False).encode()
    finally:
        path.write_text(whole)
    assert refusal is None or one_line(refusal)


IMPOSSIBLE: dict[str, Any] = {
    "a number beyond floats": 10**400,
    "a number that no text holds": 10**5000,
    "a number beyond 63 bits": 2**63,
    "not a number": float("nan"),
    "infinity": float("inf"),
    "half a character": "\ud800",
    "half a character as a name": {"\udfff": 1},
    "a number as a name": {1: 1},
    "bytes": b"x",
    "without end": json.loads("[" * 900 + "]" * 900),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_no_machine_reads_back_is_refused_in_every_place(folder: Path, kind: str) -> None:
    whole = json.loads((folder / "artifact.json").read_text())
    count = len(list(places(whole)))
    assert count > 60
    for place in range(count):
        changed = json.loads(json.dumps(whole))
        node, key = list(places(changed))[place]
        node[key] = IMPOSSIBLE[kind]
        with pytest.raises(ArtifactError) as caught:
            ArtifactMeta.from_json(changed)
        assert one_line(caught.value)


@pytest.mark.parametrize(
    "value", [value for kind, value in IMPOSSIBLE.items() if kind != "a number that no text holds"]
)
def test_results_that_no_machine_reads_back_are_not_recorded(folder: Path, value: Any) -> None:
    before = (folder / "artifact.json").read_bytes()
    with pytest.raises(ArtifactError, match="measured must be JSON"):
        record_measured(load_artifact(folder), {"latency_ms": value})
    assert (folder / "artifact.json").read_bytes() == before


BOOLEANS = ("scale", "overlap", "tile", "stride", "pattern", "size_bytes", "delegates", "shape", "zero_point", "qscale")


@pytest.mark.parametrize("name", BOOLEANS)
def test_a_truth_value_is_no_number(folder: Path, name: str) -> None:
    data = json.loads((folder / "artifact.json").read_text())
    data["self_test"] = dict(SELF_TEST)
    data["io"]["model.bin"]["input"].update(qscale=1.0, zero_point=0)
    holder = next(node for node, key in places(data) if key == name)
    holder[name] = [True, *holder[name][1:]] if isinstance(holder[name], list) else True
    with pytest.raises(ArtifactError) as caught:
        ArtifactMeta.from_json(redigested(data))
    assert name in str(caught.value)


def redigested(data: dict[str, Any]) -> dict[str, Any]:
    body = {key: value for key, value in data.items() if key != "sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value that can be set."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield node, key
        yield from places(value)


def test_an_unreadable_folder_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in assert_refused(folder)
    monkeypatch.undo()
    assert "cannot read" in assert_refused(folder / ("x" * 300))


# ------------------------------------------------------------------------------------------- hashes that were made anew
@pytest.fixture
def computing(tmp_path: Path) -> Path:
    """An artifact whose model computes something, with a digest of that."""
    pytest.importorskip("ai_edge_litert", reason="it brings the schema")
    from tiny_tflite import TinyModel

    tiny = TinyModel()
    rng = np.random.default_rng(0)
    x, y = tiny.tensor((1, 16, 16, 3)), tiny.tensor((1, 16, 16, 3), name="y")
    weight = tiny.tensor((3, 3, 3, 3), data=rng.normal(size=(3, 3, 3, 3)), name="weight")
    bias = tiny.tensor((3,), data=rng.normal(size=3), name="bias")
    tiny.op("CONV_2D", [x, weight, bias], [y], "Conv2D", strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    plain = load_artifact(fake_artifact(tmp_path))
    tiny.write(tmp_path / "source" / "model.bin", [x], [y])
    meta = replace(
        plain.meta,
        files=fingerprint(tmp_path / "source", ["model.bin"]),
        canonical_sha256=file_canonical_sha256(tmp_path / "source" / "model.bin", "tflite"),
        tool_versions={name: metadata.version(name) for name in ("edge-sr", "ai-edge-litert")},
    )
    return write_artifact(tmp_path / "computing", meta=meta, source=tmp_path / "source").path


def rehash(path: Path) -> None:
    rewrite(path, lambda data: data.update(files={"model.bin": asdict(fingerprint(path, ["model.bin"])["model.bin"])}))


def test_another_weight_is_refused_whatever_its_hash_says(computing: Path) -> None:
    model = computing / "model.bin"
    sound = model.read_bytes()
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32).tobytes()
    start = sound.index(weights)
    for bit in np.random.default_rng(1).integers(8 * len(weights), size=60):
        damaged = bytearray(sound)
        damaged[start + bit // 8] ^= 1 << (bit % 8)
        model.write_bytes(damaged)
        rehash(computing)
        assert "computes something else" in assert_refused(computing)


def test_every_damage_under_new_hashes_is_refused_in_one_line_or_changes_no_computation(computing: Path) -> None:
    model = computing / "model.bin"
    sound = model.read_bytes()
    digest = load_artifact(computing).meta.canonical_sha256
    refused = 0
    for kind, damaged in damages(sound, bytes(len(sound)), 5, 150):
        model.write_bytes(damaged)
        rehash(computing)
        if file_canonical_sha256(model, "tflite") == digest:
            assert load_artifact(computing).meta.canonical_sha256 == digest, kind
        else:
            assert_refused(computing)
            refused += 1
    assert refused > 100


def test_another_name_in_the_model_computes_the_same_and_is_taken(computing: Path) -> None:
    model = computing / "model.bin"
    model.write_bytes(model.read_bytes().replace(b"weight", b"Weight"))
    rehash(computing)
    assert load_artifact(computing).main_path == model


@pytest.mark.parametrize("case", ["no digest", "another release", "another schema"])
def test_a_digest_is_compared_by_those_who_would_make_the_same_one(computing: Path, case: str) -> None:
    def change(data: dict[str, Any]) -> None:
        match case:
            case "no digest":
                del data["canonical_sha256"]
            case "another release":
                data["tool_versions"]["edge-sr"] = "0.0.1"
            case _:
                data["tool_versions"]["ai-edge-litert"] = "2.2.0"

    rewrite(computing, lambda data: data.update(canonical_sha256="0" * 64))
    assert_refused(computing)
    rewrite(computing, change)
    assert load_artifact(computing).meta.scale == 4
