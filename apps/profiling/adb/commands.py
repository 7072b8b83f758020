"""Command lines for the tools on the device, and what their failures mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from apps.profiling.adb.adb import Done, last_line
from converters.artifact import TensorSpec

BACKEND_FLAGS = {"xnnpack": "--use_xnnpack=true", "gpu": "--use_gpu=true", "nnapi": "--use_nnapi=true"}
BACKENDS = tuple(BACKEND_FLAGS)
WARMUP_RUNS = 3
INPUT_FILE = "input.bin"
# executor_runner adds the number of the output to the name it is given.
OUTPUT_BASE = "output"
OUTPUT_FILES = {"benchmark_model": "output.bin", "executor_runner": "output-0.bin"}
# Both tools' flags for feeding an input and keeping the output; older builds lack them.
TENSOR_FLAGS = frozenset(
    ("input_layer", "input_layer_shape", "input_layer_value_files", "output_filepath", "inputs", "output_file")
)
_UNKNOWN_FLAG = ("Unconsumed cmdline flags", "unknown command line flag", "Unrecognized commandline flag")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One call of a tool, inside its folder on the device.

    Attributes:
        tool: ``benchmark_model`` or ``executor_runner``.
        model: name of the model file there.
        runs, max_seconds: timed runs, and when ``benchmark_model`` stops before that many.
        input_spec: of the model; the call reads :data:`INPUT_FILE` where it is set.
        write_output: write what the model computes, for comparison.
    """

    tool: str
    model: str
    threads: int
    backend: str
    runs: int
    max_seconds: float
    input_spec: TensorSpec | None = None
    write_output: bool = False

    def arguments(self) -> tuple[str, ...]:
        """The tool's own arguments."""
        return self._benchmark_model() if self.tool == "benchmark_model" else self._executor_runner()

    def _benchmark_model(self) -> tuple[str, ...]:
        single = self.write_output
        words = [
            f"--graph={self.model}",
            f"--num_threads={self.threads}",
            f"--num_runs={self.runs}",
            f"--min_secs={0 if single else 1}",
            f"--max_secs={self.max_seconds:g}",
            f"--warmup_runs={1 if single else WARMUP_RUNS}",
            f"--warmup_min_secs={0 if single else 0.5}",
            BACKEND_FLAGS[self.backend],
        ]
        if self.input_spec is not None:
            # The tool only warns where the name is not the tensor's, and separates with these two characters.
            name = self.input_spec.name if not set(self.input_spec.name) & set(":,") else "input"
            words += [
                f"--input_layer={name}",
                f"--input_layer_shape={','.join(map(str, self.input_spec.shape))}",
                f"--input_layer_value_files={name}:{INPUT_FILE}",
            ]
        if self.write_output:
            words.append(f"--output_filepath={OUTPUT_FILES['benchmark_model']}")
        return tuple(words)

    def _executor_runner(self) -> tuple[str, ...]:
        runs = self.runs if self.write_output else self.runs + WARMUP_RUNS
        words = [f"--model_path={self.model}", f"--num_executions={runs}", f"--cpu_threads={self.threads}"]
        if self.input_spec is not None:
            words.append(f"--inputs={INPUT_FILE}")
        if self.write_output:
            words.append(f"--output_file={OUTPUT_BASE}")
        return tuple(words)


def unknown_flags(text: str) -> tuple[str, ...]:
    """Names of the flags that a tool's log says it does not know.

    ``benchmark_model`` warns of them and goes on without; ``executor_runner`` ends at once.
    """
    lines = [line for line in text.splitlines() if any(words in line for words in _UNKNOWN_FLAG)]
    names = [name for line in lines for name in re.findall(r"--(\w+)|flag '(\w+)'", line)]
    return tuple(dict.fromkeys(first or second for first, second in names))


def explain(done: Done, tool: str, device: str) -> str:
    """One line for a tool that failed: expected, got, cure."""
    text, status = done.text, done.status
    expected = f"expected {tool} to run on {device}, got"
    if "not executable" in text or "Exec format error" in text or "exec format error" in text:
        return f"{expected} a program for another processor ({last_line(text)}); get the one for this device's ABI"
    if "CANNOT LINK EXECUTABLE" in text:
        return f"{expected} a missing library ({last_line(text)}); use a build that links statically"
    if "No space left" in text:
        return f"{expected} a full storage; delete something on the device"
    if "taskset" in text and status in (126, 127):
        return f"{expected} no taskset to pin it with ({last_line(text)}); measure unpinned only"
    if "Permission denied" in text or status == 126:
        return (
            f"{expected} permission denied ({last_line(text)}); the folder on the device must allow programs "
            "(/data/local/tmp does)"
        )
    if status == 127:
        return f"{expected} nothing that can be started ({last_line(text)}); use a build made with the Android NDK"
    if status != 0 and unknown_flags(text):
        return f"{expected} a build that does not know a flag ({_flag_line(text)}); use a newer one"
    if status == 137:
        return (
            f"{expected} killed (exit 137), mostly for lack of memory; close apps there, or export with a smaller tile"
        )
    if status in (132, 134, 135, 136, 139):
        names = {132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 139: "SIGSEGV"}
        return f"{expected} a crash ({names[status]}) after: {last_line(text)}; try another build of it"
    return f"{expected} exit {status}: {last_line(text)}"


def _flag_line(text: str) -> str:
    own = (line for line in text.splitlines() if any(words in line for words in _UNKNOWN_FLAG))
    return " ".join(next(own, "").split())[:200]
