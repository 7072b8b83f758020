"""``edge-sr upscale``: photos made larger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.commands.options import MOST_THREADS, Checkpoint, Json, Overwrite, choice, save, working
from apps.streams import complain
from edge_sr.errors import ConfigError

# No defaults of the options: an artifact brings its own, and what was typed beside one has to be refused.
_MODEL, _SCALE = "idsa_net_mobile", 4

if TYPE_CHECKING:
    from apps.upscaling.batch import Forecast
    from apps.upscaling.photo import UpscaleResult


def upscale(
    photos: Annotated[
        list[Path], typer.Argument(help="Photos, and folders, searched with all folders in them.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            "--out",
            help="File for one photo (.png, .tif, .jpg, .webp), or a folder. Default: photo_x4.png beside each photo.",
            show_default=False,
        ),
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            help="Artifact folder, or anything in it. Default: the float network in PyTorch.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        choice("--model", known="edge_sr.networks:MODELS", help=f"Network; see edge-sr models. Default: {_MODEL}."),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", help=f"Upscaling factor: 2, 3 or 4. Default: {_SCALE}.")
    ] = None,
    checkpoint: Checkpoint = None,
    image_format: Annotated[
        str | None,
        choice(
            "--format",
            known=("png", "tif", "tiff", "jpg", "jpeg", "webp"),
            help="png, tif, jpg or webp for names made here. Default: png.",
        ),
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames", help="All pictures of a GIF, WebP, APNG or TIFF file, not the first alone.")
    ] = False,
    background: Annotated[
        str, typer.Option("--background", help="Colour under transparency in JPEG: a name or #rrggbb.")
    ] = "white",
    strip_metadata: Annotated[
        bool,
        typer.Option("--strip-metadata", help="Leave out EXIF, GPS, XMP and comments; the colour profile stays."),
    ] = False,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", help="Largest photo that is read.", min=0.000001)
    ] = 100,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave results that are there: go on where a run ended.")
    ] = False,
    overlap: Annotated[
        int | None, typer.Option("--overlap", help="LR pixels shared by neighbouring tiles. Default: the artifact's.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", help="CPU threads. Default: all physical cores.", min=1, max=MOST_THREADS, show_default=False
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_file: Json = None,
) -> None:
    """Make photos larger, through fixed tiles with overlap.

    Colour profile, EXIF, transparency, grey and 16 bits are kept as far as format and runner can; what is not is said.
    --model, --scale and --checkpoint choose the float network; an artifact brings its own.

    Not for: photos with visible JPEG blocks, noise or motion blur, and small text. The networks learned to undo a clean
    reduction, so they sharpen such faults with everything else.
    """
    from apps.formatting import format_licence
    from apps.terminal import say
    from apps.upscaling.batch import upscale_photos
    from apps.upscaling.photo import PhotoOptions
    from apps.upscaling.runners import UpscalerChoice

    options = PhotoOptions(
        overlap=overlap,
        frames=frames,
        strip_metadata=strip_metadata,
        background=_colour(background),
        max_megapixels=max_megapixels,
    )
    if artifact is not None and (model is not None or scale is not None):
        raise ConfigError("an artifact has its own network and scale, got --model or --scale beside it; leave them out")
    chosen = UpscalerChoice(
        artifact=artifact,
        model=_MODEL if model is None else model,
        scale=_SCALE if scale is None else scale,
        checkpoint=checkpoint,
        threads=threads,
    )

    def announce(forecast: Forecast) -> None:
        say(_announced(forecast))
        if forecast.weights_license:
            say(format_licence(forecast.weights_license))

    with working(json_file) as progress:
        report = upscale_photos(
            photos,
            output,
            choice=chosen,
            options=options,
            suffix=None if image_format is None else f".{image_format.lower().lstrip('.')}",
            skip_existing=skip_existing,
            overwrite=overwrite,
            announce=announce,
            progress=progress,
        )
    for result in report.photos:
        say(_done(result))
    if report.skipped:
        say(f"{len(report.skipped)} left as they were: their results exist")
    save("upscale", report, json_file)
    for failure in report.failures:
        complain(f"{failure.source.name}: {failure.reason}")
    if report.failures:
        raise typer.Exit(1)


def _announced(forecast: Forecast) -> str:
    height, width = forecast.sr_size
    what = f"{width}x{height} pixels" if forecast.photos == 1 else f"{forecast.photos} photos, at most {width}x{height}"
    tiles = f"{forecast.tiles:,} tile{'s' if forecast.tiles > 1 else ''}"
    time = "" if forecast.seconds is None else f", about {_duration(forecast.seconds)}"
    return f"{what}, {tiles}{time}, {forecast.memory_bytes / 1e9:.1f} GB, with {forecast.name}"


def _done(result: UpscaleResult) -> str:
    (low, high), notes = (result.lr_size, result.sr_size), "".join(f"; {note}" for note in result.notes)
    frames = f", {result.frames} pictures" if result.frames > 1 else ""
    return f"{result.output}: {low[1]}x{low[0]} -> {high[1]}x{high[0]}{frames}, {result.seconds:.1f} s{notes}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'s' if whole > 1 else ''}"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _colour(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except ValueError:
        raise ConfigError(f"expected a colour for --background, got {text!r}; write white or #ffffff, say") from None
    return red, green, blue
