"""``python -m edge_sr`` is ``edge-sr``: people try the name of the package that they import."""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    # By name: the command line is a layer above, which nothing of this package may import.
    runpy.run_module("apps", run_name="__main__")
