"""Write docs/images/crops.png: sample photos as LR, bicubic, float, int8 and HR, side by side.

    python scripts/crops.py

The int8 column is the TFLite artifact's own output. The photos come with scikit-image and are CC0.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from apps.exporting import export_artifacts
from apps.figures import Panel, crop_panels, most_different_window, write_comparison
from apps.scripting import run_script
from apps.weights import resolve_weights
from converters.artifact import load_artifact
from converters.runners import open_runner
from edge_sr.datasets import ImagePair, load_image_sets
from edge_sr.errors import ConfigError, ConversionError
from edge_sr.metrics import psnr_y
from edge_sr.resize import bicubic_resize
from edge_sr.runner import Runner, TorchRunner
from edge_sr.tiling import upscale_image

ROOT = Path(__file__).resolve().parent.parent
MODEL, SCALE = "idsa_net_mobile", 4
PHOTOS = ("chelsea", "coffee")
WINDOW = 96


def row(pair: ImagePair, float_runner: Runner, int8_runner: Runner, *, overlap: int) -> tuple[Panel, ...]:
    """One photo's panels, cut where float and bicubic differ most."""
    scale = float_runner.scale
    bicubic = bicubic_resize(pair.lr, pair.hr.shape[0], pair.hr.shape[1])
    float_sr = upscale_image(float_runner, pair.lr)
    int8_sr = upscale_image(int8_runner, pair.lr, overlap=overlap)
    top, left = most_different_window(float_sr, bicubic, WINDOW)
    window = (top // scale * scale, left // scale * scale)  # on the LR grid, so that all panels show one place
    panels = [Panel(label=f"LR ({pair.name})", image=pair.lr)]
    for label, image in (("bicubic", bicubic), ("float", float_sr), ("int8 .tflite", int8_sr)):
        panels.append(Panel(label=label, image=image, note=f"{psnr_y(image, pair.hr, crop_border=scale):.2f} dB"))
    panels.append(Panel(label="HR", image=pair.hr))
    return crop_panels(panels, window=window, size=WINDOW)


def main(arguments: list[str] | None = None) -> int:
    """Export int8 TFLite, upscale the photos, write the picture; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "crops.png")
    out: Path = parser.parse_args(arguments).out
    float_runner = TorchRunner(resolve_weights(MODEL, SCALE, "fp32").network)
    (samples,) = load_image_sets(None, None, SCALE)
    pairs = [pair for pair in samples if pair.name in PHOTOS]
    if len(pairs) != len(PHOTOS):
        raise ConfigError(
            f"expected the sample photos {', '.join(PHOTOS)}, got {', '.join(pair.name for pair in samples)}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        export = export_artifacts(
            model=MODEL, scale=SCALE, schemes=("w8a8",), targets=("tflite",), out_dir=Path(scratch)
        )
        if export.failures:
            raise ConversionError(f"expected the int8 artifact, got none: {export.failures[0].error}")
        artifact = load_artifact(export.paths[0])
        int8_runner = open_runner(artifact)
        rows = [row(pair, float_runner, int8_runner, overlap=artifact.meta.overlap) for pair in pairs]
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"wrote {write_comparison(out, rows, side=192, overwrite=True)}")
    return 0


if __name__ == "__main__":
    run_script(main)
