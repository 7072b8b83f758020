"""Checkpoints rebuild the network that was saved, and refuse anything else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from edge_sr import checkpoint_header, checkpoints, foreign_files
from edge_sr.checkpoints import (
    build_network,
    bundled_checkpoint,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    sha256_file,
)
from edge_sr.errors import CheckpointError
from edge_sr.networks import MODELS, create_network

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


@contextmanager
def _memory_of(mebibytes: int) -> Iterator[None]:
    """Let this process allocate so much more; on Linux, an allocation beyond it fails."""
    if not sys.platform.startswith("linux"):
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (mebibytes << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _refusal(path: Path) -> str:
    """The line that a file is refused with as a network; it is not for want of memory, of which there is little."""
    with pytest.raises(CheckpointError) as caught, _memory_of(256):
        load_checkpoint(path)
    line = str(caught.value)
    assert line.isprintable(), line
    assert len(line) < 1000
    assert "alloc" not in line
    return line


def _with_header(path: Path, change: Callable[[str], str]) -> None:
    """Write the same tensors behind another header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = change(data[8 : 8 + length].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


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
    monkeypatch.setattr(checkpoint_header, "WEIGHTS_DIR", tmp_path)
    with pytest.raises(CheckpointError, match="bundled: none, install"):
        bundled_checkpoint("idsa_net", 4)
    for name in ("idsa_net_x4_fp32.safetensors", "idsa_net_x4_w8a8.safetensors"):
        (tmp_path / name).touch()
    assert bundled_checkpoint("idsa_net", 4) == tmp_path / "idsa_net_x4_fp32.safetensors"
    assert bundled_checkpoint("idsa_net", 4, "w8a8") == tmp_path / "idsa_net_x4_w8a8.safetensors"
    missing = "checkpoint idsa_net_x2_fp32, got none (bundled: idsa_net_x4_fp32, idsa_net_x4_w8a8); train one (edge-sr"
    with pytest.raises(CheckpointError, match=re.escape(missing)) as caught:
        bundled_checkpoint("idsa_net", 2)
    assert "edge-sr train --config SETTINGS.toml, with scale = 2 in it" in str(caught.value)
    assert str(caught.value).endswith("name it with --checkpoint")


def test_sha256_file_matches_the_standard_vector(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected


# ------------------------------------------------------------------------------- configurations larger than their file
HOSTILE = [10**6, 10**9, 2**31, 2**62, 10**30, 10**400, 0, -8, 1e9, 8.0, True, None, "8", [8], [[[8]]], {"a": {"b": 8}}]


@pytest.mark.parametrize("model", SMALL)
def test_no_configuration_makes_more_than_its_file_can_hold(tmp_path: Path, model: str) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(model), {})
    right = json.loads(_header(path)["config"])
    for name in right:
        for value in HOSTILE:
            if value == right[name]:
                continue  # of a switch, True is the right one
            _rewrite(path, config=json.dumps(right | {name: value}))
            assert re.search("weights that fit|configuration of this version", _refusal(path)), (name, value)


@pytest.mark.parametrize("model", SMALL)
def test_a_header_alone_makes_nothing(tmp_path: Path, model: str) -> None:
    path = tmp_path / "net.safetensors"
    for config in ({"blocks": 10**9}, {"channels": 10**6}, {"blocks": 10**9, "channels": 10**6, "distilled": 2}):
        save_tensors(path, {}, model=model, config={"scale": 2, **config}, metadata={})
        assert path.stat().st_size < 400
        assert "weights that fit" in _refusal(path)


def test_tables_that_grow_faster_than_weights_are_bounded_too(tmp_path: Path) -> None:
    """A window of 200 has 399**2 biases, which fit a small file, and a table of 200**4 int64: 12.8 GB."""
    path = tmp_path / "net.safetensors"
    network = _network("idsa_net")
    biases = {f"matrices.{side}.bias": torch.zeros(399**2) for side in ("near", "far")}
    assert biases.keys() <= network.state_dict().keys()
    config = {"scale": 2, **SMALL["idsa_net"], "window": 200}
    save_tensors(path, network.state_dict() | biases, model="idsa_net", config=config, metadata={})
    assert "far larger network than its" in _refusal(path)


@pytest.mark.parametrize("model", MODELS)
def test_every_network_of_ordinary_widths_is_within_the_bounds(tmp_path: Path, model: str) -> None:
    changes: list[dict[str, Any]] = [{}, {"blocks": 12}, {"channels": 64}]
    if model == "idsa_net":
        changes += [
            {"window": 16},
            {"share_attention": False},
            {"lcipb": False, "inam": False},
            {"statistics": "image"},
        ]
    for number, change in enumerate(changes):
        path = tmp_path / f"{number}.safetensors"
        network = create_network(model, 4, **SMALL[model] | change)
        save_checkpoint(path, network, {})
        loaded = load_checkpoint(path).network
        assert loaded.config == network.config
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("model", MODELS)
def test_a_quantized_checkpoint_bounds_its_configuration_too(tmp_path: Path, model: str) -> None:
    path = bundled_checkpoint(model, 4, "w8a8")
    loaded = load_tensors(path, expect_kind="quantized")
    built, known = build_network(path, loaded), create_network(model, 4)
    assert built.config == known.config  # the bundled ones are of the default widths
    for change in ({"blocks": 10**9}, {"channels": 10**6}, {"distilled": -1}):
        config = json.dumps(json.loads(_header(path)["config"]) | change)
        copy = tmp_path / "copy.safetensors"
        copy.write_bytes(path.read_bytes())
        _rewrite(copy, config=config)
        hostile = load_tensors(copy)
        with pytest.raises(CheckpointError), _memory_of(256):
            build_network(copy, hostile)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    state = dict(_network().state_dict())
    config = {"scale": 2, **SMALL["idsa_net_mobile"]}
    head = state["head.weight"]
    assert head.shape == (8, 3, 3, 3)
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({name: value for name, value in state.items() if name != "head.weight"}, "no head.weight"),
        (state | {"tail.weight": head}, "tail.weight in excess"),
        (state | {"head.weight": head[:4]}, "head.weight of (4, 3, 3, 3) in place of (8, 3, 3, 3)"),
        (state | {"head.weight": head.to(torch.int8)}, "head.weight of torch.int8 in place of torch.float32"),
        (state | {"head.weight": head.to(torch.complex64)}, "head.weight of torch.complex64 in place of torch.float32"),
        ({}, "no head.weight, no head.bias"),
    ]
    for tensors, reason in cases:
        save_tensors(path, tensors, model="idsa_net_mobile", config=config, metadata={})
        assert f"weights that fit idsa_net_mobile, got {path}: {reason}" in _refusal(path)
    for stored in (torch.float16, torch.bfloat16, torch.float64):
        save_tensors(
            path, {k: v.to(stored) for k, v in state.items()}, model="idsa_net_mobile", config=config, metadata={}
        )
        loaded = load_checkpoint(path).network.state_dict()
        assert torch.equal(loaded["head.weight"], head.to(stored).float())


