"""Picture files as people have them: any depth, turned, transparent, too large or damaged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nas_theseus.errors import DataError

_SIXTEEN_BITS = 65_535
_THIRTY_ONE_BITS = 2**31 - 1
# With a greatest value above this, whole numbers surely use all of their 32 bits.
_SURELY_DEEP = 2**24
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)
_MOST_LOOKED_AT = 64


def read_picture(path: str | Path) -> Image.Image:
    """A picture as RGB with 8 bits, upright, and on white where it is transparent.

    Raises:
        DataError: the file is damaged or too large, or it is not known what white is in it.
    """
    try:
        _refuse_no_file(path)
        with Image.open(path) as image:
            return upright_rgb(image)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} is too large: {error}; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS in the "
            "space file if you trust it"
        ) from error
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    except DAMAGE as error:
        raise DataError(f"{path} is not a readable image: {error}; remove it") from error


def _refuse_no_file(path: str | Path) -> None:
    """Refuse a folder, and a pipe, which would be waited for; links to pictures are usual."""
    if Path(path).exists() and not Path(path).is_file():
        raise OSError("it is no file")


def eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 or 32 bits or floats scaled to 8 bits; others as they are.

    PIL itself clips them, so that all but the darkest pixels come out white.

    Raises:
        DataError: it is not known what white is; the message goes on from the picture's name.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64)
    least, greatest = float(values.min()), float(values.max())
    if image.mode == "F":
        white, meant = 1.0, "floats must be between 0 and 1"
        known = 0 <= least <= greatest <= 1
    else:
        white = float(_SIXTEEN_BITS if greatest <= _SIXTEEN_BITS else _THIRTY_ONE_BITS)
        meant = "of 32 bits either 65,535 or 2,147,483,647 is white"
        known = least >= 0 and not _SIXTEEN_BITS < greatest <= _SURELY_DEEP
    if not known:
        raise DataError(
            f"has values from {least:g} to {greatest:g}, and {meant}; save it with 8 or 16 bits"
        )
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))


def as_input(image: Image.Image) -> Image.Image:
    """An open image upright, with 8 bits, and in colours where it had a palette.

    Raises:
        DataError: it is not known what white is; the message goes on from the picture's name.
    """
    image = eight_bits(ImageOps.exif_transpose(image))
    return image.convert("RGB") if image.mode == "P" else image


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if not image.has_transparency_data:
        return False
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(least, int | float) and least < 255


def count_transparent(paths: Sequence[str]) -> tuple[int, int]:
    """How many pictures are transparent somewhere, of how many that were looked at.

    At most 64 are, spread evenly. Damaged ones are left for when they are used.
    """
    looked_at = paths[:: -(-len(paths) // _MOST_LOOKED_AT)]
    found = 0
    for path in looked_at:
        try:
            _refuse_no_file(path)
            with Image.open(path) as image:
                found += is_transparent(image)
        except (Image.DecompressionBombError, *DAMAGE):
            continue
    return found, len(looked_at)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An open image as RGB with 8 bits, upright, and on white where it is transparent.

    Raises:
        DataError: it is not known what white is; the message goes on from the picture's name.
    """
    image = eight_bits(ImageOps.exif_transpose(image))
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")
