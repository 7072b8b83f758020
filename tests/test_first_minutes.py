"""What a newcomer meets first: commands that only look are quick, fit a terminal, and say what they found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import apps.exporting
from apps.catalogue import list_models
from apps.cli import app, main
from apps.formatting import format_licence
from apps.history.store import append
from edge_sr.checkpoints import save_checkpoint
from edge_sr.errors import ConversionError
from edge_sr.images import write_image
from edge_sr.networks import MODELS, create_network
from edge_sr.resize import SCALES
from fakes import FAKE_MEASUREMENT

HEAVY = ("torch", "matplotlib", "skimage", "coremltools", "ai_edge_litert", "litert_torch", "executorch")


@pytest.mark.parametrize("name", MODELS)
def test_recorded_parameter_counts_are_those_of_the_networks(name: str) -> None:
    counts = {}
    for scale in SCALES:
        network = create_network(name, scale)
        deployed = network.eval().deployed()  # type: ignore[operator]
        counts[scale] = tuple(sum(p.numel() for p in own.parameters()) for own in (network, deployed))
    assert MODELS[name].parameters == counts


def test_licence_in_every_bundled_header_is_that_of_the_card(project_root: Path) -> None:
    card = " ".join((project_root / "edge_sr" / "weights" / "README.md").read_text(encoding="utf-8").split())
    assert "weights are offered under CC BY-SA 4.0" in card
    assert "All of this is `idsa_net`." in card
    assert "`idsa_net_mobile` is still of an earlier pool" in card
    assert "its weights are under CC BY-NC-SA 4.0" in card
    found = {(model.name, weights.license) for model in list_models().models for weights in model.bundled}
    assert found == {("idsa_net", "CC BY-SA 4.0"), ("idsa_net_mobile", "CC BY-NC-SA 4.0")}


def test_models_fit_80_columns_with_scores_and_licences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "models.json"
    assert main(["models", "--json", str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if re.search(r"\bx[234]\b", line)]
    assert [row[:2] for row in rows] == [[name, f"x{scale}"] for name in MODELS for scale in SCALES]
    first_table_and_notes = lines[: next(number for number, line in enumerate(lines) if "what it is" in line)]
    assert max(len(line.rstrip()) for line in first_table_and_notes) <= 80
    models = {model["name"]: model for model in json.loads(saved.read_text())["models"]}
    for name, scale, count, *rest in rows:
        model = models[name]
        assert count == f"{model['deployed_parameters'][scale[1:]]:,}"
        own = {weights["scheme"]: weights for weights in model["bundled"] if weights["scale"] == int(scale[1:])}
        if not own:
            assert rest == ["none", "–", "–", "–"]
            continue
        scores = (own["w8a8"]["metadata"]["float_psnr_y_db"], own["w8a8"]["metadata"]["psnr_y_db"])
        assert rest[:4] == ["fp32", "w8a8", *(f"{score:.2f}" for score in scores)]
        assert " ".join(rest[4:]) == own["fp32"]["metadata"]["weights_license"]


def test_commands_that_only_look_import_nothing_heavy(tmp_path: Path) -> None:
    history = tmp_path / "history.sqlite3"
    settled = replace(FAKE_MEASUREMENT, samples_ms=tuple(10.0 + 0.01 * count for count in range(20)))
    two = replace(settled, artifact_name="two", artifact_sha256="b" * 64)
    append([replace(settled, artifact_name="one"), two], history)
    named = ["--history", str(history)]
    lines = [["models", "--json", "-"], ["history", *named], ["compare", "one", "two", *named], ["--version"]]
    lines += [[*command, "--help"] for command in ([], *([name] for name in typer.main.get_command(app).commands))]
    program = (
        "import sys\n"
        "from apps.__main__ import main\n"
        f"for line in {lines!r}:\n"
        "    assert main(line) == 0, line\n"
        f"    heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    assert not heavy, (line, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_an_export_from_bundled_weights_records_and_says_their_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def refuse(**arguments: Any) -> None:
        given.update(arguments)
        raise ConversionError("not today")

    monkeypatch.setattr(apps.exporting, "export_artifact", refuse)
    words = ["export", "--scheme", "fp32", "--target", "tflite", "--overlap", "8", "--out", str(tmp_path / "out")]
    assert main([*words, "--json", "-"]) == 2
    out, err = capsys.readouterr()
    assert given["weights_license"] == "CC BY-NC-SA 4.0"
    assert [row["weights_license"] for row in json.loads(out)["artifacts"]] == ["CC BY-NC-SA 4.0"]
    line = "weights: CC BY-NC-SA 4.0 (not for commercial use); see edge_sr/weights/README.md"
    assert err.splitlines().count(line) == 1


def test_upscaling_says_the_licence_of_bundled_weights_and_of_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "photo.png", np.full((12, 16, 3), 90, dtype=np.uint8))
    own = tmp_path / "own.safetensors"
    save_checkpoint(own, create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=4), {})
    words = ["upscale", str(tmp_path / "photo.png"), "--overwrite"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "weights: CC BY-NC-SA 4.0 (not for commercial use); see edge_sr/weights/README.md"
    assert main([*words, "--scale", "2", "--checkpoint", str(own), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["forecast"]["weights_license"] == ""
    assert "weights:" not in err


def test_a_licence_without_a_ban_on_commerce_is_said_without_one() -> None:
    assert format_licence("CC BY-SA 4.0") == "weights: CC BY-SA 4.0; see edge_sr/weights/README.md"


def test_the_name_of_the_package_starts_the_command_line_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_sr", "-V"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "edge-sr")
