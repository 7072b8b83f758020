"""What a photo takes while it is made larger, beside the runtime and its model."""

from __future__ import annotations

from edge_sr.photos.formats import FORMATS
from edge_sr.photos.reading import PhotoHeader

# Pillow keeps four bytes a pixel whatever it decodes; 16-bit colour is decoded twice.
_DECODED_BYTES = 4
# Rows of tiles that are being finished: computed, changed, encoded.
_BAND_COPIES = 3
# Indices of the nearest visible pixel, the mask that they come from.
_FILL_BYTES = 9
# Formats that are in memory as a whole, bytes a pixel: Pillow's picture, and what libwebp builds to lose nothing
# (1.35 GB for 48 megapixels, libwebp 1.6).
_WHOLE_BYTES = {"JPEG": 4, "WEBP": 28}


def picture_bytes(header: PhotoHeader, *, scale: int, tile_height: int, suffix: str = ".png", frames: int = 1) -> int:
    """Bytes that reading, tiling and writing take at their largest.

    Args:
        header: the photo's size, depth and transparency.
        scale: upscaling factor.
        tile_height: LR rows of a tile.
        suffix: of the file written. PNG and TIFF take rows as they are finished; others hold the whole result.
        frames: pictures written together.
    """
    pixels = header.height * header.width
    sample = header.bits // 8
    held = pixels * sample * (4 if header.alpha else 3)
    decoded = pixels * _DECODED_BYTES * sample
    filled = pixels * (_FILL_BYTES + 3 * sample) if header.alpha else 0
    band = _BAND_COPIES * 3 * sample * scale**2 * header.width * min(tile_height, header.height)
    result = scale**2 * pixels
    whole = result * _WHOLE_BYTES.get(FORMATS[suffix].name, 0)
    if frames > 1:
        whole = result * 2 * 4 * sample * frames
    return held + max(decoded, filled, band + whole)
