"""``edge-sr train`` and ``edge-sr qat``: commands that train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from apps.commands.options import Json, Model, Overwrite, Scale, choice, save, working
from apps.destinations import check_folder
from edge_sr.errors import EdgeSRError

_CACHE = Path(".cache/pools")

Photos = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder of photos. Default: sample photos, enough for a trial only.", show_default=False
    ),
]
Cache = Annotated[Path, typer.Option("--cache", help="Folder for packed photos.")]


class Interrupted(EdgeSRError):
    """Ctrl-C during training: the run is saved and can go on."""

    exit_code = 130


@contextmanager
def resumable(where: Path) -> Iterator[None]:
    """Turn Ctrl-C into one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the same command goes on from {where}") from None


def train(
    out: Annotated[Path, typer.Option("--out", help="The run's folder; a run in it goes on.", show_default=False)],
    model: Model = "idsa_net_mobile",
    scale: Scale = 4,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML settings in place of those for --model and --scale.", show_default=False),
    ] = None,
    data: Photos = None,
    preset: Annotated[
        str | None,
        choice(
            "--preset",
            known=("trial",),
            help="trial: two minutes of the whole way; on an idle laptop it passes bicubic.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Length of the run, in place of the settings'.", min=1)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Length by the clock; compiling does not count.", min=0.01)
    ] = None,
    cooldown: Annotated[
        int | None,
        typer.Option("--cooldown", help="Finish the endless run in --out, in a folder in it, within N steps.", min=1),
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", help="Checkpoint to start from, of any scale.", show_default=False)
    ] = None,
    stop_at: Annotated[
        int | None, typer.Option("--stop-at", help="Leave after this step; the run can go on later.", min=1)
    ] = None,
    cache: Cache = _CACHE,
    json_file: Json = None,
) -> None:
    """Train a float network.

    Interrupt it when you like: the same command goes on where it was.

    --data: photos of any size, searched in all folders below; LR is made from them. In --out: network.safetensors
    (averaged weights, there however the run ends), log.jsonl, snapshot.pt. Give one of --steps, --minutes, --cooldown.

    Bundled settings: edge_sr/training/configs/*.toml, for x4; copy one to change batch, crops, rate or seed. A GPU is
    taken where there is one. With schedule = "constant" a run has no end; --minutes then is how long it goes on now.
    """
    from apps.terminal import say
    from apps.training import train_float
    from edge_sr.training.distributed import is_first_process

    with resumable(out), working(json_file, folder=out) as progress:
        report = train_float(
            out,
            model=model,
            scale=scale,
            config=config,
            trial=preset == "trial",
            steps=steps,
            minutes=minutes,
            cooldown=cooldown,
            data=data,
            init=init,
            cache=cache,
            stop_at=stop_at,
            progress=progress,
        )
    if not is_first_process():
        return  # under torchrun one process speaks for all
    unfinished = "" if report.finished else ", unfinished: the same command without a limit goes on"
    say(
        f"{report.model} x{report.scale}: {report.steps} steps in {report.seconds:.0f} s, {report.psnr_y_db:.3f} dB "
        f"on held-out photos (bicubic {report.bicubic_psnr_y_db:.3f} dB); {report.checkpoint}{unfinished}"
    )
    if report.psnr_y_db < report.bicubic_psnr_y_db:
        say("that is below bicubic: too few steps for this machine or these photos; train longer (--minutes)")
    save("train", report, json_file)


def qat(
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", help="Float checkpoint: start and teacher.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint file to write.", show_default=False)],
    scheme: Annotated[
        str, choice("--scheme", known="quantization.schemes:SCHEMES", help="w8a8 or w8a8_mixed.")
    ] = "w8a8",
    data: Photos = None,
    steps: Annotated[int, typer.Option("--steps", help="Training steps.", min=1)] = 600,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="By the clock, packing and ranges included; --steps bounds it.", min=0.01),
    ] = None,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate of the weights.")] = 3e-4,
    scale_lr: Annotated[
        float, typer.Option("--scale-lr", help="Learning rate of the activations' scales; 0 keeps the ranges.")
    ] = 3e-4,
    distillation_weight: Annotated[
        float, typer.Option("--distillation-weight", help="Weight of the loss to the float network's picture.")
    ] = 1.0,
    hr_weight: Annotated[
        float, typer.Option("--hr-weight", help="Weight of an L1 loss to the HR photo; alone with no distillation.")
    ] = 0.0,
    ema_decay: Annotated[float, typer.Option("--ema-decay", help="Decay of averaged weights; 0 for none.")] = 0.97,
    batch: Annotated[int, typer.Option("--batch", help="Crops per step.", min=1)] = 8,
    patch: Annotated[int, typer.Option("--patch", help="LR pixels along a crop's side.", min=8)] = 48,
    hold_out: Annotated[
        int | None,
        typer.Option(
            "--hold-out", help="Photos kept for choosing the best state. Default: as many as the float run kept.", min=1
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the crops.")] = 1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Convolutions in bfloat16.")] = False,
    cache: Cache = _CACHE,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Quantize a float network, and train it in int8.

    It learns to give the float network's pictures. The state with the best PSNR on held-out photos is kept. Interrupt
    it when you like: the same command goes on.
    """
    from apps.terminal import say
    from apps.training import train_quantized
    from edge_sr.training.distributed import is_first_process
    from quantization.qat import QATConfig

    settings = QATConfig(
        steps=steps,
        learning_rate=lr,
        scale_learning_rate=scale_lr,
        distillation_weight=distillation_weight,
        hr_weight=hr_weight,
        ema_decay=ema_decay,
        bf16=bf16,
    )
    check_folder(out.parent, "--out")
    with resumable(out.with_name(out.name + ".snapshot")), working(json_file) as progress:
        report = train_quantized(
            out,
            checkpoint=checkpoint,
            scheme=scheme,
            config=settings,
            minutes=minutes,
            data=data,
            batch=batch,
            patch=patch,
            hold_out=hold_out,
            seed=seed,
            cache=cache,
            overwrite=overwrite,
            progress=progress,
        )
    if not is_first_process():
        return
    say(
        f"{report.model} x{report.scale} {report.scheme}: float {report.float_psnr_y_db:.3f} dB, after calibration "
        f"{report.start_psnr_y_db:.3f} dB, after {report.best_step} of {report.steps} steps {report.psnr_y_db:.3f} dB "
        f"on held-out photos; {report.checkpoint}"
    )
    save("qat", report, json_file)
