"""What comes with a photo's pixels: colour profile, EXIF, XMP, resolution, gamma, comments."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ExifTags
from PIL import Image as PillowImage

# Tags of the first directory that say how a TIFF file stores its pixels, or that travel in fields of their own here
# (resolution, profile, XMP); the rest describes the photo. TIFF 6.0, section 8; Exif 3.0, table 4.
_STORAGE_TAGS = frozenset(
    {*range(254, 260), 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 282, 283, 284, 288, 289, 290, 291, 292}
    | {293, 296, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 338, 339, 340, 341, 347, 529, 530, 531}
    | {532, 700, 34377, 34675, ExifTags.Base.Orientation, *range(512, 522)}
)
# Directories of EXIF below the first: the shot, and the place.
DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_PHOTOSHOP = 34377  # Adobe's block of resources, IPTC among them
_OWN_SHAPE = '{"shape":'  # what tifffile writes about the array that it stored
_XMP_ORIENTATION = re.compile(rb'\s*tiff:Orientation="\d+"|<tiff:Orientation>\s*\d+\s*</tiff:Orientation>')
# An HDR photo's second picture is not kept, so that what announces it would mislead readers.
_GAIN_MAP = b"hdrgm:"
_PROFILE_SPACES = {b"GRAY": "grey", b"RGB ": "RGB", b"CMYK": "CMYK"}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Everything but pixels, as far as some picture format carries it; a field is None or empty where there is none.

    Attributes:
        icc: the ICC profile's bytes.
        exif: EXIF as bytes from its TIFF header on, GPS included; without orientation (pixels are upright) and without
            the thumbnail.
        xmp: the XMP packet.
        dpi: horizontal and vertical pixels per inch.
        gamma: PNG's gAMA, and ``chromaticities`` its cHRM: white, red, green, blue, x and y of each.
        comments: keyword -> text.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None
    comments: Mapping[str, str] = field(default_factory=dict)

    @property
    def icc_space(self) -> str | None:
        """ "grey", "RGB", "CMYK", or the profile's own four letters; None without a profile."""
        if self.icc is None:
            return None
        return _PROFILE_SPACES.get(self.icc[16:20], self.icc[16:20].decode("latin-1"))

    @property
    def held(self) -> dict[str, bool]:
        """Name of each kind -> whether the photo has it; the names are those of notes and JSON."""
        return {
            "ICC profile": self.icc is not None,
            "EXIF": self.exif is not None,
            "XMP": self.xmp is not None,
            "resolution": self.dpi is not None,
            "gamma": self.gamma is not None or self.chromaticities is not None,
            "comments": bool(self.comments),
        }


def read_metadata(opened: PillowImage.Image) -> tuple[Metadata, int, tuple[str, ...]]:
    """Read what Pillow found beside the pixels.

    Args:
        opened: after ``load``; a TIFF file before it, because loading turns those upright and forgets directories.
    Returns:
        the metadata; the EXIF orientation that the pixels still need, 1 to 8; notes of what is not kept.
    """
    info = opened.info
    exif, orientation, notes = _read_exif(opened)
    xmp = info.get("xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if xmp is not None:
        if _GAIN_MAP in xmp:
            xmp, notes = None, [*notes, "the HDR gain map and the XMP that describes it were left out"]
        else:
            xmp = _XMP_ORIENTATION.sub(b"", xmp)
    if "photoshop" in info:
        notes.append("IPTC was left out")
    metadata = Metadata(
        icc=info.get("icc_profile") or None,
        exif=exif,
        xmp=xmp or None,
        dpi=_pair(info.get("dpi")),
        gamma=_number(info.get("gamma")),
        chromaticities=_chromaticities(info.get("chromaticity")),
        comments=_comments(opened),
    )
    return metadata, orientation, tuple(notes)


def resized(metadata: Metadata, height: int, width: int) -> Metadata:
    """The same for a picture of another size: EXIF names its sides."""
    if metadata.exif is None:
        return metadata
    exif = load_exif(metadata.exif)
    sizes = {ExifTags.Base.ExifImageWidth: width, ExifTags.Base.ExifImageHeight: height}
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, size in sizes.items():
        if tag in inner:
            inner[tag] = size
    return replace(metadata, exif=_exif_bytes(exif))


def load_exif(data: bytes) -> PillowImage.Exif:
    """EXIF bytes as Pillow's mapping, directories of its own included."""
    exif = PillowImage.Exif()
    exif.load(data)
    return exif


def _read_exif(opened: PillowImage.Image) -> tuple[bytes | None, int, list[str]]:
    try:
        exif = opened.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        thumbnail = bool(exif.get_ifd(ExifTags.IFD.IFD1)) if opened.format != "TIFF" else False
        data = _described(exif)
        iptc = _PHOTOSHOP in exif
    # Damaged EXIF raises whatever its damage runs into; the picture is whole all the same.
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, struct.error, OverflowError):
        return None, 1, ["EXIF is damaged and was left out"]
    turned_by_loading = opened.format == "TIFF" or orientation not in range(1, 9)
    notes = ["the thumbnail was left out"] * thumbnail + ["IPTC was left out"] * iptc
    return data, 1 if turned_by_loading else int(orientation), notes


def _described(exif: PillowImage.Exif) -> bytes | None:
    """What of EXIF describes the photo; None where nothing does. A copy: Pillow still turns pixels by the original."""
    own = PillowImage.Exif()
    for tag in set(exif) - _STORAGE_TAGS - set(DIRECTORIES):
        own[tag] = exif[tag]
    if str(own.get(ExifTags.Base.ImageDescription, "")).startswith(_OWN_SHAPE):
        del own[ExifTags.Base.ImageDescription]
    for directory in DIRECTORIES:
        found = exif.get_ifd(directory)
        own.get_ifd(directory).update({tag: found[tag] for tag in found if tag != ExifTags.IFD.Interop})
    return _exif_bytes(own) if len(own) or any(own.get_ifd(directory) for directory in DIRECTORIES) else None


def _exif_bytes(exif: PillowImage.Exif) -> bytes:
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _comments(opened: PillowImage.Image) -> dict[str, str]:
    text = getattr(opened, "text", None) or {}
    found = {str(key): str(value) for key, value in text.items() if not str(key).startswith(("XML:", "Raw profile"))}
    comment = opened.info.get("comment")
    if isinstance(comment, bytes) and opened.format in {"JPEG", "MPO", "GIF"}:
        found["Comment"] = comment.decode("utf-8", errors="replace")
    return found


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        across, down = float(value[0]), float(value[1])
    except (TypeError, ValueError, LookupError, ZeroDivisionError):
        return None
    # Below 2 it is an aspect ratio in the guise of a resolution, as JFIF has it.
    return (across, down) if 2 <= across < 1e6 and 2 <= down < 1e6 else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < 100 else None


def _chromaticities(value: Any) -> tuple[float, ...] | None:
    return tuple(float(part) for part in value) if isinstance(value, tuple) and len(value) == 8 else None
