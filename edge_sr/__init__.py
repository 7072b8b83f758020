"""Super-resolution ground: networks, images, data, metrics, tiling, training, checkpoints.

Needs torch, numpy and pillow only; anything heavier is imported inside the function that uses it.
"""

from __future__ import annotations

from edge_sr.errors import EdgeSRError

__version__ = "0.1.0"

__all__ = ["EdgeSRError", "__version__"]
