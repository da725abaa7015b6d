"""Opening image files of any kind as RGB, and making small JPEGs of them."""

import base64
import contextlib
import io
import os
import re
import stat
import warnings
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError

MAX_PIXELS = 2 * (1 << 30) // 4 // 3
"""Larger images are refused before they are decoded (537 MB as RGB): Pillow's own limit, too."""
MAX_BYTES = 1 << 30
"""Larger files are refused before they are read."""
LOSSLESS_PIXELS = 128 * 128
"""Images of at most so many pixels are sent without loss: JPEG would blur what little they show."""


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, as Pillow names it; some others would start programs (EPS) or are no pictures."""


def endings() -> set[str]:
    """Return the file name endings of ``FORMATS``, in lower case with their dots."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def read_image(file: Path) -> bytes:
    """Return the bytes of an image file; raises InputError naming it.

    Pipes and devices, which may never end, and files above ``MAX_BYTES`` are refused.
    """
    try:
        with open(file, "rb", opener=_without_waiting) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{file} is no regular file.")
            if status.st_size > MAX_BYTES:
                raise InputError(
                    f"{file} has {status.st_size:,} bytes, more than the {MAX_BYTES:,} allowed."
                )
            return stream.read()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as an image: {error}") from None


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe too at once, not only when something writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def open_image(
    file: Path,
    content: bytes | None = None,
    *,
    at_least: int | None = None,
    max_pixels: int | None = None,
    as_stored: bool = False,
    limited_by: str = "runtime.max_pixels",
) -> Image.Image:
    """Return the image as RGB, upright by its EXIF orientation, transparency on white.

    With ``as_stored`` it comes as Pillow opens it: in the file's own mode, its orientation ignored.

    ``content``, where given, is decoded instead of the file, which then only names it in errors.
    With ``at_least``, a JPEG may come at a half, quarter or eighth of its size, each side still
    that many pixels: it is decoded several times as fast. Raises InputError naming the file if it
    is missing, empty, truncated, no image, or has more than ``max_pixels`` (``MAX_PIXELS`` by
    default), which ``limited_by`` sets.
    """
    content = read_image(file) if content is None else content
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if not content:
        raise InputError(f"{file} is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd is read or refused here
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                if opened.width * opened.height > limit:
                    raise InputError(
                        f"{file} has {opened.width} x {opened.height} pixels, more than the "
                        f"{limit:,} allowed ({limited_by})."
                    )
                if at_least is not None:
                    opened.draft(None, (at_least, at_least))
                opened.load()
                return opened.copy() if as_stored else _rgb(opened)
    except InputError:
        raise
    except Image.DecompressionBombError as error:  # above Pillow's own limit, whatever ours is
        count, most = re.search(r"\d+", str(error)), min(limit, MAX_PIXELS)
        size = f"{int(count[0]):,} pixels, " if count else ""
        raise InputError(
            f"{file} has {size}more than the {most:,} allowed ({limited_by})."
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{file} is not an image that can be read.") from None
    except Exception as error:  # whatever a decoder makes of bytes from elsewhere
        reason = str(error) or type(error).__name__
        raise InputError(f"{file} cannot be read as an image: {reason}") from None


def _rgb(opened: Image.Image) -> Image.Image:
    """Return a loaded image as RGB, upright, transparency on white."""
    image = opened
    with contextlib.suppress(Exception):  # damaged EXIF says nothing about the orientation
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):  # 16-bit grey; a plain convert would clip it
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def two_pictures() -> tuple[Image.Image, Image.Image]:
    """Return two RGB images that nothing can take for one another, to try a model with."""
    one = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(one).ellipse((64, 64, 192, 192), fill="red")
    other = Image.new("RGB", (256, 256), "black")
    for top in range(0, 256, 64):
        ImageDraw.Draw(other).rectangle((0, top, 256, top + 31), fill="blue")
    return one, other


def lossless(image: Image.Image) -> bytes:
    """Return an image as a PNG file's bytes that ``open_image`` reads to the same pixels."""
    buffer = io.BytesIO()
    image.load()
    _rgb(image).save(buffer, format="png")
    return buffer.getvalue()


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
