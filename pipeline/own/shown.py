"""The forms in which an image is handed to a query."""

from pathlib import Path

from PIL import Image

from pipeline.errors import InputError
from pipeline.images.files import lossless, read_image

Shown = Path | str | bytes | Image.Image
"""An image of a query: a file anywhere, the bytes of one, or a Pillow image."""


def bytes_of(image: Shown) -> bytes:
    """Return the bytes of an image's file; raises InputError for what cannot be read."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return lossless(image)
    if not isinstance(image, bytes):
        kind = type(image).__name__
        raise InputError(f"The image is a {kind}: give a path, bytes or a Pillow image.")
    return image
