"""Which artifacts a typed path means: a folder of one, anything inside of it, or a folder with several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_sr.errors import ConfigError


def artifacts_at(paths: Sequence[Path]) -> list[Path]:
    """The artifact folders that paths mean, each once, in order.

    A file or folder inside of an artifact means it; a folder means the artifacts in it, or where it has none, those in
    the folders in it, by name. Anything else stays as it is: reading it says what is wrong.
    """
    return list(dict.fromkeys(folder for path in paths for folder in _meant(path)))


def one_artifact_at(path: Path) -> Path:
    """The one artifact folder that a path means.

    Raises:
        ConfigError: it means several; the message lists them.
    """
    found = _meant(path)
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in found)
        raise ConfigError(f"expected one artifact, got {path} with {len(found)}: {names}; name one of them")
    return found[0]


def _meant(path: Path) -> list[Path]:
    from converters.artifact_meta import META_FILE

    if path.exists():
        for folder in (path, *path.parents):
            if (folder / META_FILE).is_file():
                return [folder]
        for pattern in (f"*/{META_FILE}", f"*/*/{META_FILE}"):
            found = sorted(file.parent for file in path.glob(pattern)) if path.is_dir() else []
            if found:
                return found
    return [path]
