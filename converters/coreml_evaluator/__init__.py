"""Execute a saved ``.mlpackage`` on any operating system: its MIL program and its weight bytes, op by op in torch."""

from __future__ import annotations

from converters.coreml_evaluator.evaluator import NOTE, VERSION, Evaluator, Precision

__all__ = ["NOTE", "VERSION", "Evaluator", "Precision"]
