"""Run what may crash in a child process: a runtime that aborts becomes one line of error, and this process lives.

ExecuTorch aborts or crashes on some damaged programs (SIGABRT on random bytes, SIGSEGV on a corrupt middle), which no
``except`` catches. :class:`IsolatedRunner` keeps a runner in a child for as long as it is used;
:func:`run_in_child` calls one function in a child of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact import Artifact
from edge_sr import errors
from edge_sr.errors import EdgeSRError, RunnerError
from edge_sr.pixels import Levels

Image = NDArray[np.uint8]
DEFAULT_TIMEOUT_S = 120.0
# A message is a JSON object, and the bytes of one array where the object says so: two lengths, then both.
_LENGTHS = struct.Struct("<QQ")
_LARGEST_MESSAGE_BYTES = 2**32
_EXIT_WAIT_S = 2.0
_STDERR_TAIL_BYTES = 4096


def run_in_child(
    function: str,
    arguments: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Any:
    """Call ``module:function`` with keyword arguments in a fresh Python process.

    Args:
        function: importable path such as ``converters.isolation_child:ping``; only ever a constant of this project.
        arguments: keyword arguments, JSON-serialisable.
        environment: variables of the child beside those of this process.
        timeout_s: seconds until the child is killed, its start included.
    Returns:
        what the function returned, which must be JSON-serialisable.
    Raises:
        EdgeSRError: the one the function raised, of the same class.
        RunnerError: the child crashed, timed out, or failed in another way; one line.
    """
    with Child(what=function, environment=environment) as child:
        answer, _ = child.ask({"do": "call", "function": function, "arguments": dict(arguments)}, timeout_s=timeout_s)
        return answer["result"]


class IsolatedRunner:
    """Any runner, in a child process. Satisfies :class:`edge_sr.runner.Runner`.

    The child checks the artifact's hashes again before it opens it. A crash or a timeout ends the child; the next
    :meth:`run` then raises at once. Usable as a context manager; otherwise the child ends with this object.

    Args:
        artifact: a verified artifact folder.
        threads: CPU threads of the runtime.
        runtime: as in :func:`converters.runners.open_runner`; None for the target's own.
        environment: variables of the child beside those of this process.
        timeout_s: seconds for opening (importing the runtime included), and for each tile.
    Raises:
        EdgeSRError: what opening the runner raised in the child, of the same class.
        RunnerError: opening crashed or timed out.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int = 1,
        runtime: str | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self.scale: int = artifact.meta.scale
        self.tile: tuple[int, int] | None = artifact.meta.tile
        self.timeout_s = timeout_s
        self._child = Child(what=str(artifact.main_path), environment=environment)
        try:
            request = {
                "do": "open",
                "artifact": str(artifact.path),
                "file": artifact.meta.main_file,
                "threads": threads,
                "runtime": runtime,
            }
            answer, _ = self._child.ask(request, timeout_s=timeout_s)
        except BaseException:
            self.close()
            raise
        self.name: str = answer["name"]
        self.deep: bool = answer["deep"]

    def run(self, lr: Image) -> Image:
        """Enlarge one tile: (h, w, 3) uint8 RGB -> (scale*h, scale*w, 3) uint8 RGB.

        Raises:
            ShapeError: ``lr`` is not uint8 RGB of the tile's size.
            RunnerError: the runner failed, crashed or timed out.
        """
        return self._run(lr).view(np.uint8)

    def run_deep(self, lr: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """As :meth:`run` in 16 bits; RunnerError unless ``deep``."""
        return self._run(lr).view(np.uint16)

    def _run(self, lr: Levels) -> Levels:
        from edge_sr.runner import check_lr  # here: it imports torch, and calling a function in a child needs none

        check_lr(lr, self.tile)
        request = {"do": "run", "shape": list(lr.shape), "dtype": lr.dtype.name}
        answer, data = self._child.ask(request, np.ascontiguousarray(lr).tobytes(), timeout_s=self.timeout_s)
        expected = [self.scale * lr.shape[0], self.scale * lr.shape[1], 3]
        if answer["shape"] != expected:
            raise RunnerError(f"expected a result of shape {expected} from {self.name}, got {answer['shape']}")
        sr: Levels = np.frombuffer(data, dtype=lr.dtype).reshape(expected).copy()
        return sr

    def close(self) -> None:
        """End the child; safe to call twice."""
        self._child.close()

    def __enter__(self) -> IsolatedRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Child:
    """A Python process that answers requests over its standard input and output, one at a time."""

    def __init__(self, *, what: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it. ``what`` names the work in error lines, ``environment`` adds to this process's variables."""
        self.what = what
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the child)
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "converters.isolation_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        )
        self._answers: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        assert self._process.stdout is not None
        # Reading in a thread of its own is the one way to wait with a timeout that also works on Windows.
        threading.Thread(target=_read_answers, args=(self._process.stdout, self._answers), daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self._process, self._stderr)

    @property
    def alive(self) -> bool:
        """Whether it can be asked anything: neither closed nor dead."""
        return self._finalizer.alive and self._process.poll() is None

    def ask(self, request: Mapping[str, Any], data: bytes = b"", *, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Send one request and wait for its answer (a JSON object and raw bytes).

        Raises:
            EdgeSRError: the one that the child raised.
            RunnerError: no answer in time, or the child is gone; it is ended in both cases.
        """
        if not self._finalizer.alive:
            raise RunnerError(f"expected a running child process for {self.what}, got an ended one; open it again")
        deadline = time.monotonic() + timeout_s
        assert self._process.stdin is not None
        # A child that is gone already breaks the pipe; the missing answer below says why it went.
        with contextlib.suppress(OSError):
            send(self._process.stdin, request, data)
        try:
            answer = self._answers.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            self.close()
            raise RunnerError(
                f"expected {self.what} to answer within {timeout_s:g} s, got nothing; its process was ended: "
                "allow more time, or export the artifact again"
            ) from None
        if answer is None:
            raise RunnerError(self._why_it_died())
        fields, received = answer
        if "error" in fields:
            raise _error_class(fields["error"])(fields["message"])
        return fields, received

    def close(self) -> None:
        """End the child; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _why_it_died(self) -> str:
        try:
            code = self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            code = None
        said = _last_line(self._stderr)
        self.close()
        last = f" after {said!r}" if said else ""
        cure = "export the artifact again"
        if code == -signal.SIGKILL:
            cure = "something ended it, for lack of memory perhaps: try again, or export smaller tiles"
        return f"expected {self.what} to run, got {_exit_name(code)} in its process{last}; {cure}"


def send(stream: IO[bytes], fields: Mapping[str, Any], data: bytes = b"") -> None:
    """Write one message and flush."""
    text = json.dumps(fields).encode()
    stream.write(_LENGTHS.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read one message, or None where the stream ends or does not hold one."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    text_size, data_size = _LENGTHS.unpack(lengths)
    if text_size + data_size > _LARGEST_MESSAGE_BYTES:
        return None
    text, data = stream.read(text_size), stream.read(data_size)
    if len(text) < text_size or len(data) < data_size:
        return None
    fields: dict[str, Any] = json.loads(text)
    return fields, data


def _read_answers(stream: IO[bytes], answers: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None]) -> None:
    # ValueError: the stream was closed under the reader, or a dying child left half a message.
    with contextlib.suppress(OSError, ValueError):
        while (answer := receive(stream)) is not None:
            answers.put(answer)
    answers.put(None)


def _end(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _exit_name(code: int | None) -> str:
    if code is None:
        return "silence"
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit status {code}"


def _last_line(stderr: IO[bytes]) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(stderr.tell() - _STDERR_TAIL_BYTES, 0))
    lines = stderr.read().decode(errors="replace").split("\n")
    return next((" ".join(line.split())[:200] for line in reversed(lines) if line.strip()), "")


def _error_class(name: str) -> type[EdgeSRError]:
    found = getattr(errors, name, None)
    return found if isinstance(found, type) and issubclass(found, EdgeSRError) else RunnerError
