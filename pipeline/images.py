"""Opening image files of any kind as RGB, and making small JPEGs of them."""

import base64
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError

MAX_PIXELS = 200_000_000
"""Larger images are refused before they are decoded (about 600 MB as RGB)."""


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, as Pillow names it; some others would start programs (EPS) or are no pictures."""


def endings() -> set[str]:
    """Return the file name endings of ``FORMATS``, in lower case with their dots."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def open_image(
    file: Path, content: bytes | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Return the image as RGB, upright by its EXIF orientation, transparency on white.

    ``content``, where given, is decoded instead of the file, which then only names it in errors.
    Raises InputError naming the file if it is missing, empty, truncated, no image, or has more
    than ``max_pixels`` (``MAX_PIXELS`` by default).
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            source = file if content is None else io.BytesIO(content)
            with Image.open(source, formats=FORMATS) as opened:
                if opened.width * opened.height > limit:
                    raise InputError(
                        f"{file} has {opened.width} x {opened.height} pixels, "
                        f"more than the {limit:,} allowed."
                    )
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
        size = file.stat().st_size if content is None else len(content)
        raise InputError(
            f"{file} is {'empty' if size == 0 else 'not an image that can be read'}."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from None


def small_jpeg(image: Image.Image, longest_side: int, quality: int = 90) -> bytes:
    """Return an RGB image as JPEG, its longest side at most ``longest_side`` pixels."""
    small = image.copy()
    small.thumbnail((longest_side, longest_side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def data_url(image: Image.Image, longest_side: int) -> str:
    """Return what ``small_jpeg`` does as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(small_jpeg(image, longest_side)).decode()
