"""Opening image files of any kind as RGB, and making small JPEGs of them."""

import base64
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError

MAX_PIXELS = 200_000_000
"""Larger images are refused before they are decoded (about 600 MB as RGB)."""
LOSSLESS_PIXELS = 128 * 128
"""Images of at most so many pixels are sent without loss: JPEG would blur what little they show."""


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, as Pillow names it; some others would start programs (EPS) or are no pictures."""


def endings() -> set[str]:
    """Return the file name endings of ``FORMATS``, in lower case with their dots."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def read_image(file: Path) -> bytes:
    """Return the bytes of an image file; raises InputError naming it."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from None


def open_image(
    file: Path,
    content: bytes | None = None,
    *,
    at_least: int | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Return the image as RGB, upright by its EXIF orientation, transparency on white.

    ``content``, where given, is decoded instead of the file, which then only names it in errors.
    With ``at_least``, a JPEG may come at a half, quarter or eighth of its size, each side still
    that many pixels: it is decoded several times as fast. Raises InputError naming the file if it
    is missing, empty, truncated, no image, or has more than ``max_pixels`` (``MAX_PIXELS`` by
    default).
    """
    content = read_image(file) if content is None else content
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                if opened.width * opened.height > limit:
                    raise InputError(
                        f"{file} has {opened.width} x {opened.height} pixels, "
                        f"more than the {limit:,} allowed."
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
    except UnidentifiedImageError:
        raise InputError(
            f"{file} is {'not an image that can be read' if content else 'empty'}."
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from None


def encoded(image: Image.Image, longest_side: int, kind: str = "jpeg", quality: int = 90) -> bytes:
    """Return an RGB image as a file's bytes, its longest side at most ``longest_side`` pixels."""
    small = image.copy()
    small.thumbnail((longest_side, longest_side))
    buffer = io.BytesIO()
    small.save(buffer, format=kind, quality=quality)
    return buffer.getvalue()


def data_url(image: Image.Image, longest_side: int) -> str:
    """Return an RGB image as a data URL, its longest side at most ``longest_side`` pixels.

    JPEG, except for small images: those are sent as they are, as PNG.
    """
    kind = "png" if image.width * image.height <= LOSSLESS_PIXELS else "jpeg"
    content = base64.b64encode(encoded(image, longest_side, kind)).decode()
    return f"data:image/{kind};base64,{content}"
