"""Whether this machine can execute an artifact at all, and be timed at it, asked before anything is loaded."""

from __future__ import annotations

import sys

from converters.targets import TARGETS

COREML_REASON = "cannot run here: Core ML predicts on macOS only"


def reason_not_runnable(target: str) -> str | None:
    """Why no artifact of ``target`` can run on this system, or None where it may.

    A missing package is no such reason: it can be installed, so it is reported as an error with its cure.
    """
    if target == "coreml" and sys.platform != "darwin":
        return COREML_REASON
    return None


def reason_not_timed(target: str) -> str | None:
    """Why no artifact of ``target`` is timed on this system, or None where it may be."""
    if target in TARGETS and TARGETS[target].emulated:
        return "no latency: what runs here emulates the NPU, and its time says nothing of a phone's"
    return reason_not_runnable(target)
