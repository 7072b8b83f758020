"""ARM numerics: what is compared and how it is reported; in the real emulator where it was set up."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from apps.verification.accuracy import VerifyReport
from apps.verification.arm import FLOAT_LEVELS, MIXED_LEVELS, ArmCheck, check_arm, make_tiles, why_no_arm
from apps.verification.arm_root import LAYOUT, MARK, find_arm_root
from apps.verification.arm_view import print_arm
from apps.verification.full import FullReport
from apps.verification.full_view import print_full
from apps.verification.gate import GateLimits
from apps.verification.waterfall import WaterfallReport
from converters.artifact import Artifact, load_artifact
from converters.inspect_tflite import TFLiteSummary
from edge_sr.errors import ConfigError, MissingToolError, RunnerError

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from hand_made import repeater_artifact

from fakes import fake_artifact

# Stands in for the emulator: it drops "-cpu NAME -L SYSTEM PYTHON" and runs this machine's own Python.
STAND_IN = """#!/bin/sh
unset PYTHONHOME PYTHONPATH
shift 5
{before}
exec "{python}" "$@"
"""
ONE_STEP_OFF = """
"{python}" "$@" || exit 1
exec "{python}" -c "
import sys, json, numpy as np
made = np.load(sys.argv[4]); made[0, 0, 0, 0] ^= 1; np.save(sys.argv[4], made)
print(json.dumps({{'machine': 'aarch64'}}))" "$@"
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return repeater_artifact(tmp_path_factory.mktemp("arm"))