@pytest.mark.parametrize(("value", "stored"), [(np.nan, "float32"), (-np.inf, "float32"), (1e300, "float64")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, stored: str) -> None:
    path = tmp_path / "net.safetensors"
    state = dict(_network().state_dict())
    broken = state["blocks.0.first.bias"].to(getattr(torch, stored))
    broken[3] = value
    config = {"scale": 2, **SMALL["idsa_net_mobile"]}
    save_tensors(path, state | {"blocks.0.first.bias": broken}, model="idsa_net_mobile", config=config, metadata={})
    assert "expected finite weights" in (line := _refusal(path))
    assert "in blocks.0.first.bias;" in line


def test_a_network_that_diverged_does_not_replace_its_last_checkpoint(tmp_path: Path) -> None:
    path, network = tmp_path / "net.safetensors", _network()
    save_checkpoint(path, network, {})
    before = path.read_bytes()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(np.nan)
    others = len(list(network.parameters())) - 1
    with pytest.raises(
        CheckpointError, match=rf"finite weights in .*, got NaN or inf in head\.weight and {others} more"
    ):
        save_checkpoint(path, network, {})
    assert path.read_bytes() == before


# ------------------------------------------------------------------------------------------------- wrapped networks
def _averaged(network: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(network)


def _wrapped_within(network: nn.Module) -> nn.Module:
    blocks = network.blocks
    assert isinstance(blocks, nn.ModuleList)
    blocks[0] = nn.DataParallel(blocks[0])
    return network


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, _averaged, _wrapped_within, lambda network: nn.DataParallel(_averaged(network))]
)
def test_a_wrapped_network_is_saved_as_the_network_itself(
    tmp_path: Path, model: str, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    save_checkpoint(tmp_path / "plain", _network(model), {"steps": 1})
    wrapped = wrap(_network(model))
    assert wrapped.state_dict().keys() != _network(model).state_dict().keys()
    save_checkpoint(tmp_path / "wrapped", wrapped, {"steps": 1})
    assert (tmp_path / "wrapped").read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.slow  # importing the compiler takes all of it
def test_a_compiled_network_is_saved_as_the_network_itself(tmp_path: Path) -> None:
    def compiled(network: nn.Module) -> nn.Module:
        module: nn.Module = torch.compile(network, backend="eager")
        return module

    save_checkpoint(tmp_path / "plain", _network(), {})
    within = _network()
    assert isinstance(within.blocks, nn.ModuleList)
    within.blocks[0] = compiled(within.blocks[0])
    assert any(name.startswith("blocks.0._orig_mod.") for name in within.state_dict())
    for number, network in enumerate((compiled(_network()), within, compiled(nn.DataParallel(_network())))):
        save_checkpoint(tmp_path / str(number), network, {})
        assert (tmp_path / str(number)).read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize("model", SMALL)
def test_names_that_wrappers_left_in_a_file_are_read_as_the_network_s(tmp_path: Path, model: str) -> None:
    path = tmp_path / "net.safetensors"
    network = _network(model)
    save_checkpoint(path, network, {})
    header = _header(path)
    for prefix, block in (("_orig_mod.", ""), ("module.", ""), ("module._orig_mod.", ""), ("", "_orig_mod.")):
        renamed = {
            prefix + name.replace("blocks.0.", f"blocks.0.{block}"): value
            for name, value in network.state_dict().items()
        }
        assert renamed.keys() != network.state_dict().keys()
        safetensors.torch.save_file(renamed, path, metadata=header)
        loaded = load_checkpoint(path).network.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())


