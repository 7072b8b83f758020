"""Print constraints.txt: every package of this environment, pinned. ``make lock`` calls it."""

from __future__ import annotations

from importlib import metadata

HEADER = "# Every package, pinned as measured together (Python 3.11). Written by `make lock`; pip takes it with -c."
# pip comes with the interpreter; edge-sr is this project.
LEFT_OUT = frozenset({"pip", "edge-sr"})


def pins() -> list[str]:
    """``name==version`` of each installed package, sorted; a build's local label (``+cpu``) is left out."""
    found = {dist.metadata["Name"]: dist.version.partition("+")[0] for dist in metadata.distributions()}
    return [
        f"{name}=={version}"
        for name, version in sorted(found.items(), key=lambda item: item[0].lower())
        if name.lower() not in LEFT_OUT
    ]


if __name__ == "__main__":
    print("\n".join([HEADER, *pins()]))
