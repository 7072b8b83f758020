"""Whether this machine can execute an artifact at all, or for its time, asked before anything is loaded."""

from __future__ import annotations

import sys

COREML_REASON = "cannot run here: Core ML predicts on macOS only"
# Target -> why a computer's time of it is no measurement.
_EMULATED = {"vgf": "not timed here: computers run it in a reference model, whose time says nothing of a phone's"}


def reason_not_runnable(target: str) -> str | None:
    """Why no artifact of ``target`` can run on this system, or None where it may.

    A missing package is no such reason: it can be installed, so it is reported as an error with its cure.
    """
    if target == "coreml" and sys.platform != "darwin":
        return COREML_REASON
    return None


def reason_not_timed(target: str) -> str | None:
    """Why the time that an artifact of ``target`` takes on this system would say nothing, or None where it may."""
    return _EMULATED.get(target) or reason_not_runnable(target)