def test_two_tensors_that_would_have_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(), {})
    twice = safetensors.torch.load_file(path) | {"module.head.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match="differ in _orig_mod or module only"):
        save_tensors(path, twice, model="m", config={}, metadata={})
    safetensors.torch.save_file(twice, path, metadata=_header(path))
    assert "differ in _orig_mod or module only" in _refusal(path)


# -------------------------------------------------------------------------------------------------- files of others
def _torch_file(path: Path, *, legacy: bool) -> None:
    torch.save(_network().state_dict(), path, _use_new_zipfile_serialization=not legacy)


def _tflite_file(path: Path) -> None:
    import flatbuffers

    builder = flatbuffers.Builder(64)
    builder.StartObject(1)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3039904\n"
_CURE = r"load_state_dict into create_network\(\.\.\.\), then save_checkpoint"
_SOURCE = r"name the \.safetensors checkpoint that it was exported from"
FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pth": (lambda path: _torch_file(path, legacy=False), rf"a PyTorch file \(zip\); .*{_CURE}"),
    "legacy pth": (lambda path: _torch_file(path, legacy=True), f"a pickle.*{_CURE}"),
    "zip": (_write(b"PK\x03\x04" + bytes(26) + b"photo.png"), "a zip archive; unpack it"),
    "gzip": (_write(b"\x1f\x8b\x08" + bytes(40)), "a compressed file; unpack it"),
    "git-lfs": (_write(_LFS), "a git-lfs pointer in place of the file; run git lfs pull"),
    "tflite": (_tflite_file, f"a TFLite model; .*{_SOURCE}"),
    # flatbuffers put the identifier behind the offset of the root table; ExecuTorch's own header follows
    "pte": (_write(b"\x1c\0\0\0ET12eh00" + bytes(32)), f"an ExecuTorch program; .*{_SOURCE}"),
    # protobuf: field 1 varint (ir_version 8), field 2 string (producer_name); the second without a producer
    "onnx": (_write(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(32)), f"an ONNX model; .*{_SOURCE}"),
    "anonymous onnx": (_write(b"\x08\x0a\x3a\x20" + bytes(32)), f"an ONNX model; .*{_SOURCE}"),
    # protobuf: field 1 varint (specificationVersion 7), field 2 message (description), in it field 1 message (input)
    "mlmodel": (_write(b"\x08\x07\x12\x4e\x0a\x10\x0a\x05image" + bytes(32)), f"a Core ML model; .*{_SOURCE}"),
    "html": (_write(b"\n<!DOCTYPE html><html>404 not found</html>"), "a web page.*; fetch it again"),
    "xml": (_write(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "a web page.*; fetch it again"),
    "picture": (_write(b"\x89PNG\r\n\x1a\n" + bytes(32)), "a picture; name a"),
    "json": (_write(b'{"format": "edge-sr-artifact-1"}'), "a JSON text; name a"),
    "empty": (_write(b""), "an empty file; fetch it again"),
    "zeros": (_write(bytes(4096)), "fetch it again"),
    "a line of text": (_write(b"error: no such bucket\n"), "fetch it again"),
    "their safetensors": (
        lambda path: safetensors.torch.save_file({"a": torch.ones(1)}, path),
        r"format edge-sr-1, got None .* another program: load its tensors into create_network\(\.\.\.\)",
    ),
    "their safetensors with metadata": (
        lambda path: safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"format": "pt\n"}),
        r"format edge-sr-1, got 'pt\\n' in .* another program",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_is_named_with_the_way_in(tmp_path: Path, name: str) -> None:
    path = tmp_path / "given"
    make, message = FOREIGN[name]
    make(path)
    line = _refusal(path)
    assert line.startswith("expected a safetensors file, got " if "their" not in name else "expected format")
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("artifact.json", rf"an artifact folder; .*{_SOURCE}.*--artifact"),
        ("Manifest.json", f"a Core ML package; .*{_SOURCE}"),
        ("network.safetensors", "the folder of a training run; name its network.safetensors"),
        (None, r"a folder; name the \.safetensors file in it"),
    ],
)
def test_a_folder_is_named_with_the_way_in(tmp_path: Path, member: str | None, message: str) -> None:
    if member is not None:
        (tmp_path / member).touch()
    line = _refusal(tmp_path)
    assert line.startswith(f"expected a checkpoint file, got {tmp_path}, ")
    assert re.search(message, line), line


