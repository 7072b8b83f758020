"""A helper process that answers with a JSON file, under a timeout, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_sr.errors import RunnerError


def run_child(
    module: str, arguments: Sequence[str], *, what: str, timeout_s: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run ``python -m module arguments --out FILE`` and return the JSON object it wrote.

    Args:
        module: a module of ours that takes ``--out``.
        arguments: its other arguments.
        what: names the work in errors.
        timeout_s: after this many seconds the process is killed.
        environment: variables on top of this process's own.
    Raises:
        RunnerError: it wrote nothing: killed by a signal, timed out, or ended with an error.
    """
    with tempfile.TemporaryDirectory(prefix="edge-sr-child-") as scratch:
        out = Path(scratch) / "result.json"
        command = [sys.executable, "-m", module, *arguments, "--out", str(out)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunnerError(f"{what}: expected an answer within {timeout_s:.0f} s, got none") from None
        try:
            content = json.loads(out.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunnerError(f"{what}: the process {_how_it_ended(done)}") from None
    if not isinstance(content, dict):
        raise RunnerError(f"{what}: expected a JSON object, got {type(content).__name__}")
    return content


def _how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"was ended by {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"ended with {done.returncode}: {lines[-1] if lines else 'no message'}"
