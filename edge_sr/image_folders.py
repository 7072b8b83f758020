"""Which files of a folder are images, and what else lies there."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_sr.images import IMAGE_SUFFIXES

# What systems put into folders of pictures.
_NOBODYS_FILES = ("Thumbs.db", "desktop.ini")
# Hidden folders, macOS's archive leftovers, and what network disks and Windows keep beside files.
_HIDDEN_FOLDERS = (".", "__MACOSX", "@eaDir", "$")


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder by name; hidden ones, archives, ``Thumbs.db``, ``.mat`` files and the like left out."""
    return sorted(
        file
        for file in _entries(folder)
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def images_below(folder: Path, *, without: re.Pattern[str] | None = None) -> list[Path]:
    """Images of all folders inside a folder, by path; ``without`` folders of that name. Links to folders are not
    followed."""
    return [file for inner in _walk(folder, without) if inner != folder for file in image_files(inner)]


def other_files(folder: Path, *, below: bool) -> list[Path]:
    """Visible files of a folder, with those ``below`` it in other folders, that are no images and may be missed."""
    folders = _walk(folder) if below else (folder,)
    files = [file for inner in folders for file in sorted(_entries(inner)) if file.is_file()]
    return [
        file
        for file in files
        if file.suffix.lower() not in IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.name not in _NOBODYS_FILES
    ]


def describe_suffixes(files: Sequence[Path]) -> str:
    """``3 files (2 .heic, 1 .txt)``, the most frequent first; nothing for no files."""
    if not files:
        return ""
    counted = Counter(file.suffix.lower() or "without a suffix" for file in files)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counted.items(), key=lambda kind: -kind[1]))
    return f"{len(files)} file{'s' if len(files) > 1 else ''} ({kinds})"


def subfolders(folder: Path) -> list[Path]:
    """Visible folders inside a folder, by name; macOS's archive leftovers left out."""
    return sorted(entry for entry in _entries(folder) if entry.is_dir() and not entry.name.startswith(_HIDDEN_FOLDERS))


def _walk(folder: Path, without: re.Pattern[str] | None = None) -> Iterator[Path]:
    """A folder, then the visible folders inside it, by name."""
    for path, names, _ in os.walk(folder):
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(_HIDDEN_FOLDERS) and (without is None or not without.fullmatch(name))
        )
        yield Path(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except PermissionError:  # such as lost+found at the root of a disk
        return []
