"""Train on a GPU that is at hand for minutes only: photos in, float and quantized weights out, everything by the clock.

    python3 scripts/train_on_gpu.py --data photos --out out --minutes 9

Needs torch (2.11 or later), numpy, pillow, safetensors, rich and typer: no network, no compiler but torch's own. It
runs on a CPU as well, slowly. The same command, with more minutes, goes on where it was cut. In ``--out``:
``network.safetensors``, ``snapshot.pt`` (below 12 MB), ``log.jsonl``, ``config.json``, and the quantized
``network_w8a8.safetensors``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # nothing is installed on a borrowed machine

from apps.scripting import run_script
from apps.training import train_quantized
from edge_sr.training import Progress, Trainer, default_config_path, load_config, open_pool
from edge_sr.training.engine import copied, copy_into
from edge_sr.training.loop import NETWORK
from edge_sr.training.run_folder import RunLock
from quantization.qat import QATConfig

_SHOW_SECONDS = 10.0
_END_SECONDS = 10.0  # for the last validation and the files


class Clock:
    """What is left of the time, and lines that begin with the time that has passed."""

    def __init__(self, minutes: float) -> None:
        self.began, self.minutes, self._shown = time.monotonic(), minutes, -_SHOW_SECONDS

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def minutes_left(self, reserved: float = 0.0) -> float:
        """Minutes to the end, less the reserved ones; at least a second."""
        return max(1 / 60, self.minutes - reserved - (self.seconds + _END_SECONDS) / 60)

    def say(self, line: str) -> None:
        """Print a line now."""
        print(f"{self.seconds:6.1f} s  {line}", flush=True)

    def show(self, line: str) -> None:
        """Print a line where the last one is some time ago."""
        if self.seconds - self._shown >= _SHOW_SECONDS:
            self._shown = self.seconds
            self.say(line)


def train_float(options: argparse.Namespace, clock: Clock) -> None:
    """Train the float network in the time that quantization leaves."""
    path = options.config or default_config_path(options.model, options.scale)
    config = replace(load_config(path), minutes=clock.minutes_left(options.qat_minutes), hold_out=options.hold_out)
    pool = open_pool(
        options.data,
        scale=config.scale,
        cache=options.cache,
        hold_out=config.hold_out,
        progress=lambda done, total: clock.show(f"photos {done} of {total}"),
    )
    clock.say(f"{pool.train_files} images to train on, {len(pool.held_out_images)} held out")
    facts = {"command": "python3 scripts/train_on_gpu.py " + " ".join(sys.argv[1:]), "data": options.data.name}
    trainer = Trainer(config, pool, options.out, init=options.init, metadata=facts, say=clock.say)
    trainer.prepare(lambda: profiled_minutes(trainer, options, clock))
    clock.say(f"training for {60 * trainer.config.minutes:.0f} s on {trainer.processes.describe()}")

    def show(now: Progress) -> None:
        clock.show(
            f"step {now.step}, {100 * (now.done or 0):.0f}%, {now.steps_per_second:.1f} steps/s, loss {now.loss:.5f}, "
            f"held out {now.psnr_y_db:.3f} dB"
        )

    result = trainer.run(show)
    clock.say(f"{result.steps} steps in {result.seconds:.0f} s: {result.psnr_y_db:.3f} dB on held-out photos")


def profiled_minutes(trainer: Trainer, options: argparse.Namespace, clock: Clock) -> float:
    """The time that is left for training once everything is compiled and, where asked for, profiled."""
    if options.profile:
        print(profile(trainer), flush=True)
    return clock.minutes_left(options.qat_minutes)


def profile(trainer: Trainer, steps: int = 20) -> str:
    """What the time of a step is spent on, as a table; the weights stay as they are."""
    position = trainer.position
    phase, sampler = position.phase, trainer.samplers[position.phase.patch]
    places = [sampler.places(phase.batch, seed=0, step=step) for step in range(steps)]
    state = copied(trainer.engine.state())
    with torch.profiler.profile() as measured:
        trainer.engine.run(
            sampler, places, rates=[0.0] * steps, renewals=[0.0] * steps, frozen=position.statistics_are_frozen
        )
    copy_into(trainer.engine.state(), state)
    order = "self_cuda_time_total" if trainer.device.type == "cuda" else "self_cpu_time_total"
    return str(measured.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


def quantize(options: argparse.Namespace, clock: Clock) -> None:
    """Quantization-aware training of what :func:`train_float` left, in the time that is left."""
    report = train_quantized(
        options.out / "network_w8a8.safetensors",
        checkpoint=options.out / NETWORK,
        config=QATConfig(steps=100_000),
        minutes=clock.minutes_left(),
        data=options.data,
        batch=options.qat_batch,
        hold_out=options.hold_out,
        cache=options.cache,
        overwrite=True,
        progress=lambda part, done, total, note="": clock.show(f"{part} {done} of {total} {note}"),
    )
    clock.say(
        f"w8a8: float {report.float_psnr_y_db:.3f} dB, calibrated {report.start_psnr_y_db:.3f} dB, "
        f"trained {report.psnr_y_db:.3f} dB on held-out photos"
    )


def main(arguments: list[str] | None = None) -> int:
    """Train, then quantize."""
    parser = argparse.ArgumentParser(description="Train on a GPU that is at hand for minutes only.")
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, snapshot and log")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything, packing and compiling included")
    parser.add_argument("--qat-minutes", type=float, default=1.0, help="of these for the quantized weights; 0 for none")
    parser.add_argument("--model", default="idsa_net", help="network of the bundled configuration")
    parser.add_argument("--scale", type=int, default=4, help="its upscaling factor")
    parser.add_argument("--config", type=Path, help="TOML configuration in place of the bundled one")
    parser.add_argument("--init", type=Path, help="checkpoint to start from")
    parser.add_argument("--hold-out", type=int, default=20, help="photos kept for validation")
    parser.add_argument("--qat-batch", type=int, default=8, help="crops per step of quantization-aware training")
    parser.add_argument("--profile", action="store_true", help="first show what a step's time is spent on")
    parser.add_argument("--cache", type=Path, default=Path(".cache/pools"), help="folder for packed photos")
    options = parser.parse_args(arguments)
    clock = Clock(options.minutes)
    with RunLock(options.out):
        train_float(options, clock)
    if options.qat_minutes > 0:
        quantize(options, clock)
    clock.say(f"done, in {options.out}")
    return 0


if __name__ == "__main__":
    run_script(main)
