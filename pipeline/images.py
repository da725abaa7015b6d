"""Opening image files of any kind as RGB."""

import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError

MAX_PIXELS = 200_000_000
"""Larger images are refused before they are decoded (about 600 MB as RGB)."""


def open_image(file: Path, at_least: int | None = None) -> Image.Image:
    """Return the image as RGB, upright by its EXIF orientation, transparency on white.

    With ``at_least``, a JPEG may come at a half, quarter or eighth of its size, each side still
    that many pixels: it is decoded several times as fast.
    Raises InputError naming the file if it is missing, empty, truncated, too large or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise InputError(
                        f"{file} has {opened.width} x {opened.height} pixels, "
                        f"more than the {MAX_PIXELS:,} allowed."
                    )
                if at_least is not None:
                    opened.draft(None, (at_least, at_least))
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I;16"):  # 16-bit grey; a plain convert would clip it
                    image = image.convert("I").point(lambda value: value / 256).convert("L")
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                return image.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except UnidentifiedImageError:
        size = file.stat().st_size
        raise InputError(
            f"{file} is {'empty' if size == 0 else 'not an image that can be read'}."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from None
