"""Small checks of one operator that the accelerators' tables are built from.

Each returns a check: operator -> what is wrong, or None.
"""

from __future__ import annotations

from apps.lint.graph import Op
from apps.lint.rules import Check


def no_support(reason: str = "") -> Check:
    """Broken by every operator."""
    return lambda op: reason or f"{op.kind} is not among the supported operators"


def rank_at_most(most: int) -> Check:
    """No tensor has more axes than this; constants of shape and axes do not count."""

    def check(op: Op) -> str | None:
        rank = max(tensor.rank for tensor in op.tensors)
        return None if rank <= most else f"{rank} axes, at most {most} are taken"

    return check


def not_dilated(op: Op) -> str | None:
    """A convolution without dilation."""
    return f"dilation {dilation(op)}" if dilation(op) > 1 else None


def dilation(op: Op) -> int:
    """Largest dilation of a convolution; 1 where there is none."""
    return max(map(int, op.options.get("dilations", (1,))))
