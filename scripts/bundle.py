"""Put trained weights into the package, and their history into results/training_MODEL_x4.json.

    python scripts/bundle.py --float runs/mobile_x4 --float-command "edge-sr train ..." \\
        --quantized runs/mobile_x4_w8a8.safetensors --quantized-command "edge-sr qat ..." --data "1,325 photos"

A float network that was trained in several runs names each, in order, with its command; the last one is bundled.

Weights that travel carry their terms: licence and attribution go into each file's header, from where every artifact
takes them. The card (``edge_sr/weights/README.md``) is written by ``make docs`` from the JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from apps.results import write_json
from apps.scripting import run_script
from edge_sr.checkpoints import WEIGHTS_DIR, load_tensors, save_tensors, sha256_file
from edge_sr.errors import ConfigError
from edge_sr.training.loop import LOG, NETWORK

ROOT = Path(__file__).resolve().parent.parent
LICENSE = "CC BY-SA 4.0"
ATTRIBUTION = (
    "Trained on photos that may be used commercially, of which some are under share-alike licences (CID22, Wikimedia "
    "Commons and others); edge_sr/weights/README.md lists every source."
)


def bundle(source: Path, scheme: str, extra: dict[str, Any]) -> dict[str, Any]:
    """Copy a checkpoint into the package with its terms; returns what the card says of it."""
    loaded = load_tensors(source)
    metadata = {**loaded.metadata, **extra, "weights_license": LICENSE, "weights_attribution": ATTRIBUTION}
    target = WEIGHTS_DIR / f"{loaded.model}_x{loaded.config['scale']}_{scheme}.safetensors"
    save_tensors(target, loaded.tensors, model=loaded.model, config=loaded.config, metadata=metadata, kind=loaded.kind)
    return {"file": target.name, "sha256": sha256_file(target), "size_bytes": target.stat().st_size, **metadata}


def stage(run: Path, command: str) -> dict[str, Any]:
    """What one run did, from the checkpoint it left."""
    metadata = load_tensors(run / NETWORK).metadata
    names = ("steps", "held_out_psnr_y_db", "train_seconds", "device", "training_config")
    return {"command": command, **{name: metadata[name] for name in names}}


def lines(log: Path) -> list[dict[str, Any]]:
    """The entries of a JSON-lines log."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line]


def main(arguments: list[str] | None = None) -> int:
    """Bundle both checkpoints of a float run and its quantization-aware training."""
    parser = argparse.ArgumentParser(description="Put trained weights into the package.")
    parser.add_argument("--float", dest="runs", type=Path, action="append", required=True, help="folder of a float run")
    parser.add_argument("--quantized", type=Path, required=True, help="checkpoint of the quantized run")
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--float-command", action="append", required=True, help="the command of a float run")
    parser.add_argument("--quantized-command", required=True, help="the command of the quantized run")
    parser.add_argument("--note", default="", help="anything a reader should know of how it was run")
    options = parser.parse_args(arguments)
    if len(options.runs) != len(options.float_command):
        raise ConfigError(f"expected a command for each of {len(options.runs)} runs, got {len(options.float_command)}")
    stages = [stage(run, command) for run, command in zip(options.runs, options.float_command, strict=True)]
    facts = {"data": options.data, "command": options.float_command[-1], "earlier_runs": stages[:-1]}
    trained = bundle(options.runs[-1] / NETWORK, "fp32", facts)
    # The quantized weights name the float file that they were distilled from as it is bundled.
    quantized = bundle(
        options.quantized,
        "w8a8",
        {
            "data": options.data,
            "command": options.quantized_command,
            "float_checkpoint_sha256": trained["sha256"],
        },
    )
    content = {
        "float": trained,
        "float_runs": stages,
        "quantized": quantized,
        "note": options.note,
        "float_logs": [lines(run / LOG) for run in options.runs],
        "quantized_log": lines(options.quantized.with_suffix(".log.jsonl")),
    }
    (ROOT / "results").mkdir(exist_ok=True)
    network = load_tensors(options.runs[-1] / NETWORK)
    write_json(ROOT / "results" / f"training_{network.model}_x{network.config['scale']}.json", content)
    print(f"bundled {trained['file']} and {quantized['file']}")
    return 0


if __name__ == "__main__":
    run_script(main)
