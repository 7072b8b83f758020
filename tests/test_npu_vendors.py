"""NPUs of vendors whose SDKs are not here: what is said without one, and what a stand-in makes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from apps.exporting import typed_targets
from converters import npu, to_tflite
from converters.ahead_of_time import compile_ahead
from converters.artifact import load_artifact
from converters.artifact_meta import Delegation, IoVariant, TensorSpec
from converters.export import export_artifact
from converters.lowering import Lowered, LoweringJob
from converters.runners import accuracy_runtimes
from converters.targets import TARGETS, USUAL_TARGETS
from converters.vendors import VENDORS
from edge_sr.errors import ConfigError, ConversionError, MissingToolError

TILE = (16, 16)


class Doubling(nn.Module):
    """Every pixel four times: no weights, all attributes that an export asks for."""

    model_name, scale, tile_multiple, context = "doubling", 2, 1, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")


def fake_tflite(job: LoweringJob) -> Lowered:
    """What target tflite would write, without its toolchain."""
    (job.work_dir / "model.tflite").write_bytes(b"a model")
    sides = (
        TensorSpec(name=name, dtype="float32", layout="NHWC", shape=(1, side, side, 3), value_range=(0.0, 1.0))
        for name, side in (("input", TILE[0]), ("output", 2 * TILE[0]))
    )
    io = {"model.tflite": IoVariant(input=next(sides), output=next(sides))}
    return Lowered(
        main_file="model.tflite", files=("model.tflite",), io=io, delegation=Delegation(delegates=1), tool_versions={}
    )


def export(vendor: str, out_dir: Path, *socs: str) -> Path:
    return export_artifact(
        network=Doubling().eval(),
        scheme="fp32",
        target=vendor,
        tile=TILE,
        out_dir=out_dir,
        checkpoint_sha256="0" * 64,
        socs=socs,
    ).path


@pytest.fixture
def sdks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules named as the vendors' SDKs, with an empty folder in place of libraries."""
    folder = tmp_path / "sdks"
    (folder / "libraries").mkdir(parents=True)
    for vendor in VENDORS.values():
        text = f"def path_to_sdk_libs(version=None):\n    return {str(folder / 'libraries')!r}\n"
        (folder / f"{vendor.sdk_module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return folder


def test_vendors_are_named_by_option_and_never_join_unasked() -> None:
    assert typed_targets(["npu", "tflite"], vendor="samsung") == ["samsung", "tflite"]
    assert not set(VENDORS) & set(USUAL_TARGETS)
    with pytest.raises(ConfigError, match="add --vendor"):
        typed_targets(["npu"])
    with pytest.raises(ConfigError, match="expected --target npu beside --vendor samsung, got tflite"):
        typed_targets(["tflite"], vendor="samsung")


@pytest.mark.parametrize("vendor", VENDORS)
def test_without_its_sdk_a_line_says_what_to_install(vendor: str, tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match=f"pip install {VENDORS[vendor].sdk_package} ") as caught:
        export(vendor, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_chip_that_the_compiler_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SoC of Samsung NPU must be one of E9965, got 'MT6991'"):
        export("samsung", tmp_path, "MT6991")


def test_chips_are_those_of_litert() -> None:
    pytest.importorskip("ai_edge_litert.aot", reason="ai-edge-litert is not installed")
    for vendor in VENDORS.values():
        known = importlib.import_module(f"ai_edge_litert.aot.vendors.{vendor.name}.target").SocModel
        assert sorted(vendor.socs) == sorted(set(map(str, known)) - {"ALL"})


def test_a_stand_in_sdk_makes_one_file_a_chip(sdks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compile_(source: Path, destination: Path, *, vendor: str, soc: str) -> Delegation:
        asked.append((vendor, soc))
        destination.write_bytes(source.read_bytes() + soc.encode())
        return Delegation(delegates=1, ops_outside={"SOFTMAX": 2})

    monkeypatch.setattr(to_tflite, "lower", fake_tflite)
    monkeypatch.setattr(npu, "compile_ahead", compile_)
    monkeypatch.setattr("converters.export.record_self_test", lambda meta, folder: meta)
    artifact = load_artifact(export("mediatek", tmp_path / "out", "MT6991", "MT6989", "MT6991"))
    assert asked == [("mediatek", "MT6991"), ("mediatek", "MT6989")]
    assert artifact.path.name == "doubling_x2_fp32_mediatek_16x16"
    assert artifact.meta.compiled is not None
    assert {name: entry.soc for name, entry in artifact.meta.compiled.items()} == {
        "model_MT6991.tflite": "MT6991",
        "model_MT6989.tflite": "MT6989",
    }
    assert artifact.meta.delegation.ops_outside == {"SOFTMAX": 2}
    assert "nothing here emulates a MediaTek NPU" in artifact.meta.notes[-1]
    assert accuracy_runtimes(artifact.meta) == ("mediatek_cpu",)


@pytest.mark.parametrize("vendor", VENDORS)
def test_an_sdk_without_libraries_is_one_line_from_the_compiler(vendor: str, sdks: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert.aot", reason="ai-edge-litert is not installed")
    source = tmp_path / "model.tflite"
    source.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    with pytest.raises(ConversionError, match=f"expected {vendor}'s compiler to take the network for ") as caught:
        compile_ahead(source, tmp_path / "out.tflite", vendor=vendor, soc=VENDORS[vendor].socs[0])
    assert "\n" not in str(caught.value)
    assert "no word of why" not in str(caught.value)
    assert not (tmp_path / "out.tflite").exists()


def test_every_target_has_a_runtime_and_says_whether_it_joins_unasked() -> None:
    assert USUAL_TARGETS == ("tflite", "executorch", "coreml")
    assert all(TARGETS[name].licence for name in ("qnn", *VENDORS))
