"""The other end of :mod:`converters.isolation`: a process that does what it is asked, until it dies or is ended."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from converters.artifact import load_artifact, with_main_file
from converters.isolation import receive, send
from converters.runners import open_here
from edge_sr.errors import EdgeSRError, RunnerError
from edge_sr.pixels import Levels
from edge_sr.runner import DeepRunner, Runner, is_deep


def main() -> None:
    """Answer requests from standard input until it ends."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = _private_streams()
    runner: Runner | None = None
    while (message := receive(requests)) is not None:
        fields, data = message
        try:
            answer, result = {}, b""
            match fields["do"]:
                case "open":
                    loaded = load_artifact(Path(fields["artifact"]), compare_computation=False)
                    runner = open_here(
                        with_main_file(loaded, fields["file"]), threads=fields["threads"], runtime=fields["runtime"]
                    )
                    answer = {"name": runner.name, "deep": is_deep(runner)}
                case "run":
                    answer, result = _run(runner, fields, data)
                case "call":
                    answer = {"result": _call(fields["function"], fields["arguments"])}
            send(answers, answer, result)
        except EdgeSRError as error:
            send(answers, {"error": type(error).__name__, "message": str(error)})
        # Whatever else a toolchain raises has to reach the parent as a line, not as a traceback.
        except Exception as error:  # noqa: BLE001
            line = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            send(answers, {"error": RunnerError.__name__, "message": f"expected {fields['do']} to work, got {line}"})
    # Not sys.exit: a runtime that crashes while it frees its memory (seen with executorch 1.4.1) has done its work.
    os._exit(0)


def ping(value: Any = None) -> Any:
    """Return ``value``: the smallest function that shows a child works."""
    return value


def _run(runner: Runner | None, fields: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    if runner is None:
        raise RunnerError("expected an open runner, got none; open an artifact first")
    lr = np.frombuffer(data, dtype=np.dtype(fields["dtype"])).reshape(fields["shape"]).copy()
    sr: Levels
    if lr.dtype == np.uint8:
        sr = runner.run(lr)
    elif isinstance(runner, DeepRunner):
        sr = runner.run_deep(lr)
    else:
        raise RunnerError(f"expected uint8 for {runner.name}, got {lr.dtype}")
    return {"shape": list(sr.shape)}, np.ascontiguousarray(sr).tobytes()


def _call(path: str, arguments: dict[str, Any]) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)(**arguments)


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output as binary streams of our own; what anything prints goes to standard error."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


if __name__ == "__main__":
    main()
