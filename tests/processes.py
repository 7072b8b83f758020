"""Processes that do something at the same time as a test, or are killed in the middle of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def process(script: str, *words: Path | str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed its first line, ``ready``, and is gone at the end."""
    command = [sys.executable, "-c", script, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline().strip() == "ready"
            yield child
        finally:
            child.kill()


def all_at_once(script: str, several: Sequence[Sequence[Path | str]]) -> list[str]:
    """Run a script in several processes, each with its own words; what they print, in order.

    Each prints ``ready`` and reads a line, which all get when all are ready.
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in several
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == "ready", child.communicate()[1]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        ended = [(*child.communicate(timeout=300), child.returncode) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert all(code == 0 for _, _, code in ended), "\n".join(errors for _, errors, _ in ended)
    return [output.strip() for output, _, _ in ended]
