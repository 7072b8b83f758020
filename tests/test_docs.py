"""The documents are true: tables come from results, commands exist and run, paths and links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from edge_sr.checkpoints import WEIGHTS_DIR

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "edge_sr/weights/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
FENCE = re.compile(r"```console\n(.*?)```", re.DOTALL)
# Made by commands or by the reader, so not in a checkout.
NOT_IN_A_CHECKOUT = ("out/", "converters/to_NAME.py")
# Whatever is bundled has to be measured.
MODELS = sorted(path.name.removesuffix("_x4_fp32.safetensors") for path in WEIGHTS_DIR.glob("*_x4_fp32.safetensors"))


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    return _script("render_docs")


@cache
def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return content


def _commands(word: str) -> list[str]:
    """Every line of the documents' console blocks that starts with ``word``, without its comment."""
    lines = [
        line.partition(" #")[0].strip()
        for name in DOCUMENTS
        for block in FENCE.findall((ROOT / name).read_text(encoding="utf-8"))
        for line in block.splitlines()
    ]
    return sorted({line for line in lines if line.split(" ")[0] == word})


# ------------------------------------------------------------------------------------------------------------ tables
def test_tables_are_those_of_the_committed_results(renderer: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    status = renderer.main(["--check"])
    assert status == 0, capsys.readouterr().out


def test_render_replaces_only_what_lies_between_the_marks(renderer: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "speed.md.j2").write_text("{{ idsa_net_mobile_x4.ms }} ms\n")
    text = "before\n<!-- table: speed -->\nold\nlines\n<!-- end: speed -->\nafter\n"
    rendered = renderer.render(text, {"idsa_net_mobile_x4": {"ms": 7}}, templates=tmp_path)
    assert rendered == "before\n<!-- table: speed -->\n7 ms\n<!-- end: speed -->\nafter\n"


def test_render_refuses_a_mark_without_end(renderer: ModuleType, tmp_path: Path) -> None:
    from edge_sr.errors import ConfigError

    (tmp_path / "speed.md.j2").write_text("x")
    with pytest.raises(ConfigError, match="stray"):
        renderer.render("<!-- table: speed -->\nold\n", {}, templates=tmp_path)


def test_render_refuses_a_table_without_template(renderer: ModuleType, tmp_path: Path) -> None:
    from edge_sr.errors import ConfigError

    with pytest.raises(ConfigError, match=r"speed\.md\.j2"):
        renderer.render("<!-- table: speed -->\n<!-- end: speed -->", {}, templates=tmp_path)


def test_a_result_that_no_template_can_name_is_refused(renderer: ModuleType, tmp_path: Path) -> None:
    from edge_sr.errors import ConfigError

    (tmp_path / "mobil_x4.json").write_text("{}")
    with pytest.raises(ConfigError, match="mobil_x4"):
        renderer.load_results(tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_accuracy_is_of_the_bundled_weights_and_older_measurements_say_so(model: str, renderer: ModuleType) -> None:
    from edge_sr.checkpoints import bundled_checkpoint, sha256_file

    content = _result(f"{model}_x4")
    bundled = {
        scheme: sha256_file(bundled_checkpoint(content["model"], content["scale"], scheme))
        for scheme in ("fp32", "w8a8")
    }
    assert content["accuracy"]["checkpoint_sha256"] == bundled, "accuracy is of other weights; measure again"
    (parts,) = [entry for entry in _result("sensitivity_x4")["networks"] if entry["model"] == model]
    assert parts["parts"]["sensitivity"]["whole"]["mse_levels2"] > 0
    measured = {
        content["latency"]["checkpoint_sha256"]["fp32"],
        _result("quantization_x4")["networks"][model]["float_checkpoint_sha256"],
        parts["checkpoint_sha256"],
        _result(f"verification_{model}_x4")["checkpoint_sha256"],
    }
    texts = [path.read_text(encoding="utf-8") for path in renderer.documents()]
    for sha256 in measured - {bundled["fp32"]}:
        note = f"**measured on earlier weights** (`{sha256[:8]}`)"
        assert any(note in text for text in texts), f"no document says of {sha256[:8]} what it is"


@pytest.mark.parametrize("model", MODELS)
def test_the_card_is_of_the_bundled_weights(model: str) -> None:
    from edge_sr.checkpoints import sha256_file

    content = _result(f"training_{model}_x4")
    for trained in (content["float"], content["quantized"]):
        assert sha256_file(WEIGHTS_DIR / trained["file"]) == trained["sha256"]
    assert content["quantized"]["float_checkpoint_sha256"] == content["float"]["sha256"]


# ---------------------------------------------------------------------------------------------------------- measuring
def _row(target: str, scheme: str, psnr: float | None, *, post_training: bool = False) -> dict[str, Any]:
    artifact = None if psnr is None else {"psnr_y_db": psnr}
    return {
        "target": target,
        "scheme": scheme,
        "post_training": post_training,
        "sets": {"Set5": {"artifact": artifact}},
    }


def test_drop_from_the_float_artifact_is_taken_on_one_target() -> None:
    from scripts.accuracy_rows import add_drop_from_float_artifact

    rows = [
        _row("tflite", "fp32", 31.5),
        _row("coreml", "fp32", None),
        _row("tflite", "w8a8", 31.25),
        _row("coreml", "w8a8", None),
        _row("executorch", "w8a8", 31.25),
    ]
    add_drop_from_float_artifact(rows)
    assert [entry["sets"]["Set5"]["drop_from_float_artifact_db"] for entry in rows] == [0.0, None, 0.25, None, None]


def test_rows_of_two_processes_come_together_in_the_tables_order() -> None:
    from scripts.accuracy_rows import merged
    from scripts.measure import ROWS

    first = merged({"sets": ["Set5"]}, {"artifacts": [_row("executorch", "w8a8", 31.0)]}, ROWS)
    both = merged(first, {"artifacts": [_row("executorch", "fp32", 31.5)]}, ROWS)
    again = merged(both, {"artifacts": [_row("executorch", "w8a8", 31.25)]}, ROWS)
    assert again["sets"] == ["Set5"]
    assert [(row["scheme"], row["sets"]["Set5"].get("drop_from_float_artifact_db")) for row in again["artifacts"]] == [
        ("fp32", 0.0),
        ("w8a8", 0.25),
    ]


def test_commands_are_written_down_without_this_machine() -> None:
    from scripts.measure import relative

    words = ["--data", "../elsewhere/benchmarks", f"{ROOT}/runs/x", "/data/photos", "runs/y", "--steps", "3"]
    assert relative(words) == ["--data", "benchmarks", "runs/x", "photos", "runs/y", "--steps", "3"]


def test_steps_of_all_runs_behind_a_checkpoint_are_added_up(tmp_path: Path) -> None:
    from edge_sr.checkpoints import save_checkpoint
    from edge_sr.networks import create_network
    from scripts.measure_verification import trained

    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4)
    facts = {"steps": 300, "train_seconds": 30.0, "train_images": 7, "held_out_psnr_y_db": 25.0}
    save_checkpoint(tmp_path / "one.safetensors", network, facts)
    assert trained(tmp_path / "one.safetensors") == facts
    earlier = [{"steps": 200, "train_seconds": 20.0}, {"steps": 50, "train_seconds": 5.0}]
    save_checkpoint(tmp_path / "three.safetensors", network, {**facts, "earlier_runs": earlier})
    assert trained(tmp_path / "three.safetensors") == {**facts, "steps": 550, "train_seconds": 55.0}


def test_rows_that_are_kept_are_not_measured_again() -> None:
    from apps.progress import quiet
    from scripts.accuracy_rows import measure_rows

    def fail(*_: object) -> Any:
        raise AssertionError("nothing is missing")

    measure_rows(
        {"artifacts": [_row("tflite", "fp32", 31.0)]},
        keys=[("tflite", "fp32", False)],
        artifact=fail,
        data=ROOT,
        set_names=["Set5"],
        keep=fail,
        progress=quiet,
    )


# ---------------------------------------------------------------------------------------------------------- commands
@pytest.mark.parametrize("line", _commands("edge-sr"))
def test_documented_command_and_its_options_exist(line: str) -> None:
    from apps.cli import app

    command = typer.main.get_command(app)
    _, name, *words = shlex.split(line)
    subcommand = command.commands.get(name)
    assert subcommand is not None, f"edge-sr has no {name}"
    known = {option for parameter in subcommand.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} - known - {"--help"} == set()


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["doctor", "--quick"]])
def test_cheap_command_runs(edge_sr_command: Path, arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [edge_sr_command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert list(tmp_path.iterdir()) == []


def test_every_command_is_in_the_readme() -> None:
    from apps.cli import app

    names = set(typer.main.get_command(app).commands)
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {name for name in names if not re.search(rf"edge-sr {name}\b", text)} == set()


@pytest.mark.parametrize("line", _commands("make"))
def test_documented_make_target_exists(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(line.split()[1:]) <= targets


@pytest.mark.parametrize("line", _commands("python"))
def test_documented_script_knows_its_options(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, *words = shlex.split(line)
    # "python -m scripts.NAME", where one script uses another, or "python scripts/NAME.py".
    name = words[1].partition(".")[2] if words[0] == "-m" else Path(words[0]).stem
    words = [word for word in words if word != "-m"]
    with pytest.raises(SystemExit) as left:
        _script(name).main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert [word for word in words if word.startswith("-") and word not in text] == []


# ------------------------------------------------------------------------------------------------------------- paths
@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_in_the_documents_exist(name: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    spoken = {
        word for word in re.findall(r"`([\w./-]+)`", text) if "/" in word or word.endswith((".py", ".md", ".toml"))
    }
    own = {word for word in spoken if (ROOT / word.split("/")[0]).exists() or word.count("/") == 0}
    own -= {word for word in own if word.startswith(NOT_IN_A_CHECKOUT)} | {"utils.py"}
    assert {word for word in own if not (ROOT / word).exists()} == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    relative = {link.partition("#")[0] for link in links if "://" not in link}
    assert {link for link in relative if link and not (ROOT / name).parent.joinpath(link).exists()} == set()


def test_anchors_of_links_are_headings() -> None:
    for name in DOCUMENTS:
        for path, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            if "://" in path:
                continue
            text = ((ROOT / name).parent / path if path else ROOT / name).read_text(encoding="utf-8")
            anchors = {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            }
            assert anchor in anchors, f"{name}: {path}#{anchor}"


def test_readme_is_short_enough_to_be_read() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 8000


def test_the_index_leads_to_every_document() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {path.name for path in (ROOT / "docs").glob("*.md") if f"({path.name})" not in text} == {"index.md"}


# ---------------------------------------------------------------------------------------------------------- artifact.md
@pytest.fixture(scope="module")
def artifact_page() -> str:
    return (ROOT / "docs" / "artifact.md").read_text(encoding="utf-8")


def test_artifact_page_names_every_field(artifact_page: str) -> None:
    from dataclasses import fields

    from converters import artifact_meta as meta

    parts = (meta.IoVariant, meta.TensorSpec, meta.FileEntry, meta.Delegation, meta.Compiled, meta.SelfTest)
    names = {entry.name for kind in (meta.ArtifactMeta, *parts) for entry in fields(kind)} | {"format", "sha256"}
    assert {name for name in names if f"`{name}`" not in artifact_page} == set()


def test_artifact_page_makes_the_tile_of_the_self_test(artifact_page: str) -> None:
    import textwrap

    import numpy as np

    from converters.self_test import PATTERN, self_test_tile

    code = re.search(r"```python\n(.*?)```", artifact_page, re.DOTALL)
    assert code is not None
    assert f"Pattern {PATTERN}," in artifact_page
    told: dict[str, Any] = {}
    exec(textwrap.dedent(code[1]), told)
    for height, width in ((48, 80), (9, 50)):
        places = [[[row, column, channel] for channel in range(3)] for row in range(height) for column in range(width)]
        tile = [told["intensity"](*place, height, width) for pixel in places for place in pixel]
        assert np.array_equal(self_test_tile(height, width), np.reshape(tile, (height, width, 3)))


def test_artifact_page_gives_the_tolerance_of_the_self_test(artifact_page: str) -> None:
    from converters import self_test

    text = " ".join(artifact_page.split())
    same, other, npu = self_test._SAME_RUNTIME, self_test._OTHER_RUNTIME, self_test._OTHER_ARITHMETIC
    assert f"at most {same.mean_levels} levels and at most {same.far_percent:.0f}% of the values" in text
    assert f"off by more than {same.far_levels} levels; on another runtime" in text
    assert f"{other.mean_levels} levels in the mean and {other.far_percent:.0f}% off by more" in text
    assert f"off by more than {other.far_levels}." in text
    assert (
        f"{npu.mean_levels:g} levels in the mean and {npu.far_percent:.0f}% off by more than {npu.far_levels}" in text
    )
    assert f"fewer than {self_test._LEAST_SPAN_LEVELS} levels" in text


def test_npu_page_names_every_chip() -> None:
    from converters.qnn.socs import SOCS

    text = (ROOT / "docs" / "npu.md").read_text(encoding="utf-8")
    assert {name for name in SOCS if name not in text} == set()


def test_licence_is_apache_2_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
