"""The command line, ``edge-sr``: commands are registered here, and every error becomes one line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from apps.commands import (
    costs,
    diffing,
    history,
    linting,
    looking,
    making,
    measuring,
    planning,
    sensitivity,
    training,
    upscaling,
    verifying,
)
from apps.commands.help_page import HelpPage, examples
from apps.destinations import own_stdout
from apps.streams import complain, prepare_streams
from edge_sr import __version__
from edge_sr.errors import EdgeSRError
from edge_sr.signals import INTERRUPTED, ended_like_interrupted, interrupted_status

_ARTIFACT = "out/artifacts/idsa_net_mobile_x4_w8a8_tflite_128x128"

app = typer.Typer(
    name="edge-sr",
    help="Super-resolution for phones: export, verify and profile int8 artifacts.",
    epilog=examples("edge-sr demo", "edge-sr COMMAND --help", "edge-sr --install-completion"),
    rich_markup_mode=None,  # rich takes longer to import than all the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        from apps.machine import package_version

        print(f"edge-sr {package_version('edge-sr') or __version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def _add(command: Callable[..., None], *lines: str) -> None:
    """Register a command, with examples at the end of its help page."""
    app.command(cls=HelpPage, epilog=examples(*lines))(command)


_add(
    making.export,
    "edge-sr export --out out/artifacts",
    "edge-sr export --scheme fp32 --scheme w8a8 --target tflite --tile 128x128 --out out/artifacts",
    "edge-sr export --checkpoint runs/mine.safetensors --scheme w8a8 --calibration photos --out out/mine",
)
_add(
    verifying.verify,
    f"edge-sr verify {_ARTIFACT}",
    "edge-sr verify out/artifacts/* --data benchmarks --set Set5 --set Set14 --max-drop 0.05",
    "edge-sr verify out/artifacts/* --full --set Set5 --data benchmarks --out out/verify",
    "edge-sr verify out/artifacts/* --max-drop 0.05 --junit verify.xml --annotations github",
    "edge-sr verify out/mine/* --checkpoint runs/mine.safetensors --json verify.json",
)
_add(
    measuring.profile,
    f"edge-sr profile {_ARTIFACT}",
    "edge-sr profile out/artifacts/*tflite* --device host --threads 1 --threads 2 --json latency.json",
)
_add(costs.layers, f"edge-sr layers {_ARTIFACT}", f"edge-sr layers {_ARTIFACT} --figure layers.png --json layers.json")
_add(costs.roofline, f"edge-sr roofline {_ARTIFACT}", "edge-sr roofline out/artifacts/*tflite* --threads 1 --threads 2")
_add(
    planning.plan,
    "edge-sr plan out/artifacts/*w8a8_tflite* --image 1000x750 --ram 512MB",
    "edge-sr plan out/artifacts/* --image 1000x750 --threads 1 --threads 2 --json plan.json",
)
_add(
    upscaling.upscale,
    "edge-sr upscale photo.jpg",
    f"edge-sr upscale photo.heic scans -o large --format jpg --artifact {_ARTIFACT}",
    "edge-sr upscale moving.gif -o large.webp --frames",
)
_add(making.demo, "edge-sr demo", "edge-sr demo --out out/demo --target tflite")
_add(
    training.train,
    "edge-sr train --preset trial --out runs/trial",
    "edge-sr train --model idsa_net_mobile --data photos --minutes 30 --out runs/mobile_x4",
    "edge-sr train --config mine.toml --data photos --init runs/x4/network.safetensors --out runs/mobile_x3",
    "edge-sr train --data photos --cooldown 2000 --out runs/endless",
    "torchrun --nproc-per-node 2 -m apps.cli train --data photos --out runs/mobile_x4",
)
_add(
    training.qat,
    "edge-sr qat --checkpoint runs/mobile_x4/network.safetensors --data photos --out runs/w8a8.safetensors",
    "edge-sr qat --checkpoint FLOAT --data photos --steps 1000 --scale-lr 2e-5 --out QUANTIZED",
)
_add(
    sensitivity.sensitivity,
    "edge-sr sensitivity --out out/sensitivity",
    "edge-sr sensitivity --checkpoint runs/mine.safetensors --data photos --variants --json sensitivity.json",
    "edge-sr sensitivity --model idsa_net --checkpoint NETWORK --no-search --latency --tile 64x64",
)
_add(
    linting.lint,
    f"edge-sr lint {_ARTIFACT}",
    "edge-sr lint out/artifacts/* --for xnnpack --for ane --fail-on error --figure lint.png",
)
_add(
    diffing.diff,
    "edge-sr diff out/old/idsa_net_mobile_x4_w8a8_tflite_128x128 out/new/idsa_net_mobile_x4_w8a8_tflite_128x128",
    f"edge-sr diff {_ARTIFACT} out/artifacts/idsa_net_mobile_x4_w8a8_executorch_128x128 --images 1",
    f"edge-sr diff {_ARTIFACT} out/mine/model_w8a8 --data benchmarks --set Set5 --json diff.json",
)
_add(history.history, "edge-sr history", "edge-sr history --model idsa_net_mobile --device host --figure history.png")
_add(
    history.compare,
    "edge-sr compare out/artifacts/NAME_fp32_tflite_128x128 out/artifacts/NAME_w8a8_tflite_128x128 --threads 1",
    "edge-sr compare 'NAME*@..2026-01-31' 'NAME*@2026-02-01..' --fail-on-slower --figure compare.png",
)
_add(looking.models, "edge-sr models", "edge-sr models --json models.json")
_add(looking.doctor, "edge-sr doctor", "edge-sr doctor --quick")


@own_stdout()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``edge-sr`` and return its exit status.

    Args:
        arguments: words after the program's name; default those of this process.
    Returns:
        0; 1 where something looked at is broken, or differs; 2 for bad input or a step that failed; 3 where a gate
        failed; 130 after Ctrl-C, and 143 after SIGTERM, which does the same. Every failure prints one line on stderr,
        never a traceback for anything a user can cause.
    """
    prepare_streams()
    try:
        with ended_like_interrupted():
            command = typer.main.get_command(app)
            words = None if arguments is None else list(arguments)
            status = command.main(args=words, prog_name="edge-sr", standalone_mode=False)
    except TyperException as error:
        return _fail(_usage(error), 2)
    except EdgeSRError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}; check the path, its permissions and the space on the disk", 2)
    except MemoryError:
        return _fail("expected enough memory, got none left; close other programs or give less at once", 2)
    except UnicodeEncodeError as error:
        return _fail(f"expected names of files in {error.encoding}, got {error.object!r}; rename it", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except typer.Abort:
        return _fail("expected an answer, got the end of the input", 2)
    except SystemExit as end:  # where Typer itself is done, as after --show-completion
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    if status == INTERRUPTED:  # which is what Typer makes of Ctrl-C, without a word
        return _fail("interrupted; nothing half-written was left", INTERRUPTED)
    return int(status or 0)


def _usage(error: TyperException) -> str:
    """The line for words that make no command: what is wrong, where to look, and what was probably meant."""
    options = getattr(error, "possibilities", None) or ()
    # "Value error" is how the library behind Typer begins what its own checks say.
    text = (error.message if options else error.format_message()).replace("Value error, ", "")
    said, _, commands = text.partition(". Did you mean ")
    near = commands.removesuffix("?") or " or ".join(options)
    context = getattr(error, "ctx", None)
    page = "edge-sr" if context is None else context.command_path
    return f"{said.removesuffix('.')}; see {page} --help" + (f"; did you mean {near}?" if near else "")


def _fail(message: str, status: int) -> int:
    complain(message)
    return interrupted_status() if status == INTERRUPTED else status


if __name__ == "__main__":
    sys.exit(main())
