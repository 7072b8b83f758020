"""The picture formats that are written: what each can carry, and how large it can be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_sr.errors import ImageError
from edge_sr.photos.metadata import Metadata

# A JPEG segment holds 65,533 bytes, its own name ("Exif\0\0", "http://ns.adobe.com/xap/1.0/\0") among them.
_JPEG_EXIF_BYTES, _JPEG_XMP_BYTES = 65527, 65504


@dataclass(frozen=True, kw_only=True)
class Format:
    """A picture format.

    Attributes:
        name: Pillow's.
        most_side: largest width and height in pixels.
        alpha, deep, grey: whether it has transparency, 16 bits, one channel.
        frames: "frames" of an animation, "pages", or None for one picture a file.
        keeps: kinds of metadata, as :attr:`Metadata.held` names them.
        by_rows: written row by row; a whole picture has to be in memory otherwise.
        palette: holds 256 colours a picture.
    """

    name: str
    most_side: int
    alpha: bool
    deep: bool
    grey: bool
    frames: str | None
    keeps: frozenset[str]
    by_rows: bool = False
    palette: bool = False


_PROFILE_AND_TEXT = frozenset({"ICC profile", "EXIF", "XMP"})
_PNG = Format(
    name="PNG",
    most_side=2**31 - 1,
    alpha=True,
    deep=True,
    grey=True,
    frames="frames",
    keeps=_PROFILE_AND_TEXT | {"resolution", "gamma", "comments"},
    by_rows=True,
)
_JPEG = Format(
    name="JPEG",
    most_side=65500,  # libjpeg's JPEG_MAX_DIMENSION
    alpha=False,
    deep=False,
    grey=True,
    frames=None,
    keeps=_PROFILE_AND_TEXT | {"resolution", "comments"},
)
_WEBP = Format(
    name="WEBP", most_side=16383, alpha=True, deep=False, grey=False, frames="frames", keeps=_PROFILE_AND_TEXT
)
_TIFF = Format(
    name="TIFF",
    most_side=2**31 - 1,
    alpha=True,
    deep=True,
    grey=True,
    frames="pages",
    keeps=_PROFILE_AND_TEXT | {"resolution"},
    by_rows=True,
)
_GIF = Format(
    name="GIF",
    most_side=65535,
    alpha=True,
    deep=False,
    grey=True,
    frames="frames",
    keeps=frozenset({"comments"}),
    palette=True,
)
FORMATS: dict[str, Format] = {
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".gif": _GIF,
}


def format_of(path: Path, *, frames: bool = False) -> Format:
    """The format that a file's suffix asks for, of one picture or of several.

    Raises:
        ImageError: a suffix that is not written, or not for that.
    """
    fitting = {suffix: one for suffix, one in FORMATS.items() if (one.frames if frames else not one.palette)}
    found = fitting.get(path.suffix.lower())
    if found is None:
        several = " of several pictures" if frames else ""
        raise ImageError(f"expected an image name{several} ending in {', '.join(fitting)}, got {path.name}")
    return found


def check_size(path: Path, height: int, width: int) -> None:
    """Raise ImageError where ``path``'s format cannot hold a picture of that size."""
    most = FORMATS[path.suffix.lower()].most_side
    if max(height, width) > most:
        raise ImageError(
            f"expected at most {most:,} pixels a side in {path.suffix.lower()}, got {width}x{height} for {path.name}; "
            "write a .png or .tif file instead"
        )


def writes_grey(path: Path, metadata: Metadata, *, alpha: bool, bits: int) -> bool:
    """Whether a grey picture is stored as one channel: the format has it, and a profile is not one of RGB.

    Pillow 13.0 reads no TIFF of grey and alpha in 16 bits, so those are written as RGBA.
    """
    target = FORMATS[path.suffix.lower()]
    readable = not (target is _TIFF and alpha and bits > 8)
    return target.grey and readable and metadata.icc_space in (None, "grey")


def fitted(path: Path, metadata: Metadata, *, grey: bool) -> tuple[Metadata, tuple[str, ...]]:
    """What of ``metadata`` the format of ``path`` can carry, and the names of what it cannot.

    Args:
        path: file to write.
        metadata: of the photo.
        grey: one channel of colour is written; a profile has to be of the same kind.
    """
    target = FORMATS[path.suffix.lower()]
    lost = {name for name, there in metadata.held.items() if there and name not in target.keeps}
    if metadata.icc is not None and metadata.icc_space != ("grey" if grey else "RGB"):
        lost.add("ICC profile")
    if target is _JPEG:
        lost |= {"EXIF"} if len(metadata.exif or b"") > _JPEG_EXIF_BYTES else set()
        lost |= {"XMP"} if len(metadata.xmp or b"") > _JPEG_XMP_BYTES else set()
    kept = Metadata(
        icc=None if "ICC profile" in lost else metadata.icc,
        exif=None if "EXIF" in lost else metadata.exif,
        xmp=None if "XMP" in lost else metadata.xmp,
        dpi=None if "resolution" in lost else metadata.dpi,
        gamma=None if "gamma" in lost else metadata.gamma,
        chromaticities=None if "gamma" in lost else metadata.chromaticities,
        comments={} if "comments" in lost else metadata.comments,
    )
    return kept, tuple(sorted(lost))
