"""Checkpoints rebuild the network that was saved, and refuse anything else."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from edge_sr import checkpoints
from edge_sr.checkpoints import (
    bundled_checkpoint,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    sha256_file,
)
from edge_sr.errors import CheckpointError
from edge_sr.networks import create_network

SMALL: dict[str, dict[str, Any]] = {
    "idsa_net_mobile": {"channels": 8, "blocks": 1, "distilled": 4},
    "idsa_net": {"channels": 8, "blocks": 1, "distilled": 4, "attention_dim": 8, "hidden": 8, "purified": 4},
}


def _network(model: str = "idsa_net_mobile", scale: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return create_network(model, scale, **SMALL[model])


def _header(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return header


def _rewrite(path: Path, **changes: str) -> None:
    """Write the same tensors with some header strings changed, through safetensors itself."""
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata=_header(path) | changes)


@pytest.mark.parametrize("model", SMALL)
def test_a_network_comes_back_with_the_same_outputs(tmp_path: Path, model: str) -> None:
    network = _network(model, scale=3).eval()
    path = tmp_path / "new" / "net.safetensors"
    save_checkpoint(path, network, {"steps": 7, "score": {"Set5": 31.5}})
    loaded = load_checkpoint(path, expect_model=model)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded.network(x), network(x))
    assert not loaded.network.training
    assert loaded.network.config == network.config
    assert loaded.metadata == {"steps": 7, "score": {"Set5": 31.5}}
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_file(path)
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]


def test_the_header_can_be_read_by_any_safetensors_reader(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(), {})
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == "edge-sr-1"
    assert (header["kind"], header["model"]) == ("float", "idsa_net_mobile")
    assert json.loads(header["config"])["scale"] == 2


def test_equal_contents_have_equal_bytes(tmp_path: Path) -> None:
    digests = set()
    for index in range(8):
        path = tmp_path / f"{index}.safetensors"
        tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
        metadata = {"x": 1, "y": 2} if index % 2 else {"y": 2, "x": 1}
        save_tensors(path, tensors, model="m", config={"scale": 2}, metadata=metadata)
        digests.add(sha256_file(path))
    assert len(digests) == 1


def test_tensors_of_every_shape_and_type_come_back(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "transposed": base.T,
        "shared": base,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "int8": torch.tensor([-127, 127], dtype=torch.int8),
        "empty": torch.zeros(0, 4),
        "flag": torch.tensor(True),
    }
    path = tmp_path / "q.safetensors"
    config = {"scale": 4, "widths": [8, [1, 2]]}
    save_tensors(path, tensors, model="m", config=config, metadata={"scheme": "w8a8"}, kind="quantized")
    loaded = load_tensors(path, expect_model="m", expect_kind="quantized")
    assert loaded.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value), name
    assert loaded.config == {"scale": 4, "widths": (8, (1, 2))}
    assert loaded.metadata == {"scheme": "w8a8"}


def test_another_network_or_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(), {})
    with pytest.raises(CheckpointError, match=r"checkpoint of idsa_net, got .*, which holds idsa_net_mobile"):
        load_checkpoint(path, expect_model="idsa_net")
    with pytest.raises(CheckpointError, match=r"quantized checkpoint, got .*, which is float"):
        load_tensors(path, expect_kind="quantized")
    save_tensors(path, {"a": torch.ones(1)}, model="idsa_net", config={"scale": 2}, metadata={}, kind="quantized")
    with pytest.raises(CheckpointError, match=r"float checkpoint, got .*, which is quantized"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="kind to be one of float, quantized, got 'half'"):
        save_tensors(path, {}, model="m", config={}, metadata={}, kind="half")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"got .*x\.safetensors \(No such file"):
        load_checkpoint(path)
    for content in (b"", b"1234", b"not a checkpoint at all", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"[]"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="expected a safetensors file"):
            load_checkpoint(path)
    safetensors.torch.save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="expected format edge-sr-1, got None"):
        load_checkpoint(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(), {})
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="expected a whole checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "edge-sr-9"}, "expected format edge-sr-1, got 'edge-sr-9'"),
        ({"model": "other_net"}, "configuration of this version"),
        ({"config": '{"scale": 2, "depth": 3}'}, "configuration of this version"),
        ({"config": "{}"}, "configuration of this version"),
        ({"config": '{"scale": 3, "channels": 8, "blocks": 1, "distilled": 4}'}, "weights that fit idsa_net_mobile"),
        ({"config": "{"}, "whole checkpoint"),
        ({"config": "[]"}, "to be JSON objects"),
        ({"kind": "none"}, "header with kind and model"),
    ],
)
def test_a_header_that_does_not_fit_is_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(), {})
    _rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_only_json_can_go_into_the_header(tmp_path: Path) -> None:
    for wrong in ({"a": torch.ones(1)}, {"a": float("nan")}, {"a": {1, 2}}):
        with pytest.raises(CheckpointError, match="JSON-ready metadata"):
            save_checkpoint(tmp_path / "net.safetensors", _network(), wrong)
    with pytest.raises(CheckpointError, match="model_name and config, got Conv2d"):
        save_checkpoint(tmp_path / "net.safetensors", nn.Conv2d(1, 1, 1), {})
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(), {"steps": 1})
    before = path.read_bytes()

    def refuse(self: Path, data: bytes) -> None:
        self.touch()
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(CheckpointError, match="disk full"):
            save_checkpoint(path, _network(), {"steps": 2})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_bundled_checkpoints_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS_DIR", tmp_path)
    with pytest.raises(CheckpointError, match="bundled: none"):
        bundled_checkpoint("idsa_net", 4)
    for name in ("idsa_net_x4_fp32.safetensors", "idsa_net_x4_w8a8.safetensors"):
        (tmp_path / name).touch()
    assert bundled_checkpoint("idsa_net", 4) == tmp_path / "idsa_net_x4_fp32.safetensors"
    assert bundled_checkpoint("idsa_net", 4, "w8a8") == tmp_path / "idsa_net_x4_w8a8.safetensors"
    missing = "got idsa_net_x2_fp32.safetensors; bundled: idsa_net_x4_fp32.safetensors, idsa_net_x4_w8a8.safetensors"
    with pytest.raises(CheckpointError, match=re.escape(missing)):
        bundled_checkpoint("idsa_net", 2)


def test_sha256_file_matches_the_standard_vector(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected
