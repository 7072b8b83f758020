"""LiteRT's own operator profile, through the C interface of the library in the ``ai-edge-litert`` wheel.

The wheel's Python interpreter has no profiler, its ``CompiledModel`` none that Python reaches, but ``libLiteRt.so``
exports LiteRT's C functions, and its XNNPACK delegate times every operator it runs. Signatures, the layout of an event
and the names of the options are those of ai-edge-litert 2.3.0; what is read is checked against itself (one ``Invoke``,
operators numbered from 0), so a later layout becomes an error and not a number.

A wrong pointer ends the process: use :func:`profile_ops` through :func:`converters.isolation.run_in_child`.
"""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.profiling.host_child import WARMUP_RUNS
from converters.artifact import load_artifact
from converters.runners import open_runner
from converters.runners.stored import from_stored, to_stored
from edge_sr.errors import MissingToolError, RunnerError
from edge_sr.quiet import quiet_native

# litert_common.h and litert_tensor_buffer_types.h
_CPU, _WRITE, _READ = 1, 1, 0
# tflite/core/api/profiler.h: an operator outside of delegates, and one that a delegate reports.
_OPERATOR, _DELEGATED = 1 << 1, 1 << 3
_DEFAULT = 1
_NO_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
# Larger than a LiteRtRankedTensorType (a type, a rank, eight sizes, eight strides).
_TYPE_BYTES = 512
# Another build of the same kernels may round once otherwise.
_LEVELS_ALLOWED = 1


class _Event(ctypes.Structure):
    """``ProfiledEventData``; each memory reading is three 64-bit numbers."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


@dataclass(frozen=True, kw_only=True)
class OpEvent:
    """One operator of one run: the runtime's name for it, its number in its delegate, its whole microseconds."""

    name: str
    index: int
    elapsed_us: int


def profile_ops(*, artifact: str, threads: int, runs: int, max_seconds: float) -> dict[str, Any]:
    """Run a TFLite artifact with and without the profiler, in turns, in this process.

    Args:
        artifact: path of the folder.
        threads: CPU threads.
        runs: runs of either kind.
        max_seconds: stop after this long, but never before ten runs of either kind.
    Returns:
        ``names`` of the operators in order; ``op_us``: one list of whole microseconds per operator; ``plain_ms``:
        wall-clock milliseconds of as many runs without the profiler; ``invoke_us``: the profiler's time of whole runs.
    Raises:
        MissingToolError: ai-edge-litert, or its library, is not installed.
        RunnerError: LiteRT refused something, gave another picture than its interpreter, or unreadable events.
    """
    loaded = load_artifact(Path(artifact))
    io = loaded.meta.io[loaded.meta.main_file]
    tile = np.random.default_rng(0).integers(0, 256, (*loaded.meta.tile, 3), dtype=np.uint8)
    stored = np.ascontiguousarray(to_stored(tile[np.newaxis], io.input))
    plain = CompiledModel(loaded.main_path, threads=threads, profiled=False)
    timed = CompiledModel(loaded.main_path, threads=threads, profiled=True)
    expected = open_runner(loaded, threads=threads).run(tile).astype(np.int16)
    for model in (plain, timed):
        model.write(stored)
        for _ in range(WARMUP_RUNS):
            model.run()
        found = from_stored(model.read(io.output.shape, io.output.dtype)[0], io.output, loaded.meta.main_file)
        worst = int(np.abs(found.astype(np.int16) - expected).max())
        if worst > _LEVELS_ALLOWED:
            raise RunnerError(f"expected the interpreter's picture from {loaded.path}, got one {worst} levels off")
    names: tuple[str, ...] = ()
    op_us: list[list[int]] = []
    plain_ms: list[float] = []
    invoke_us: list[int] = []
    start = time.perf_counter()
    while len(plain_ms) < runs and (len(plain_ms) < min(10, runs) or time.perf_counter() - start <= max_seconds):
        plain_ms.append(plain.run())
        whole_us, events = timed.run_profiled()
        invoke_us.append(whole_us)
        if not names:
            names, op_us = tuple(event.name for event in events), [[] for _ in events]
        if tuple(event.name for event in events) != names:
            raise RunnerError(f"expected the same operators in every run of {loaded.path}, got others; report this")
        for samples, event in zip(op_us, events, strict=True):
            samples.append(event.elapsed_us)
    return {"names": names, "op_us": op_us, "plain_ms": plain_ms, "invoke_us": invoke_us}


