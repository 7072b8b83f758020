"""Measure one network in the arithmetic of every runtime, NPUs included, and write results/npu_MODEL_xSCALE.json.

    python -m scripts.measure_npu --data benchmarks --set Set5 --set Set14
    python -m scripts.measure_npu --model idsa_net --data benchmarks --set Set5 --row qnn:w8a8

One row per artifact and runtime: PSNR-Y of whole sets in tiles, agreement with the network in PyTorch, what stays
outside. Each set is kept as it is measured, so that the same command goes on where it was cut; ``--again`` measures
anew. Emulators take seconds to minutes a tile; no latency is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from apps.progress import Progress, progress_bars
from apps.results import envelope, plain, write_json
from apps.scripting import run_script
from apps.verification.accuracy import verify_artifacts
from apps.verification.agreement import FAKE_QUANT, FLOAT, QDQ, Agreement, AgreementMatrix, measure_agreement
from apps.verification.references import References
from apps.verification.scoring import closing_runner
from converters.artifact import Artifact
from converters.export import export_artifact
from converters.qnn.toolchain import tool_versions
from converters.runners import RUNTIMES, accuracy_runtimes, open_runner
from converters.targets import TARGETS
from edge_sr.errors import ConfigError, MissingToolError
from edge_sr.networks import MODELS
from edge_sr.runner import TorchRunner, to_float
from quantization.calibration import calibrate
from quantization.quantizer import prepare
from scripts.measure import ROOT, Section, Subject, relative

# Target and scheme, in the order of the table.
ROWS = (
    *(("tflite", scheme) for scheme in ("fp32", "w8a8")),
    ("executorch", "w8a8"),
    ("coreml", "w8a8"),
    *(("qnn", scheme) for scheme in ("w8a8", "fp16", "w8a16")),
    ("vgf", "w8a8"),
)
# One of each kind of Hexagon arithmetic; the oldest has no fp16.
SOCS = {"w8a8": ("SM8750", "SM8350"), "w8a16": ("SM8750", "SM8350"), "fp16": ("SM8750", "SM8450")}
TILES_COMPARED = 16
_KEY = ("target", "scheme", "runtime")
_SCORES = ("drop_db", "tiling_drop_db", "quantization_drop_db")


def measure(
    artifact: Artifact,
    set_name: str,
    options: argparse.Namespace,
    references: References,
    progress: Progress,
    *,
    compared: bool,
) -> list[dict[str, Any]]:
    """Rows of one artifact on one set, one for each runtime that measures its accuracy here.

    ``compared``: also compare it level by level with the network in PyTorch.
    """
    start = time.monotonic()
    report = verify_artifacts(
        [artifact.path],
        data=options.data,
        sets=[set_name],
        references=references,
        thorough=True,
        progress=progress,
    )
    matrix: AgreementMatrix | None = None
    if compared:
        (matrix,) = measure_agreement(
            [artifact],
            data=options.data,
            sets=["Set5"],
            references=references,
            tiles=options.tiles,
            diverging=False,
            thorough=True,
            progress=progress,
        )
    meta = artifact.meta
    rows = []
    for runtime in dict.fromkeys(row.runtime for row in report.rows):
        scored = {row.set_name: row for row in report.rows if row.runtime == runtime}
        rows.append(
            {
                "target": meta.target,
                "scheme": meta.scheme,
                "runtime": runtime,
                "title": RUNTIMES[runtime].title,
                "overlap": meta.overlap,
                "size_bytes": meta.size_bytes,
                "delegates": meta.delegation.delegates,
                "ops_outside": dict(meta.delegation.ops_outside),
                "compiled": plain(meta.to_json().get("compiled")),
                "sets": {
                    name: {
                        "psnr_y_db": None if row.artifact is None else row.artifact.psnr_y_db,
                        "float_tiled_psnr_y_db": row.float_tiled.psnr_y_db,
                        "float_whole_psnr_y_db": row.float_whole.psnr_y_db,
                        "reason": row.reason,
                        **{score: getattr(row, score) for score in _SCORES},
                    }
                    for name, row in scored.items()
                },
                "agreement": None if matrix is None else _agreement(matrix, runtime),
                "seconds": time.monotonic() - start,
            }
        )
    return rows


def _agreement(matrix: AgreementMatrix, runtime: str) -> dict[str, Any] | None:
    """How far a runtime is from the network in PyTorch, on tiles of Set5 and noise."""
    own = next((one for one in matrix.participants if one.runtime == runtime and one.reason is None), None)
    reference = next((one for one in matrix.participants if one.name in (FAKE_QUANT, FLOAT)), None)
    pair: Agreement | None = None if own is None or reference is None else matrix.pair(reference.name, own.name)
    if pair is None or reference is None:
        return None
    return {
        "reference": reference.name,
        "tiles": len(matrix.tiles),
        "ran_in": None if own is None else own.runner,
        **_levels(pair),
        "photo_max_levels": matrix.photo_max_levels(pair),
        "pytorch": None if (own_graph := matrix.pair(FAKE_QUANT, QDQ)) is None else _levels(own_graph),
    }


def _levels(pair: Agreement) -> dict[str, Any]:
    return {name: getattr(pair, name) for name in ("share_equal", "share_over_1", "max_levels", "mean_levels")}


class _OneConvolution(nn.Module):
    """A 3x3 convolution of 12 channels on a picture, and a pixel shuffle, which computes nothing."""

    model_name, scale, tile_multiple, context = "one_convolution", 2, 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.rand(self.conv.weight.shape, generator=torch.Generator().manual_seed(0)) / 27)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(self.conv(x), self.scale)  # (B, 3, 2H, 2W)


def measure_exactness(progress: Progress) -> list[dict[str, Any]]:
    """One convolution in each NPU's arithmetic beside the exact one: integers, multiplied and rounded once."""
    tile = (64, 64)
    network = prepare(_OneConvolution().eval(), "w8a8")
    lr = np.random.default_rng(0).integers(0, 256, (*tile, 3), dtype=np.uint8)
    calibrate(network, [to_float(lr)])
    expected = TorchRunner(network, tile=tile).run(lr).astype(np.int16)
    found = []
    with tempfile.TemporaryDirectory(prefix="edge-sr-npu-") as folder:
        for target in ("qnn", "vgf"):
            progress(f"one convolution on {target}", 0, 1)
            artifact = export_artifact(
                network=network,
                scheme="w8a8",
                target=target,
                tile=tile,
                out_dir=Path(folder),
                socs=SOCS["w8a8"] if TARGETS[target].compiles_for_socs else (),
                checkpoint_sha256="0" * 64,
            )
            for runtime in accuracy_runtimes(artifact.meta):
                runner = open_runner(artifact, isolated=True, runtime=runtime)
                with closing_runner(runner):
                    off = np.abs(runner.run(lr).astype(np.int16) - expected)
                facts = {"share_equal": float(np.mean(off == 0)), "max_levels": int(off.max()), "values": off.size}
                found.append({"runtime": runtime, "title": RUNTIMES[runtime].title, **facts})
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="idsa_net_mobile", choices=sorted(MODELS))
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--tile", type=int, default=64, help="height and width of the LR tile (default 64)")
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5/HR, Set14/HR and so on")
    parser.add_argument("--set", dest="sets", action="append", required=True, help="image set; may be given again")
    parser.add_argument("--row", dest="rows", action="append", help="TARGET:SCHEME; may be given again (default all)")
    parser.add_argument("--tiles", type=int, default=TILES_COMPARED, help="tiles of Set5 compared level by level")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "npu", help="for artifacts")
    parser.add_argument("--out", type=Path, help="default results/npu_MODEL_xSCALE.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, row by row; returns the exit status."""
    options = _parse(arguments)
    wanted = [tuple(text.split(":")) for text in options.rows] if options.rows else list(ROWS)
    if unknown := [text for text in wanted if text not in ROWS]:
        raise ConfigError(f"expected rows of {', '.join(map(':'.join, ROWS))}, got {':'.join(unknown[0])}")
    path = options.out or ROOT / "results" / f"npu_{options.model}_x{options.scale}.json"
    subject = Subject(model=options.model, scale=options.scale, tile=(options.tile, options.tile), work=options.work)
    weights = subject.hashes()
    with progress_bars() as progress:
        if not path.exists() or options.again:
            _keep(path, options, weights, [], exactness=measure_exactness(progress))
        references = References((), progress=progress)
        for target, scheme in wanted:
            if options.again:
                _keep(path, options, weights, [], dropped=(target, scheme))
            for set_name in options.sets:
                own = [row for row in _kept(path, weights) if (row["target"], row["scheme"]) == (target, scheme)]
                if own and all(set_name in row["sets"] for row in own):
                    continue
                socs = SOCS[scheme] if TARGETS[target].compiles_for_socs else ()
                artifact = subject.artifact(target, scheme, socs=socs)
                rows = measure(artifact, set_name, options, references, progress, compared=not own)
                _keep(path, options, weights, rows)
    return 0


def _kept(path: Path, weights: dict[str, str]) -> list[dict[str, Any]]:
    """Rows measured of these weights so far."""
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    return list(content["rows"]) if content.get("weights") == weights else []


def _keep(
    path: Path,
    options: argparse.Namespace,
    weights: dict[str, str],
    fresh: list[dict[str, Any]],
    *,
    exactness: list[dict[str, Any]] | None = None,
    dropped: tuple[str, str] | None = None,
) -> None:
    """Write the file anew with fresh rows, in the table's order, and what was there before of the same weights.

    A fresh row of a target, scheme and runtime that is there already adds its set to it. Rows of the target and scheme
    ``dropped`` go.
    """
    if exactness is None and path.exists():
        exactness = json.loads(path.read_text(encoding="utf-8")).get("one_convolution")
    rows = [row for row in _kept(path, weights) if (row["target"], row["scheme"]) != dropped]
    for row in fresh:
        known = next((old for old in rows if all(old[name] == row[name] for name in _KEY)), None)
        if known is None:
            rows.append(row)
        else:
            known["sets"] |= row["sets"]
            known["seconds"] += row["seconds"]
    rows.sort(key=lambda row: ROWS.index((row["target"], row["scheme"])))
    content = {
        "model": options.model,
        "scale": options.scale,
        "tile": [options.tile, options.tile],
        "weights": weights,
        "npu_tools": _npu_tools(),
        "one_convolution": exactness or [],
        "rows": rows,
    }
    command = ["python", "-m", "scripts.measure_npu", *relative(sys.argv[1:])]
    write_json(path, envelope("npu", Section(content=plain(content)), command=command))
    print(f"wrote {len(fresh)} rows to {path.name}", file=sys.stderr)


def _npu_tools() -> dict[str, str]:
    try:
        return tool_versions()
    except MissingToolError:
        return {}


if __name__ == "__main__":
    run_script(main)