@pytest.fixture(scope="module")
def script(project_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("arm_root_script", project_root / "scripts" / "arm_root.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(folder: Path, *, before: str = "") -> Path:
    """A folder that looks like the emulated system and whose emulator is this machine."""
    emulator = folder / "qemu-aarch64"
    text = STAND_IN.format(python=sys.executable, before=before.format(python=sys.executable))
    emulator.write_text(text, encoding="utf-8")
    emulator.chmod(0o755)
    versions = {"ai-edge-litert": metadata.version("ai-edge-litert")}
    (folder / MARK).write_text(json.dumps({"layout": LAYOUT, "versions": versions}), encoding="utf-8")
    return folder


# ----------------------------------------------------------------------------------------------------- comparison
def test_the_same_arithmetic_is_found_identical(artifact: Artifact, tmp_path: Path) -> None:
    (check,) = check_arm(artifact, cpus=["cortex-a76"], root=stand_in(tmp_path))
    assert check.identical
    assert check.passed
    assert (check.max_difference, check.max_levels, check.tiles) == (0.0, 0, 2)
    assert check.cpu == "cortex-a76"


def test_one_bit_of_an_int8_result_fails(artifact: Artifact, tmp_path: Path) -> None:
    (check,) = check_arm(artifact, cpus=["cortex-a53"], root=stand_in(tmp_path, before=ONE_STEP_OFF))
    assert not check.identical
    assert not check.passed
    assert (check.max_difference, check.max_levels) == (1.0, 1)
    assert check.machine[0] == "aarch64"


def test_a_crash_in_the_emulator_is_one_line(artifact: Artifact, tmp_path: Path) -> None:
    root = stand_in(tmp_path, before="echo 'qemu: uncaught target signal 4' >&2; exit 132")
    with pytest.raises(RunnerError, match="uncaught target signal 4"):
        check_arm(artifact, cpus=["cortex-a76"], root=root)


@pytest.mark.parametrize(("levels", "allowed", "identical", "passes"), [(0, 1, False, True), (2, 1, False, False)])
def test_float_kernels_may_move_a_picture_by_one_level(
    levels: int, allowed: int, identical: bool, passes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ArmCheck(
        artifact_name="a",
        file="model.tflite",
        cpu="cortex-a53",
        machine=("aarch64", "x86_64"),
        tiles=2,
        identical=identical,
        max_difference=2e-7,
        max_levels=levels,
        allowed_levels=allowed,
    )
    assert check.passed is passes
    print_arm([check])
    said = capsys.readouterr().out
    assert ("FAILED" in said) is not passes
    assert "nothing about speed" in said


@pytest.mark.parametrize(
    ("int8_ops", "float_ops", "allowed"),
    [({"CONV_2D": 3}, {}, 0), ({}, {"CONV_2D": 3}, FLOAT_LEVELS), ({"CONV_2D": 3}, {"SOFTMAX": 1}, MIXED_LEVELS)],
)
def test_what_may_differ_follows_from_the_files_own_operators(
    int8_ops: dict[str, int],
    float_ops: dict[str, int],
    allowed: int,
    artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summary = TFLiteSummary(
        size_bytes=1,
        ops={**int8_ops, **float_ops},
        int8_ops=int8_ops,
        float_ops=float_ops,
        float_islands=len(float_ops),
        conversions=0,
        tensors={},
        input_dtype="int8",
        output_dtype="int8",
    )
    monkeypatch.setattr("apps.verification.arm.inspect_tflite", lambda path: summary)
    (check,) = check_arm(artifact, cpus=["cortex-a53"], root=stand_in(tmp_path, before=ONE_STEP_OFF))
    assert check.allowed_levels == allowed
    assert check.passed is (allowed > 0)  # the stand-in is one level off


def test_tiles_reach_black_and_white() -> None:
    for tile in make_tiles((32, 24)):
        assert tile.shape == (32, 24, 3)
        assert (tile.min(), tile.max()) == (0, 255)


# -------------------------------------------------------------------------------------------------------- refusals
def test_a_missing_system_names_the_command_that_makes_it(tmp_path: Path) -> None:
    reason = why_no_arm(tmp_path)
    assert reason is not None
    assert "qemu-aarch64" in reason
    assert "python scripts/arm_root.py" in reason


def test_a_system_with_another_runtime_is_renewed(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text(
        json.dumps({"layout": LAYOUT, "versions": {"ai-edge-litert": "0.1"}}), encoding="utf-8"
    )
    with pytest.raises(MissingToolError, match=r"got 0\.1; run .* --renew"):
        find_arm_root(tmp_path)


def test_other_targets_and_large_tiles_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    other = load_artifact(fake_artifact(tmp_path, "coreml"))
    with pytest.raises(ConfigError, match="TFLite artifact for ARM numerics, got coreml"):
        check_arm(other, root=tmp_path)
    with pytest.raises(ConfigError, match=r"one of .*, got 'other'"):
        check_arm(artifact, file="other", root=tmp_path)
    large = replace(artifact, meta=replace(artifact.meta, tile=(128, 128)))
    with pytest.raises(ConfigError, match="at most 64x64 for the emulator, got 128x128"):
        check_arm(large, root=tmp_path)


# ---------------------------------------------------------------------------------------------------------- set-up
def test_own_sources_keep_address_and_key_and_change_the_suites(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
        "Signed-By: /usr/share/key.gpg\n\nTypes: deb\nURIs: http://mirror.invalid/security\n"
        "Suites: bookworm-security\nComponents: main\n",
        encoding="utf-8",
    )
    made = script.own_sources("bookworm", suites=("bookworm", "bookworm-backports"), etc=tmp_path)
    assert made == (
        "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm bookworm-backports\nComponents: main\n"
        "Signed-By: /usr/share/key.gpg\n\nTypes: deb\nURIs: http://mirror.invalid/security\n"
        "Suites: bookworm-security\nComponents: main\n"
    )


def test_own_sources_read_the_older_one_line_format(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# a comment\ndeb [arch=amd64 signed-by=/usr/share/key.gpg] http://mirror.invalid/debian trixie main contrib\n"
        "deb-src http://mirror.invalid/debian trixie main\n",
        encoding="utf-8",
    )
    made = script.own_sources("trixie", suites=("trixie",), etc=tmp_path)
    assert made == (
        "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: trixie\nComponents: main contrib\n"
        "Signed-By: /usr/share/key.gpg\n"
    )
    with pytest.raises(MissingToolError, match="source of Debian sid"):
        script.own_sources("sid", suites=("sid",), etc=tmp_path)


def test_other_systems_are_told_that_it_takes_debian(script: ModuleType) -> None:
    with pytest.raises(MissingToolError, match="expected Debian for the emulated ARM system, got Fedora 42"):
        script._debian_suite('ID=fedora\nPRETTY_NAME="Fedora 42"\n')


# ------------------------------------------------------------------------------------------------- the real emulator
def test_int8_gives_the_same_bytes_on_an_emulated_arm_cpu(artifact: Artifact) -> None:
    reason = why_no_arm()
    if reason is not None:
        pytest.skip(f"qemu-aarch64 root is missing: {reason}")
    (check,) = check_arm(artifact, cpus=["cortex-a76"])
    assert check.machine[0] == "aarch64"
    assert check.identical
    assert check.passed


def test_a_full_verification_prints_the_emulated_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    check = ArmCheck(
        artifact_name="a",
        file="model.tflite",
        cpu="cortex-a53",
        machine=("aarch64", "x86_64"),
        tiles=2,
        identical=True,
        max_difference=0.0,
        max_levels=0,
        allowed_levels=0,
    )
    verify = VerifyReport(rows=(), limits=GateLimits(), checks=())
    report = FullReport(
        verify=verify,
        waterfall=WaterfallReport(rows=()),
        agreement=(),
        seams=(),
        colour_cards=(),
        arm=(check,),
        problems=(),
        seconds={},
    )
    print_full(report)
    assert "emulated CPU" in capsys.readouterr().out
    print_full(replace(report, arm=()))
    assert "emulated CPU" not in capsys.readouterr().out