def test_what_has_no_end_or_no_writer_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert "a pipe or device" in _refusal(path)


def test_a_large_file_of_another_program_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path)
    os.truncate(path, 1 << 33)
    assert "expected format edge-sr-1, got None" in _refusal(path)
    save_tensors(path, {"a": torch.ones(1)}, model="m", config={}, metadata={})
    os.truncate(path, 1 << 33)
    assert "(8589934592 bytes, its header describes fewer)" in _refusal(path)


@pytest.mark.parametrize("change", [-4, 4])
def test_a_file_that_changes_its_size_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, _network(), {})
    before, judge = path.stat().st_size, foreign_files._header

    def judge_late(*arguments: Any) -> Any:
        os.truncate(path, before + change)
        return judge(*arguments)

    monkeypatch.setattr(foreign_files, "_header", judge_late)
    if change < 0:
        assert "changes meanwhile" in _refusal(path)
    else:
        load_checkpoint(path)  # the size that was judged is the size that is read
        assert "its header describes fewer" in _refusal(path)


# ---------------------------------------------------------------------------------------------------- damaged headers
def _offsets(header: str, name: str, start: int, end: int) -> str:
    table = json.loads(header)
    table[name]["data_offsets"] = [start, end]
    return json.dumps(table)


def _replaced(old: str, new: str) -> Callable[[str], str]:
    def change(header: str) -> str:
        assert old in header
        return header.replace(old, new, 1)

    return change


