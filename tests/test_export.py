"""Export: what cannot be is refused before anything is written, and what is written says how it was made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from converters.artifact import Artifact, Delegation, IoVariant, TensorSpec, load_artifact
from converters.export import export_artifact
from converters.lowering import Lowered, LoweringJob
from converters.targets import TARGETS, get_target
from edge_sr.errors import ArtifactError, ConfigError, ConversionError, EdgeSRError, UnsupportedScheme

CHECKPOINT = "0123456789abcdef" * 4


class Network(nn.Module):
    """As much of a network as export looks at."""

    model_name = "toy"
    scale = 2
    tile_multiple = 8
    context = 6


def lower(job: LoweringJob) -> Lowered:
    """A toolchain that writes one small file."""
    (job.work_dir / "model.bin").write_bytes(b"model")
    (job.work_dir / "leftover.tmp").write_bytes(b"not part of the artifact")
    height, width = job.tile
    spec = TensorSpec(name="input", dtype="float32", layout="NHWC", shape=(1, height, width, 3), value_range=(0.0, 1.0))
    output = replace(spec, name="output", shape=(1, job.scale * height, job.scale * width, 3))
    return Lowered(
        main_file="model.bin",
        files=("model.bin",),
        io={"model.bin": IoVariant(input=spec, output=output)},
        delegation=Delegation(delegates=1),
        tool_versions={"toolchain": "1.2.3"},
        notes=("a note",),
    )


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Target ``tflite`` with :func:`lower` in place of its toolchain, and no runtime for what that writes."""
    monkeypatch.setattr("converters.export.record_self_test", lambda meta, folder: meta)
    module = ModuleType("stand_in_toolchain")
    module.lower = lower  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(TARGETS, "tflite", replace(TARGETS["tflite"], module=module.__name__))
    return module  # type: ignore[return-value]


def export(out_dir: Path, **changes: Any) -> Artifact:
    arguments: dict[str, Any] = {
        "network": Network(),
        "scheme": "fp32",
        "target": "tflite",
        "tile": (16, 24),
        "out_dir": out_dir,
        "checkpoint_sha256": CHECKPOINT,
    }
    return export_artifact(**(arguments | changes))


@pytest.mark.usefixtures("toolchain")
def test_artifact_lands_under_its_default_name_with_only_its_own_files(tmp_path: Path) -> None:
    artifact = export(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["toy_x2_fp32_tflite_24x16"]
    assert sorted(path.name for path in artifact.path.iterdir()) == ["artifact.json", "model.bin"]
    assert load_artifact(artifact.path) == artifact


@pytest.mark.usefixtures("toolchain")
def test_artifact_records_how_it_was_made(tmp_path: Path) -> None:
    meta = export(tmp_path, calibration_sha256="cd" * 32, weights_license="CC0", weights_attribution="us").meta
    assert meta.tool_versions["torch"] == torch.__version__
    assert meta.tool_versions["toolchain"] == "1.2.3"
    assert (meta.checkpoint_sha256, meta.calibration_sha256) == (CHECKPOINT, "cd" * 32)
    assert (meta.weights_license, meta.weights_attribution, meta.notes) == ("CC0", "us", ("a note",))


@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize(("given", "tile", "kept"), [(None, (16, 24), 6), (None, (8, 24), 4), (0, (16, 16), 0)])
def test_overlap_is_the_context_or_half_a_small_tile_or_as_given(
    tmp_path: Path, given: int | None, tile: tuple[int, int], kept: int
) -> None:
    assert export(tmp_path, overlap=given, tile=tile).meta.overlap == kept


BAD: dict[str, tuple[dict[str, Any], type[EdgeSRError]]] = {
    "multiples of 8, got 24 wide, 20 high; in place of 20 use 16 or 24": ({"tile": (20, 24)}, ConfigError),
    "from 8 to 1024 pixels, got 16 wide, 0 high": ({"tile": (0, 16)}, ConfigError),
    "from 8 to 1024 pixels, got 2048 wide, 16 high": ({"tile": (16, 2048)}, ConfigError),
    "two whole numbers": ({"tile": (16, 16, 16)}, ConfigError),
    "overlap must be from 0 to 15": ({"overlap": 16}, ConfigError),
    "overlap must be from 0 to": ({"overlap": -1}, ConfigError),
    "target must be one of tflite, executorch, coreml, qnn, vgf, mediatek, google_tensor, samsung, got 'onnx'": (
        {"target": "onnx"},
        ConfigError,
    ),
    "scheme for target tflite must be one of fp32, w8a8, w8a8_mixed, got 'fp16'": (
        {"scheme": "fp16"},
        UnsupportedScheme,
    ),
    "got 'w4a4'": ({"scheme": "w4a4"}, UnsupportedScheme),
    "got a float network; quantize": ({"scheme": "w8a8"}, ConfigError),
}


@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize("line", BAD)
def test_impossible_request_is_one_line_and_writes_nothing(tmp_path: Path, line: str) -> None:
    changes, kind = BAD[line]
    with pytest.raises(kind) as caught:
        export(tmp_path / "out", **changes)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("toolchain")
def test_quantized_network_is_exported_in_its_own_scheme_only(tmp_path: Path) -> None:
    network = Network()
    network.scheme = SimpleNamespace(name="w8a8")  # type: ignore[assignment]
    assert export(tmp_path, network=network, scheme="w8a8").meta.scheme == "w8a8"
    for other in ("fp32", "w8a8_mixed"):
        with pytest.raises(ConfigError, match="quantized as w8a8"):
            export(tmp_path, network=network, scheme=other)


@pytest.mark.usefixtures("toolchain")
def test_existing_output_is_refused_before_the_toolchain_runs(tmp_path: Path) -> None:
    kept = export(tmp_path)
    with pytest.raises(ArtifactError, match="got existing"):
        export(tmp_path, overlap=2)
    assert load_artifact(kept.path).meta.overlap == 6
    assert export(tmp_path, overlap=2, overwrite=True).meta.overlap == 2


@pytest.mark.usefixtures("toolchain")
def test_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("something of the user's")
    with pytest.raises(EdgeSRError, match="expected a folder at"):
        export(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "something of the user's"


@pytest.mark.parametrize("error", [ConversionError("refused"), KeyboardInterrupt()])
def test_toolchain_that_stops_halfway_leaves_nothing(
    tmp_path: Path, toolchain: ModuleType, error: BaseException
) -> None:
    def stop(job: LoweringJob) -> Lowered:
        lower(job)
        raise error

    toolchain.lower = stop  # type: ignore[attr-defined]
    with pytest.raises(type(error)):
        export(tmp_path)
    with pytest.raises(type(error)):
        export(tmp_path / "made" / "for" / "it")
    assert list(tmp_path.iterdir()) == []


def test_every_target_names_what_to_install() -> None:
    for name in TARGETS:
        target = get_target(name)
        assert target.name == name
        assert target.converter_packages
        assert target.runtime_packages
        assert "w8a8" in target.schemes
        assert {"fp32", "fp16"} & set(target.schemes), "something to compare int8 with"


def test_lowering_imports_nothing_before_it_is_called() -> None:
    assert all(isinstance(target.module, str) for target in TARGETS.values())
    check: Callable[[str], None] = get_target("coreml").check_scheme
    check("fp16")
