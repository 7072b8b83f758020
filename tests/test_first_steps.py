"""What README and tutorial tell a newcomer to type works as it stands there, in the order in which it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)
# Shorter, never other: the same commands for one target, with less training, timing and fewer pixels.
SHORTER = (
    (r"^edge-sr export(?!.*--target)", "edge-sr export --target tflite"),
    (r"^edge-sr export", "edge-sr export --tile 64x64"),
    (r"--preset trial", "--preset trial --steps 8"),
    (r"--minutes 1 ", "--steps 2 --batch 1 "),
    (r"--max-seconds 5", "--max-seconds 1"),
    (r"--max-drop [\d.]+", "--max-drop 3"),
)
# Set-up is done where this test runs, so make takes it as done, and pip may only find that all it wants is there.
SHELL = """
source .venv/bin/activate
make() {{
  command make -C {root} -o .venv/.stamp-torch -o .venv/.stamp-run -o .venv/.stamp-dev "$@" \\
    DEMO_ARGS="--target tflite --tile 64x64 --runs 5 --out $PWD/out/demo"
}}
pip() {{ (cd {root} && command pip "$@" --dry-run --no-index --no-build-isolation --quiet); }}
"""


def _blocks(name: str) -> list[tuple[str, str]]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = BLOCK.findall(text)
    assert len(found) == text.count("```console") + text.count("```python")
    return found


def _shorter(line: str) -> str:
    for pattern, replacement in SHORTER:
        line = re.sub(pattern, replacement, line)
    return line


@pytest.fixture
def newcomer(tmp_path: Path, edge_sr_command: Path) -> Path:
    """A folder with photos, in which the project's environment is at hand."""
    from PIL import Image
    from skimage import data

    (tmp_path / ".venv").symlink_to(edge_sr_command.parent.parent)
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("astronaut", "coffee", "chelsea", "rocket")):
        photo = Image.fromarray(getattr(data, name)())
        photo.save(tmp_path / "photos" / ("first.jpg" if number == 0 else f"{name}.png"))
    Image.open(tmp_path / "photos" / "first.jpg").resize((96, 96)).save(tmp_path / "photo.jpg")
    return tmp_path


def _run(script: str, kind: str, folder: Path) -> None:
    command = [sys.executable, "-c", script] if kind == "python" else ["bash", "-euo", "pipefail", "-c", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_a_newcomer_can_type_all_of_it(name: str, newcomer: Path) -> None:
    for kind, block in _blocks(name):
        script = block
        if kind == "console":
            lines = [_shorter(line.partition(" #")[0].rstrip()) for line in block.splitlines()]
            script = SHELL.format(root=shlex.quote(str(ROOT))) + "\n".join(["set -x", *lines])
        _run(script, kind, newcomer)
    for made in _made(name):
        assert (newcomer / made).exists(), f"{name} promises {made}"


def _made(name: str) -> Iterator[str]:
    if name == "README.md":
        yield from ("photo_x4.png", "out/demo/report.html", "out/artifacts", "out/from_python")
    else:
        yield from ("runs/mine/network.safetensors", "runs/mine_w8a8.safetensors", "out/mine", "larger.png")
