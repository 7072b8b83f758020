"""Small ML programs for the evaluator's tests: built with coremltools' own builder, saved as packages, evaluated.

The declared shapes and types are coremltools' inference, so the evaluator, which checks them, is checked by them too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from converters.coreml_evaluator import Evaluator, Precision
from converters.coreml_package import write_package
from converters.coreml_toolchain import import_coremltools

Array = npt.NDArray[Any]
SPECIFICATIONS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9}
FLOAT_TYPES = (np.float32, np.float16)


def builder() -> Any:
    """``coremltools.converters.mil.Builder``."""
    import_coremltools()
    from coremltools.converters.mil.mil import Builder

    return Builder


def save_program(path: Path, build: Callable[..., Any], inputs: Mapping[str, Array], *, opset: str = "iOS17") -> Path:
    """Write the program of ``build(**inputs)`` (variables in, one or several variables out) as a package."""
    coremltools = import_coremltools()
    from coremltools.converters.mil.backend.mil.load import load
    from coremltools.converters.mil.mil import Function, Program
    from coremltools.converters.mil.mil.types import numpy_type_to_builtin_type

    mb = builder()
    placeholders = {
        name: mb.placeholder(shape=value.shape, dtype=numpy_type_to_builtin_type(value.dtype))
        for name, value in inputs.items()
    }
    program = Program()
    with Function(placeholders, opset_version=getattr(coremltools.target, opset)) as function:
        made = build(**function.inputs)
        function.set_outputs(list(made) if isinstance(made, (list, tuple)) else [made])
    program.add_function("main", function)
    with tempfile.TemporaryDirectory() as weights_dir:
        spec = load(program, weights_dir, specification_version=SPECIFICATIONS[opset])
        write_package(path, spec=spec, weights_dir=Path(weights_dir))
    return path


def evaluate(
    build: Callable[..., Any],
    inputs: Mapping[str, Array],
    *,
    opset: str = "iOS17",
    precision: Precision = "fp16",
) -> list[Array]:
    """The outputs of ``build``'s program for these inputs, as the evaluator sees them, in the program's order."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_program(Path(folder) / "model.mlpackage", build, inputs, opset=opset)
        evaluator = Evaluator(path, precision=precision)
    outputs = evaluator.run({name: torch.from_numpy(value.copy()) for name, value in inputs.items()})
    return [np.asarray(outputs[feature.name]) for feature in evaluator.outputs]


def assert_close(got: Array, expected: Array, dtype: Any, *, relative: float = 1e-5, absolute: float = 1e-6) -> None:
    """``got`` is ``expected`` (float64) rounded to ``dtype``.

    ``relative`` and ``absolute`` allow for sums and functions in float32; half a unit in the last place of float16
    comes on top where that is the type.
    """
    expected = np.asarray(expected, dtype=np.float64)
    assert got.shape == expected.shape
    allowed = relative * np.abs(expected) + absolute
    if np.dtype(dtype) == np.float16:
        with np.errstate(over="ignore"):
            allowed = allowed + 0.5 * np.spacing(np.abs(expected).astype(np.float16)).astype(np.float64)
    difference = np.abs(got.astype(np.float64) - expected)
    assert np.all(difference <= allowed), (difference.max(), np.argmax(difference - allowed))
