"""The script for a GPU that is at hand for minutes, driven on a CPU for seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_sr.checkpoints import load_checkpoint
from edge_sr.images import write_image
from quantization.state import load_quantized

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "train_on_gpu.py"
CONFIG = """
model = "idsa_net_mobile"
scale = 2
warmup_steps = 2
[network]
channels = 8
blocks = 1
distilled = 4
[[phases]]
steps = 100
batch = 2
patch = 16
"""


@pytest.mark.slow
def test_photos_go_in_and_float_and_quantized_weights_come_out_in_the_time_given(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        write_image(tmp_path / "photos" / f"{seed}.png", np.kron(pixels, np.ones((16, 16, 1), np.uint8)))
    (tmp_path / "run.toml").write_text(CONFIG)
    arguments = ["--data", "photos", "--out", "out", "--config", "run.toml", "--hold-out", "1", "--cache", "cache"]
    command = [sys.executable, str(SCRIPT), *arguments, "--minutes", "0.6", "--qat-minutes", "0.25", "--profile"]
    # From another folder and with nothing of this environment's paths, as on a machine where nothing is installed.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    out = tmp_path / "out"
    metadata = load_checkpoint(out / "network.safetensors", expect_model="idsa_net_mobile").metadata
    assert metadata["finished"] is True
    assert metadata["steps"] > 0
    assert load_quantized(out / "network_w8a8.safetensors").metadata["float_checkpoint_sha256"]
    assert (out / "snapshot.pt").stat().st_size < 12e6
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == metadata["steps"]
    assert "w8a8: float" in done.stdout
    assert "aten::convolution_backward" in done.stdout
