"""What ``edge-sr history`` shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.history.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class HistoryReport:
    """Measurements of the file ``path``, oldest first."""

    path: Path
    measurements: tuple[Measurement, ...]

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "measurements": [measurement.to_json() for measurement in self.measurements]}
