"""Types of pictures in memory: (H, W, channels) arrays of whole levels, 255 or 65535 for white."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Levels = NDArray[np.uint8 | np.uint16]
# For what gives back the type that it was given.
Pixels = TypeVar("Pixels", bound=Levels)