_DEEP = "[" * 100_000
HEADERS: dict[str, Callable[[str], str]] = {
    "overlapping": lambda header: _offsets(header, "a", 0, 8),
    "outside": lambda header: _offsets(header, "b", 16, 2**40),
    "before the start": lambda header: _offsets(header, "a", -8, 0),
    "backwards": lambda header: _offsets(header, "a", 16, 0),
    "with a hole": lambda header: _offsets(header, "a", 8, 16),
    "without offsets": _replaced('"data_offsets":', '"offsets":'),
    "offsets of text": _replaced('"data_offsets":[0,16]', '"data_offsets":["0","16"]'),
    "offsets of huge numbers": _replaced('"data_offsets":[0,16]', f'"data_offsets":[0,{"9" * 4300}]'),
    "a tensor of text": _replaced('"b":', '"c":"text","b":'),
    "a name twice": lambda header: '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},' + header[1:],
    "a member twice": _replaced('"shape":[4]', '"shape":[4],"shape":[4]'),
    "an unknown type": _replaced('"F32"', '"F31"'),
    "a type of another size": _replaced('"F32"', '"F64"'),
    "a huge shape": _replaced('"shape":[4]', f'"shape":[{2**62},4]'),
    "a huge shape of nothing": _replaced('"shape":[0]', f'"shape":[0,{2**62},{2**62}]'),
    "a negative shape": _replaced('"shape":[4]', '"shape":[-2,-2]'),
    "a shape of halves": _replaced('"shape":[4]', '"shape":[4.5]'),
    "deep": lambda header: f'{{"a":{_DEEP}',
    "deep configuration": _replaced('{\\"scale\\": 2}', f'{{\\"scale\\":{_DEEP}'),
    "deep configuration that is whole": _replaced('{\\"scale\\": 2}', f'{{\\"scale\\":{"[" * 800}{"]" * 800}}}'),
    "deep metadata": _replaced('"metadata":"{}"', f'"metadata":"{_DEEP}"'),
    "a number without end": _replaced('"shape":[4]', f'"shape":[{"9" * 5000}]'),
    "a setting twice": _replaced('{\\"scale\\": 2}', '{\\"scale\\":2,\\"scale\\":3}'),
    "a scale that is no number": _replaced('{\\"scale\\": 2}', '{\\"scale\\": [\\"x\\"]}'),
    "a kind that is no text": _replaced('"kind":"float"', '"kind":["float"]'),
    "a model that is no text": _replaced('"model":"idsa_net"', '"model":{"idsa_net":1}'),
    "a model of control characters": _replaced('"model":"idsa_net"', '"model":"idsa\\n\\u001b[2Jnet"'),
    "half of a character": _replaced('"model":"idsa_net"', '"model":"\\ud800"'),
    "an unknown format of many lines": _replaced('"edge-sr-1"', '"' + "a\\n" * 1000 + '"'),
    "a list": lambda header: "[[1, 2]]",
    "a number": lambda header: "1",
    "metadata that is a list": lambda header: '{"__metadata__":[["format","edge-sr-1"]]}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_damaged_header_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "net.safetensors"
    tensors = {"a": torch.arange(4.0), "b": torch.arange(4.0), "none": torch.zeros(0)}
    save_tensors(path, tensors, model="idsa_net", config={"scale": 2}, metadata={})
    assert load_tensors(path).tensors.keys() == tensors.keys()
    _with_header(path, HEADERS[name])
    with pytest.raises(CheckpointError) as caught, _memory_of(256):
        load_tensors(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert _refusal(path) == str(caught.value)


def test_a_header_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_tensors(path, {}, model="idsa_net", config={}, metadata={"author": "Jürgen"})
    header = json.dumps({"__metadata__": _header(path)}, ensure_ascii=False)
    for content in (header.encode("utf-16"), header.replace("idsa", "idsä").encode("latin-1"), b"\xff" * 100):
        path.write_bytes(struct.pack("<Q", len(content)) + content)
        assert "expected a safetensors file" in _refusal(path)


def test_nothing_is_written_that_is_too_long_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    monkeypatch.setattr(checkpoints, "MAX_HEADER_BYTES", 4096)
    with pytest.raises(CheckpointError, match=r"a header of 4096 bytes, got \d+; shorten the metadata"):
        save_checkpoint(path, _network(), {"log": "x" * 4096})
    assert not path.exists()


def _damaged(sound: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One kind of damage to a checkpoint's header or length."""
    (length,) = struct.unpack("<Q", sound[:8])
    header, body = bytearray(sound[8 : 8 + length]), sound[8 + length :]
    kind = str(rng.choice(["bits", "length", "truncated", "number", "number", "cut", "doubled", "byte"]))
    start, count = int(rng.integers(length)), int(rng.integers(1, 40))
    match kind:
        case "bits":
            for place in rng.integers(8 * length, size=int(rng.choice([1, 2, 16]))):
                header[place // 8] ^= 1 << (place % 8)
        case "length":
            return kind, struct.pack("<Q", int(rng.integers(2 ** int(rng.integers(1, 63))))) + sound[8:]
        case "truncated":
            return kind, sound[: int(rng.integers(len(sound)))]
        case "number":
            numbers = list(re.finditer(rb"\d+", bytes(header)))
            if rng.integers(2):  # of the configuration, which the others would drown
                config = bytes(header).index(b'"config"')
                numbers = [number for number in numbers if config < number.start() < config + 150]
            chosen = numbers[int(rng.integers(len(numbers)))]
            value = HOSTILE[int(rng.integers(len(HOSTILE)))]
            header[chosen.start() : chosen.end()] = json.dumps(value).replace('"', "").encode()
        case "cut":
            del header[start : start + count]
        case "doubled":
            header[start:start] = header[start : start + count]
        case "byte":
            header[start] = int(rng.integers(256))
    return kind, struct.pack("<Q", len(header)) + bytes(header) + body


@pytest.mark.parametrize("model", SMALL)
def test_a_damaged_checkpoint_loads_or_is_refused_in_one_line(tmp_path: Path, model: str) -> None:
    path, ends = tmp_path / "net.safetensors", Counter[str]()
    save_checkpoint(path, _network(model), {"steps": 7})
    sound = path.read_bytes()
    for seed in range(150):
        kind, damaged = _damaged(sound, np.random.default_rng((5, seed)))
        path.write_bytes(damaged)
        line = ""
        try:
            with _memory_of(256):
                load_checkpoint(path)
        except CheckpointError as error:
            line = str(error)
        ends[kind if line else "loaded"] += 1
        assert (line.isprintable(), len(line) < 1000, "alloc" in line) == (True, True, False), (seed, kind, line)
    assert ends["loaded"] < 75  # what metadata says may change; most else may not
    assert ends.keys() > {"bits", "length", "truncated", "number", "cut", "doubled", "byte"}
