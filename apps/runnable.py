"""Whether this machine can execute an artifact at all, asked before anything is loaded."""

from __future__ import annotations

import sys

COREML_REASON = "cannot run here: Core ML predicts on macOS only"


def reason_not_runnable(target: str) -> str | None:
    """Why no artifact of ``target`` can run on this system, or None where it may.

    A missing package is no such reason: it can be installed, so it is reported as an error with its cure.
    """
    if target == "coreml" and sys.platform != "darwin":
        return COREML_REASON
    return None
