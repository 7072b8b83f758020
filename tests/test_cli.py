"""The command line: the whole line for real on a tiny network, and one clear line for everything that goes wrong."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from apps.cli import app, main
from apps.commands.training import qat
from edge_sr.checkpoints import load_checkpoint, save_checkpoint
from edge_sr.images import read_image, write_image
from edge_sr.networks import create_network
from quantization.qat_config import QATConfig

COMMANDS = (
    *("export", "verify", "diff", "profile", "layers", "roofline", "plan", "lint", "history", "compare"),
    *("upscale", "demo", "train", "qat", "sensitivity", "models", "doctor"),
)
CONFIG = """
model = "idsa_net_mobile"
scale = 4
network = { channels = 8, blocks = 1, distilled = 4 }
optimizer = "adam"
warmup_steps = 1
validate_every = 2
hold_out = 1
precision = "fp32"
phases = [{ steps = 2, batch = 1, patch = 16 }]
"""


@dataclass(frozen=True)
class Line:
    """What one run of the demo on a tiny network left behind."""

    checkpoint: Path
    photos: Path
    out: Path

    def artifact(self, scheme: str) -> Path:
        return self.out / "artifacts" / f"idsa_net_mobile_x4_{scheme}_tflite_32x32"

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        return content


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, create_network("idsa_net_mobile", 4, channels=8, blocks=2, distilled=4), {})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name in ("one", "two"):
        coarse = rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)
        write_image(folder / f"{name}.png", np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8)))
    return folder


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, photos: Path) -> Line:
    """``edge-sr demo`` for real, once: export fp32 and w8a8 to TFLite, verify, profile, report."""
    for package in ("litert_torch", "ai_edge_litert"):
        pytest.importorskip(package, reason=f"{package} is missing")
    out = tmp_path_factory.mktemp("demo") / "demo"
    words = ["demo", "--out", out, "--checkpoint", checkpoint, "--data", photos, "--tile", "32x32"]
    assert main([str(word) for word in [*words, "--target", "tflite", "--runs", "3"]]) == 0
    return Line(checkpoint=checkpoint, photos=photos, out=out)


def _run(*words: object) -> int:
    return main([str(word) for word in words])


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


# ---------------------------------------------------------------------------------------------------------- real line
def test_demo_writes_one_page_and_one_json_for_all_artifacts(line: Line) -> None:
    assert sorted(path.name for path in line.out.iterdir()) == ["artifacts", "report.html", "report.json"]
    summary = {row["scheme"]: row for row in line.report["summary"]}
    assert set(summary) == {"fp32", "w8a8"}
    for row in summary.values():
        assert row["target"] == "tflite"
        assert row["delegates"] == 1
        assert row["ops_outside"] == {}
        assert set(row["timings"]) == {"1", "2"}
    # The same arithmetic but for the order of sums: rounding flips of single levels cost less than this.
    assert abs(summary["fp32"]["quantization_drop_db"]) < 0.01
    assert summary["w8a8"]["size_bytes"] < summary["fp32"]["size_bytes"]
    assert summary["w8a8"]["weights"] == "post-training"


def test_report_records_machine_versions_and_command(line: Line) -> None:
    report = line.report
    assert report["kind"] == "edge-sr/demo"
    assert report["machine"]["cpu_model"]
    assert report["versions"]["torch"].startswith("2.")
    samples = [row["timing"]["samples_ms"] for row in report["profile"]["rows"]]
    assert [len(own) for own in samples] == [3] * 4


def test_page_shows_the_crops_of_the_int8_artifact(line: Line) -> None:
    page = (line.out / "report.html").read_text(encoding="utf-8")
    assert "Where int8 differs most" in page
    assert "idsa_net_mobile_x4_w8a8_tflite_32x32 is furthest" in page


def test_demo_refuses_a_folder_with_a_report_of_someone_else(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert _run("demo", "--out", tmp_path, "--checkpoint", checkpoint) == 2
    assert "expected a new folder" in _error(capsys)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_verify_prints_scores_and_writes_them_as_json(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "verify.json"
    words = ["verify", line.artifact("w8a8"), "--data", line.photos, "--set", "photos"]
    assert _run(*words, "--checkpoint", line.checkpoint, "--max-drop", "20", "--json", saved) == 0
    (row,) = json.loads(saved.read_text())["rows"]
    printed = capsys.readouterr().out
    for text in ("w8a8", "photos", f"{row['psnr_y_db']:.3f}", f"{row['ssim']:.4f}", row["artifact"]["worst"]):
        assert text in printed
    assert row["drop_db"] == pytest.approx(row["tiling_drop_db"] + row["quantization_drop_db"], abs=1e-9)


def test_failing_gate_exits_with_three_and_says_so_first(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", line.artifact("w8a8"), "--data", line.photos, "--checkpoint", line.checkpoint]
    assert _run(*words, "--max-drop", "-50") == 3
    captured = capsys.readouterr()
    assert captured.out.startswith(
        "gate: idsa_net_mobile_x4_w8a8_tflite_32x32 on photos: expected a drop of at most -50"
    )
    assert "error: idsa_net_mobile_x4_w8a8_tflite_32x32" in captured.err


def test_profile_prints_median_and_keeps_raw_samples(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "profile.json"
    assert _run("profile", line.artifact("w8a8"), "--max-seconds", "1e-9", "--json", saved) == 0
    (row,) = json.loads(saved.read_text())["rows"]
    assert len(row["timing"]["samples_ms"]) == 10  # the fewest that are ever made, where there is no time for more
    assert row["timing"]["median_ms"] == pytest.approx(float(np.median(row["timing"]["samples_ms"])))
    assert f"{row['timing']['median_ms']:.2f}" in capsys.readouterr().out


def test_upscale_makes_a_photo_four_times_as_large(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "big.png"
    assert _run("upscale", line.photos / "one.png", "-o", output, "--artifact", line.artifact("w8a8")) == 0
    assert read_image(output).shape == (4 * 144, 4 * 160, 3)
    assert "160x144 -> 640x576" in capsys.readouterr().out


def test_altered_artifact_is_refused_by_every_command(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(line.artifact("w8a8"), bad)
    (model,) = (
        path for path in bad.iterdir() if path.name == json.loads((bad / "artifact.json").read_text())["main_file"]
    )
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    upscale = ["upscale", line.photos / "one.png", "-o", tmp_path / "x.png", "--artifact", bad]
    for words in (["verify", bad], ["profile", bad], upscale):
        assert _run(*words) == 2
        assert "altered" in _error(capsys)


def test_existing_artifact_is_kept_unless_told(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--checkpoint", line.checkpoint, "--scheme", "fp32", "--target", "tflite", "--tile", "32x32"]
    assert _run(*words, "--out", line.out / "artifacts") == 2
    assert "expected a new path" in _error(capsys)


# ----------------------------------------------------------------------------------------------------------- training
def test_train_stops_goes_on_and_qat_follows(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(CONFIG)
    words = ["train", "--config", config, "--data", photos, "--out", run, "--cache", tmp_path / "pools"]
    assert _run(*words, "--stop-at", "1") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"1 steps .* dB on held-out photos \(bicubic .*network.safetensors, unfinished", printed)
    assert load_checkpoint(run / "network.safetensors").metadata["finished"] is False
    assert _run(*words) == 0
    assert "2 steps" in capsys.readouterr().out
    network, quantized = run / "network.safetensors", tmp_path / "w8a8.safetensors"
    words = ["qat", "--checkpoint", network, "--data", photos, "--out", quantized, "--steps", "2", "--batch", "1"]
    assert _run(*words, "--patch", "16", "--hold-out", "1", "--cache", tmp_path / "pools") == 0
    assert "of 2 steps" in capsys.readouterr().out
    from quantization.state import load_quantized

    loaded = load_quantized(quantized)
    assert loaded.qnet.scheme.name == "w8a8"
    assert loaded.metadata["steps"] == 2
    assert _run(*words) == 2
    assert "--overwrite" in _error(capsys)


def test_train_goes_by_steps_by_the_clock_without_an_end_and_cools_down(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, report = tmp_path / "endless.toml", tmp_path / "report.json"
    config.write_text('schedule = "constant"\n' + CONFIG)
    common = ["--data", photos, "--cache", tmp_path / "pools", "--json", report]

    def trained(*words: object) -> dict[str, object]:
        assert _run("train", *words, *common) == 0
        facts: dict[str, object] = json.loads(report.read_text())
        return facts

    endless = tmp_path / "endless"
    assert trained("--config", config, "--out", endless, "--minutes", "0.01")["finished"] is False
    steps = trained("--config", config, "--out", endless, "--stop-at", "30")["steps"]
    cooled = trained("--out", endless, "--cooldown", "3")
    assert (cooled["finished"], cooled["steps"]) == (True, steps + 3)  # type: ignore[operator]
    assert cooled["checkpoint"] == str(endless / f"cooldown_{steps}_3" / "network.safetensors")
    assert trained("--config", config, "--out", endless, "--stop-at", str(steps))["steps"] == steps
    short = tmp_path / "short.toml"
    short.write_text(CONFIG)
    by_steps = trained("--config", short, "--out", tmp_path / "steps", "--steps", "5")
    assert (by_steps["finished"], by_steps["steps"]) == (True, 5)
    trial = trained("--preset", "trial", "--scale", "2", "--out", tmp_path / "trial", "--minutes", "0.02")
    assert trial["finished"] is True
    for words, message in (
        (("--steps", "5", "--minutes", "1"), "expected one of steps, minutes and cooldown"),
        (("--preset", "trial", "--config", short), "expected a trial or a configuration"),
        (("--cooldown", "3"), "expected a JSON object"),
        (("--cooldown", "3", "--config", short), "expected a cool-down to take its settings from --out"),
        (("--config", config, "--steps", "5"), "expected steps of a run that ends"),
    ):
        assert _run("train", "--out", tmp_path / "none", *words, *common[:4]) == 2
        assert message in _error(capsys)


def test_qat_command_defaults_to_the_measured_recipe() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(qat).parameters.items()}
    recipe = QATConfig()
    names = {"lr": "learning_rate", "scale_lr": "scale_learning_rate"}
    for option in ("steps", "lr", "scale_lr", "distillation_weight", "hr_weight", "ema_decay", "bf16"):
        assert defaults[option] == getattr(recipe, names.get(option, option)), option


def test_interrupted_training_says_how_to_go_on(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import apps.training

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(apps.training, "train", interrupt)
    assert _run("train", "--data", photos, "--out", tmp_path / "run") == 130
    assert "the same command goes on" in _error(capsys)


# -------------------------------------------------------------------------------------------------------------- looking
def test_models_lists_networks_scales_and_schemes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "models.json"
    assert _run("models", "--json", saved) == 0
    printed = capsys.readouterr().out
    models = {model["name"]: model for model in json.loads(saved.read_text())["models"]}
    for text in ("idsa_net", "idsa_net_mobile", "w8a8_mixed", f"{models['idsa_net']['deployed_parameters']['4']:,}"):
        assert text in printed
    expected = sum(parameter.numel() for parameter in create_network("idsa_net_mobile", 2).parameters())
    assert models["idsa_net_mobile"]["parameters"]["2"] == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_of_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(command, "--help") == 0
    printed = capsys.readouterr().out
    assert "Examples:" in printed
    assert f"edge-sr {command}" in printed
    assert "--json" in printed


def test_every_command_is_known_here() -> None:
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "esrgan"], "model must be one of idsa_net, idsa_net_mobile, got 'esrgan'"),
        (["--scale", "5"], "scale must be one of 2, 3, 4, got 5"),
        (["--scheme", "int4"], "scheme must be one of fp32, fp16, w8a8, w8a8_mixed, w8a16, got 'int4'"),
        (["--scheme", "fp16", "--target", "tflite"], "scheme for target tflite must be one of"),
        (["--target", "onnx"], "target must be one of tflite, executorch, coreml, qnn, vgf, npu, got 'onnx'"),
        (["--tile", "128"], "expected a tile as WIDTHxHEIGHT, got '128'"),
        (["--tile", "9" * 5000 + "x8"], "expected a tile as WIDTHxHEIGHT, got '999"),
        (["--tile", "4x128"], "tile sides must be from 8"),
        (["--checkpoint", "nowhere.safetensors"], "expected a checkpoint file, got nowhere.safetensors"),
    ],
)
def test_export_names_what_was_expected(
    words: list[str], expected: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [] if "--checkpoint" in words else ["--checkpoint", str(checkpoint)]
    assert _run("export", "--out", tmp_path / "out", "--scheme", "fp32", *own, *words) == 2
    assert expected in _error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_tile_that_is_no_multiple_of_the_window_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "idsa.safetensors"
    save_checkpoint(checkpoint, create_network("idsa_net", 4), {})
    words = ["export", "--model", "idsa_net", "--checkpoint", checkpoint, "--scheme", "fp32", "--tile", "60x64"]
    assert _run(*words, "--out", tmp_path / "out") == 2
    assert "multiples of 8, got 60 wide, 64 high" in _error(capsys)


def test_checkpoint_of_another_network_is_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("export", "--model", "idsa_net", "--checkpoint", checkpoint, "--out", tmp_path / "out") == 2
    assert "expected a checkpoint of idsa_net" in _error(capsys)


@pytest.mark.parametrize("command", ["verify", "profile"])
def test_folder_that_is_no_artifact_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(command, tmp_path) == 2
    assert "artifact.json" in _error(capsys)


def test_result_file_with_other_content_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "package.json"
    other.write_text("{}")
    assert _run("models", "--json", other) == 2
    assert "--json" in _error(capsys)
    assert other.read_text() == "{}"


def test_unknown_device_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("profile", tmp_path, "--device", "pixel8") == 2
    assert "--device must be one of host, adb, apple, browser, got 'pixel8'" in _error(capsys)


@pytest.mark.parametrize(
    "words",
    [
        *(["--no-such-option"], ["no-such-command"], ["verify"], ["export", "--scale", "x"]),
        *([command, "x", "--threads", "257"] for command in ("profile", "layers", "roofline", "plan", "verify")),
    ],
)
def test_words_that_make_no_command_exit_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import apps.catalogue

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(apps.catalogue, "list_models", interrupt)
    assert _run("models") == 130
    assert "interrupted" in _error(capsys)


def test_a_name_that_a_library_cannot_take_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import apps.catalogue

    def unable() -> None:
        "\udcff[/x]\n.png".encode()

    monkeypatch.setattr(apps.catalogue, "list_models", unable)
    assert _run("models") == 2
    _, err = capsys.readouterr()
    assert err == "error: expected names of files in utf-8, got '\\udcff[/x]\\n.png'; rename it\n"


def test_disk_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import apps.catalogue

    def fail() -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr(apps.catalogue, "list_models", fail)
    assert _run("models") == 2
    assert "Permission denied (somewhere)" in _error(capsys)
