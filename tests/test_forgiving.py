"""Words that are nearly right are answered with the right ones, and paths near an artifact mean it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from apps.artifact_paths import artifacts_at, one_artifact_at
from apps.cli import app, main
from apps.commands.help_page import examples
from apps.history.compare import parse_selector
from apps.upscaling.runners import UpscalerChoice
from converters.targets import get_target
from edge_sr.choices import did_you_mean, expect_choice
from edge_sr.errors import ArtifactError, ConfigError, UnsupportedScheme
from edge_sr.networks import create_network
from fakes import fake_artifact
from quantization.schemes import get_scheme

DEVICES = ("host", "adb", "apple", "browser")
SCHEMES = ("fp32", "fp16", "w8a8", "w8a8_mixed")
TARGETS = ("tflite", "executorch", "coreml")


# ------------------------------------------------------------------------------------------------------------ choices
@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("idsa_net_mobil", ("idsa_net", "idsa_net_mobile"), "idsa_net_mobile"),
        ("IDSA-Net", ("idsa_net", "idsa_net_mobile"), "idsa_net"),
        ("android", DEVICES, "adb"),
        ("iphone", DEVICES, "apple"),
        ("Android", DEVICES, "adb"),
        ("int8", SCHEMES, "w8a8"),
        ("float", SCHEMES, "fp32"),
        ("float16", SCHEMES, "fp16"),
        ("w8a8-mixed", SCHEMES, "w8a8_mixed"),
        ("pte", TARGETS, "executorch"),
        ("xnnpack", TARGETS, "executorch"),
        ("litert", TARGETS, "tflite"),
        ("mlpackage", TARGETS, "coreml"),
        ("core-ml", TARGETS, "coreml"),
        ("Core ML", TARGETS, "coreml"),
        ("set5", ("Set5", "Set14"), "Set5"),
    ],
)
def test_the_name_that_was_meant_is_asked_for(typed: str, known: tuple[str, ...], meant: str) -> None:
    assert did_you_mean(typed, known) == f"; did you mean '{meant}'?"
    with pytest.raises(ConfigError, match=f"word must be one of {known[0]}.*did you mean '{meant}'"):
        expect_choice("word", typed, known)


@pytest.mark.parametrize(("typed", "known"), [("onnx", TARGETS), ("esrgan", ("idsa_net",)), ("", DEVICES)])
def test_nothing_is_suggested_where_nothing_is_near(typed: str, known: tuple[str, ...]) -> None:
    assert did_you_mean(typed, known) == ""


def test_the_names_of_every_registry_are_checked_alike() -> None:
    with pytest.raises(UnsupportedScheme, match="did you mean 'w8a8'"):
        get_scheme("int8")
    with pytest.raises(UnsupportedScheme, match="did you mean 'fp32'"):
        get_target("tflite").check_scheme("float")
    with pytest.raises(ConfigError, match="did you mean 'executorch'"):
        get_target("pte")
    with pytest.raises(ConfigError, match="did you mean 'idsa_net'"):
        create_network("idsanet", 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("modles", "No such command 'modles'; see edge-sr --help; did you mean 'models'?"),
        ("lint x --figur y.png", "No such option: --figur; see edge-sr lint --help; did you mean --f"),
        ("verify", "Missing argument 'artifacts'; see edge-sr verify --help"),
        ("export --out x --scale four", "Invalid value for '--scale': Input should be a valid integer, unable to"),
        ("profile x --device android", "--device must be one of host, adb, apple, browser, got 'android'; did you"),
        ("profile x --place ipad", "--place must be one of mac, iphone, got 'ipad'; did you mean 'iphone'?"),
        ("profile x --compute-unit NPU", "got 'NPU'; did you mean 'CPU_AND_NE'?"),
        ("profile x --backend webgpu2", "got 'webgpu2'; did you mean 'webgpu'?"),
        (
            "export --out x --target onnx",
            "--target must be one of tflite, executorch, coreml, qnn, vgf, npu, got 'onnx'",
        ),
        ("demo --target tflite --target pte", "got 'pte'; did you mean 'executorch'?"),
        ("qat --checkpoint x --out y --scheme int8", "got 'int8'; did you mean 'w8a8'?"),
        ("upscale x --model idsa_net_mobil", "got 'idsa_net_mobil'; did you mean 'idsa_net_mobile'?"),
        ("upscale x --format jpeeg", "got 'jpeeg'; did you mean 'jpeg'?"),
        ("train --out x --preset tiral", "--preset must be one of trial, got 'tiral'; did you mean 'trial'?"),
        ("train --out x --config idsa_net_x4_lon", "did you mean 'idsa_net_x4_long'?"),
        ("train --out x --scale 2", "set scale = 2 in it, and give it with --config"),
        ("lint x --for gpu", "got 'gpu'; did you mean 'gpu-delegate'?"),
        ("lint x --fail-on errors", "got 'errors'; did you mean 'error'?"),
        ("verify x --annotations gitlab", "--annotations must be one of github, got 'gitlab'; did you mean 'github'?"),
        ("export --out x --scale 2", "(bundled: idsa_net_mobile_x4_fp32, idsa_net_mobile_x4_w8a8, idsa_net_x4_fp32"),
    ],
)
def test_words_that_make_no_command_are_one_line_with_the_cure(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "Value error" not in line
    assert list(tmp_path.iterdir()) == []


def test_no_words_are_answered_with_the_help_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("Usage: edge-sr")


# ---------------------------------------------------------------------------------------------------------- help pages
@pytest.mark.parametrize("command", ["", *typer.main.get_command(app).commands])  # type: ignore[attr-defined]
def test_a_help_page_fits_80_columns_wraps_once_and_shows_no_type_of_a_flag(command: str) -> None:
    page = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(app, [*command.split(), "--help"]).output
    lines = page.splitlines()
    assert max(map(len, lines)) <= 80
    assert "bool" not in page
    assert re.search("<[a-z]", page) is None
    start = lines.index("  Examples:")
    own = lines[start + 1 :]
    assert all(line.startswith(("    edge-sr ", "    torchrun ", "        ")) for line in own)
    assert all(line.endswith(" \\") for line, after in pairwise(own) if after.startswith("     "))
    # Text that was wrapped twice has short lines in the middle of a paragraph.
    text = lines[2 : next(number for number, line in enumerate(lines) if line in ("Arguments:", "Options:"))]
    for line, after in pairwise(text):
        if line.startswith("  ") and after.startswith("  ") and after[2] != " ":
            assert len(line) + 1 + len(after.split()[0]) > 78, line


def test_short_help_of_every_command_is_a_whole_sentence() -> None:
    page = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--help"]).output
    assert "..." not in page.partition("Commands:")[2].partition("Examples:")[0]


def test_a_long_example_goes_on_as_a_shell_reads_it() -> None:
    words = "edge-sr export " + " ".join(f"--option{number} value" for number in range(8))
    text = examples("edge-sr demo", words)
    assert not any(line.endswith(f"--option{number} \\") for number in range(8) for line in text.splitlines())
    assert text.startswith("\b\nExamples:\n  edge-sr demo\n  edge-sr export")
    assert text.partition("edge-sr demo\n  ")[2].replace(" \\\n", " ").split() == words.split()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("edge-sr export --model idsa_net_", {"idsa_net_mobile"}),
        ("edge-sr export --scheme w8a8", {"w8a8", "w8a8_mixed"}),
        ("edge-sr export --target ", {"tflite", "executorch", "coreml", "qnn", "vgf", "npu"}),
        ("edge-sr profile x --device a", {"adb", "apple"}),
        ("edge-sr mod", {"models"}),
    ],
)
def test_the_shell_completes_commands_and_names(line: str, completed: set[str]) -> None:
    asked = {"_EDGE_SR_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = CliRunner().invoke(app, [], prog_name="edge-sr", env={**asked, "_TYPER_COMPLETE_ARGS": line})
    assert {found.partition("\t")[0] for found in done.output.split("\n") if found} >= completed
    assert len([found for found in done.output.split("\n") if found]) == len(completed)


# ----------------------------------------------------------------------------------------------------------- artifacts
def test_anything_inside_an_artifact_means_it(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path)
    inner = artifact / "model.mlpackage" / "Data"
    inner.mkdir(parents=True)
    for path in (artifact, artifact / "artifact.json", artifact / "model.bin", inner):
        assert artifacts_at([path]) == [artifact]
        assert one_artifact_at(path) == artifact


def test_a_folder_means_its_artifacts_and_one_only_where_it_has_one(tmp_path: Path) -> None:
    folder = tmp_path / "demo" / "artifacts"
    folder.mkdir(parents=True)
    first = fake_artifact(folder)
    assert artifacts_at([folder, first]) == [first]
    assert one_artifact_at(tmp_path / "demo") == first
    loaded = UpscalerChoice(artifact=tmp_path / "demo").loaded()
    assert loaded is not None
    assert loaded.path == first
    assert parse_selector(str(first / "model.bin")) == parse_selector(str(first))
    second = folder / "other"
    second.mkdir()
    (second / "artifact.json").write_text("{}")
    assert artifacts_at([folder]) == sorted([first, second])
    with pytest.raises(ConfigError, match=f"with 2: {first.name}, other; name one of them"):
        one_artifact_at(folder)


def test_a_path_that_leads_to_no_artifact_is_told_by_its_own_name(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        assert artifacts_at([path]) == [path]
        with pytest.raises(ArtifactError, match=path.name):
            UpscalerChoice(artifact=path).loaded()


@pytest.mark.parametrize("words", ["verify", "profile", "roofline", "plan --image 9x9", "lint", "layers", "diff"])
def test_every_command_of_artifacts_takes_paths_near_them(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = words.split()
    folder = tmp_path / "net_x4_w8a8_tflite_8x8"
    folder.mkdir()
    (folder / "artifact.json").write_text("{}")
    (folder / "model.tflite").touch()
    near = [str(folder / "model.tflite")] * (2 if command == "diff" else 1)
    assert main([command, *near, *rest]) == 2
    # What is wrong with artifact.json is said only by who took the folder for the artifact.
    assert f"{folder.name}/artifact.json: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("profile ARTIFACT --backend gpu", "--backend goes with --device adb or browser, got --device host"),
        ("profile ARTIFACT --device adb --lan", "--lan goes with --device browser, got --device adb"),
        ("profile ARTIFACT --device browser --no-pin", "--pin goes with --device adb, got --device browser"),
        ("upscale photo.png --artifact ARTIFACT --scale 2", "an artifact has its own network and scale"),
        ("upscale photo.png --artifact ARTIFACT --model idsa_net", "an artifact has its own network and scale"),
        ("export --out OUT --calibration absent", "expected a folder of photos for calibration, got absent"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.replace("ARTIFACT", str(fake_artifact(tmp_path))).replace("OUT", str(tmp_path / "out"))
    assert main(words.split()) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