class CompiledModel:
    """A TFLite file with one input and one output on LiteRT's CPU accelerator. Freed when the process ends.

    Args:
        path: the file.
        threads: CPU threads.
        profiled: build it with LiteRT's profiler.
    Raises:
        MissingToolError, RunnerError: as for :func:`profile_ops`.
    """

    def __init__(self, path: Path, *, threads: int, profiled: bool) -> None:
        self._path = path
        self._library = _open_library()
        self._keep: list[Any] = []
        self._environment, model, options = self._pointer(), self._pointer(), self._pointer()
        with quiet_native():
            self._call("CreateEnvironment", ctypes.c_int(0), None, ctypes.byref(self._environment))
            name = str(path).encode()
            self._call("CreateModelFromFile", self._environment, name, ctypes.byref(model))
            self._call("CreateOptions", ctypes.byref(options))
            self._call("SetOptionsHardwareAccelerators", options, ctypes.c_int(_CPU))
            self._add_options(options, "xnnpack", f"num_threads = {threads}\n")
            if profiled:
                self._add_options(options, "runtime_options_string", "enable_profiling = true\n")
            self._model = self._pointer()
            self._call("CreateCompiledModel", self._environment, model, options, ctypes.byref(self._model))
            self._input = self._buffer(model, "Input")
            self._output = self._buffer(model, "Output")
        self._inputs = (ctypes.c_void_p * 1)(self._input.value)
        self._outputs = (ctypes.c_void_p * 1)(self._output.value)
        self._run = self._library.LiteRtRunCompiledModel
        self._profiler = self._pointer()
        if profiled:
            self._call("CompiledModelGetProfiler", self._model, ctypes.byref(self._profiler))
            if not self._profiler.value:
                raise RunnerError(f"expected a profiler for {path} from LiteRT, got none: seen to work in 2.3.0")

    def write(self, stored: NDArray[Any]) -> None:
        """Fill the input."""
        address = self._lock(self._input, _WRITE, stored.nbytes)
        ctypes.memmove(address, stored.ctypes.data, stored.nbytes)
        self._call("UnlockTensorBuffer", self._input)

    def read(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Copy the output."""
        found: NDArray[Any] = np.empty(shape, dtype=dtype)
        address = self._lock(self._output, _READ, found.nbytes)
        ctypes.memmove(found.ctypes.data, address, found.nbytes)
        self._call("UnlockTensorBuffer", self._output)
        return found

    def run(self) -> float:
        """Run once; wall-clock milliseconds."""
        one = ctypes.c_size_t(1)
        start = time.perf_counter()
        status = self._run(self._model, ctypes.c_size_t(0), one, self._inputs, one, self._outputs)
        took = (time.perf_counter() - start) * 1000.0
        if status != 0:
            raise RunnerError(f"expected LiteRT to run {self._path}, got status {status}; export it again")
        return took

    def run_profiled(self) -> tuple[int, list[OpEvent]]:
        """Run once with the profiler on: whole microseconds of the run, and the operators in order.

        The profiler's own reading of the run, not the clock's: it adds milliseconds of bookkeeping around each.
        """
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        self.run()
        self._call("StopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("GetNumProfilerEvents", self._profiler, ctypes.byref(count))
        # Twice the room that is needed: a longer event of another version is caught below, not written past the end.
        events = (_Event * (2 * max(count.value, 1)))()
        self._call("GetProfilerEvents", self._profiler, count, events)
        return self._read_events(list(events[: count.value]))

    def _read_events(self, events: list[_Event]) -> tuple[int, list[OpEvent]]:
        known = {_DEFAULT << shift for shift in range(9)}
        readable = all(event.kind in known for event in events)
        invokes = [event for event in events if readable and event.kind == _DEFAULT and event.tag == b"Invoke"]
        found = [
            OpEvent(name=event.tag.decode(errors="replace"), index=event.index, elapsed_us=event.elapsed_us)
            for event in events
            if readable and event.kind in (_OPERATOR, _DELEGATED)
        ]
        if len(invokes) != 1 or not found or sum(op.elapsed_us for op in found) > 1.5 * invokes[0].elapsed_us + 1000:
            raise RunnerError(
                f"expected operators inside of one Invoke of {self._path}, got events of another form; "
                "this reads those of ai-edge-litert 2.3.0"
            )
        return int(invokes[0].elapsed_us), found

    def _add_options(self, options: ctypes.c_void_p, identifier: str, toml: str) -> None:
        payload, keep = ctypes.create_string_buffer(toml.encode()), _NO_DESTRUCTOR(lambda _: None)
        self._keep += [payload, keep]
        made = self._pointer()
        address = ctypes.cast(payload, ctypes.c_void_p)
        self._call("CreateOpaqueOptions", identifier.encode(), address, keep, ctypes.byref(made))
        self._call("AddOpaqueOptions", options, made)

    def _buffer(self, model: ctypes.c_void_p, side: str) -> ctypes.c_void_p:
        signature, tensor, needs, made = self._pointer(), self._pointer(), self._pointer(), self._pointer()
        kind = ctypes.create_string_buffer(_TYPE_BYTES)
        first = ctypes.c_size_t(0)
        self._call("GetModelSignature", model, first, ctypes.byref(signature))
        self._call(f"GetSignature{side}TensorByIndex", signature, first, ctypes.byref(tensor))
        self._call("GetRankedTensorType", tensor, kind)
        self._call(f"GetCompiledModel{side}BufferRequirements", self._model, first, first, ctypes.byref(needs))
        self._call("CreateManagedTensorBufferFromRequirements", self._environment, kind, needs, ctypes.byref(made))
        return made

    def _lock(self, buffer: ctypes.c_void_p, mode: int, size: int) -> int:
        held = ctypes.c_size_t()
        self._call("GetTensorBufferPackedSize", buffer, ctypes.byref(held))
        if held.value != size:
            raise RunnerError(f"expected a buffer of {size} bytes for {self._path}, got {held.value}; export it again")
        address = self._pointer()
        self._call("LockTensorBuffer", buffer, ctypes.byref(address), ctypes.c_int(mode))
        assert address.value is not None
        return address.value

    def _pointer(self) -> ctypes.c_void_p:
        return ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status != 0:
            raise RunnerError(
                f"expected LiteRt{name} to work on {self._path}, got status {status}; seen to work in 2.3.0"
            )


def _open_library() -> ctypes.CDLL:
    spec = find_spec("ai_edge_litert")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    for path in (folder / f"libLiteRt{suffix}" for folder in folders):
        if path.is_file():
            library = ctypes.CDLL(str(path))
            if hasattr(library, "LiteRtCompiledModelGetProfiler"):
                return library
    raise MissingToolError(
        "LiteRT's operator profile needs libLiteRt with its profiler; pip install ai-edge-litert (2.3.0 has it)"
    )
