"""What a person touches: the command line and the same steps as plain functions.

``from apps import export_artifacts, verify_artifacts, profile_artifacts, upscale_photos, run_demo``. Each function is
imported from its module on first use, so that ``edge-sr --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apps.catalogue import list_models
    from apps.demo import run_demo
    from apps.doctor import examine
    from apps.exporting import export_artifacts
    from apps.figures import write_comparison
    from apps.profiling.host import profile_artifacts
    from apps.report import write_report
    from apps.training import train_float, train_quantized
    from apps.upscaling.batch import upscale_photos
    from apps.verification.accuracy import verify_artifacts
    from apps.verification.gate import enforce

__all__ = [
    "enforce",
    "examine",
    "export_artifacts",
    "list_models",
    "profile_artifacts",
    "run_demo",
    "train_float",
    "train_quantized",
    "upscale_photos",
    "verify_artifacts",
    "write_comparison",
    "write_report",
]

_HOMES = {
    "enforce": "apps.verification.gate",
    "examine": "apps.doctor",
    "export_artifacts": "apps.exporting",
    "list_models": "apps.catalogue",
    "profile_artifacts": "apps.profiling.host",
    "run_demo": "apps.demo",
    "train_float": "apps.training",
    "train_quantized": "apps.training",
    "upscale_photos": "apps.upscaling.batch",
    "verify_artifacts": "apps.verification.accuracy",
    "write_comparison": "apps.figures",
    "write_report": "apps.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'apps' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
