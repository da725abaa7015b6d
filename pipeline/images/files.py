"""Opening image files of any kind as RGB, and making small JPEGs of them.

Memory is bounded by two rules. Files of more than ``MAX_BYTES`` and images of more than
``MAX_PIXELS`` are refused before they are read or decoded; and an image that takes more than
``LARGE`` bytes to decode is decoded alone, while the other processes and threads that meet one
wait. So each process takes at most ``LARGE`` bytes, and one of them up to
``MAX_PIXELS`` times ``BYTES_A_PIXEL``: 4.3 GB for a WebP.
"""

import base64
import contextlib
import importlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import PIL
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from pipeline.config import MAX_PIXELS
from pipeline.errors import InputError
from pipeline.images.crops import cut
from pipeline.records import Crop, ImageFile

MAX_BYTES = 1 << 30
"""Larger files are refused before they are read."""
LARGE = 600_000_000
"""Bytes; images that take more while they are decoded are decoded one at a time: JPEG from 50, PNG
from 30, WebP from 25 megapixels on."""
BYTES_A_PIXEL = {"AVIF": 24, "HEIF": 24, "JPEG": 12, "JPEG2000": 32, "WEBP": 24}
"""What making an image RGB takes at most, by format, turned and transparent ones included; measured
with Pillow 13."""
OTHER_BYTES_A_PIXEL = 20
"""What the other formats take at most."""
LOSSLESS_PIXELS = 128 * 128
"""Images of at most so many pixels are sent without loss: JPEG would blur what little they show."""
ORIENTATION = 0x0112
"""The tag of EXIF that says how an image was held."""


def _has_heif() -> bool:
    """Teach Pillow HEIC where pillow-heif is installed, and return whether it is."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


HEIF = _has_heif()
FORMATS = (
    *("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"),
    *(("HEIF",) if HEIF else ()),
)
"""What is read, as Pillow names it; some others would start programs (EPS) or are no pictures."""

START = 32
"""Bytes of a file that tell its kind."""
READ = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    *(b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*"),
    b"\0\0\0\x0cjP  \r\n\x87\n",
)
"""How files of the kinds that are read begin, where that tells them apart from other files."""
UNREAD = {
    b"8BPS": "a Photoshop file",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\0\0\x01\0": "an icon",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"<svg": "SVG",
    b"FUJIFILMCCD-RAW": "a camera's raw file",
}
"""Kinds of pictures that are not read, by how their files begin."""
HEIC_ENDINGS = (".heic", ".heif", ".hif")
HEIC_HINT = "HEIC is read where pillow-heif is installed: pip install pillow-heif."
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Brands of HEIC files."""


class Broken(str):
    """Why an image's bytes cannot be decoded, as long as its ``decoder`` is the same.

    Other reasons for leaving an image out, as a disk that fails, may be gone the next time.
    """


def decoder(max_pixels: int) -> str:
    """Return what decides, besides its bytes, whether an image can be decoded."""
    return f"Pillow {PIL.__version__}, {' '.join(FORMATS)}, {max_pixels} pixels"


def endings() -> set[str]:
    """Return the file name endings of ``FORMATS``, in lower case with their dots."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def looks_like_image(start: bytes) -> bool:
    """Whether a file that begins with these ``START`` bytes is surely of a kind that is read."""
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    return (
        start.startswith(READ)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or brand in (b"avif", b"avis")
        or (HEIF and brand in HEIC)
    )


def _unread(content: bytes) -> str:
    """Say why bytes that Pillow does not know are not read."""
    if content[4:8] == b"ftyp" and content[8:12] in HEIC:
        return "is HEIC, which is not read: convert it to JPEG, or pip install pillow-heif."
    kinds = (kind for start, kind in UNREAD.items() if content.startswith(start))
    kind = next(kinds, "SVG" if b"<svg" in content[:1000] else "")
    if kind:
        return f"is {kind}, which is not read: convert it to PNG or JPEG."
    return "is not an image that can be read."


Opener = Callable[[str, int], int]
"""Opens a path with flags and returns its handle, as ``open`` wants it."""


def without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe too at once, not only when something writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextlib.contextmanager
def image_stream(file: Path, opener: Opener = without_waiting) -> Iterator[io.BufferedReader]:
    """Open an image file to read its bytes; raises InputError naming it.

    Pipes and devices, which may never end, and files above ``MAX_BYTES`` are refused.
    """
    try:
        with open(file, "rb", opener=opener) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{file} is no regular file.")
            if status.st_size > MAX_BYTES:
                raise InputError(
                    f"{file} has {status.st_size:,} bytes, more than the {MAX_BYTES:,} allowed."
                )
            yield stream
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{file} cannot be read: {reason}.") from None


def read_image(file: ImageFile, opener: Opener = without_waiting) -> bytes:
    """Return the bytes of an image file, as ``image_stream`` opens it; of a crop its pixels as a
    file's (PPM), which is written and read fast."""
    if isinstance(file, Crop):
        buffer = io.BytesIO()
        cut(open_image(file.file), file).save(buffer, format="ppm")
        return buffer.getvalue()
    with image_stream(file, opener) as stream:
        return stream.read(os.fstat(stream.fileno()).st_size)


def read_named(images: Mapping[str, ImageFile], name: str) -> tuple[ImageFile, bytes]:
    """Return the file and the bytes of the image of that name."""
    return images[name], read_image(images[name])


class _Quiet:
    """Ignores warnings as long as any thread is inside.

    Python's own way, once a thread, would leave them ignored: threads would restore each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_QUIET = _Quiet()
_alone: AbstractContextManager[Any] = threading.Lock()


def share_lock(lock: AbstractContextManager[Any]) -> None:
    """Let this process decode large images while it holds ``lock``, which others share."""
    global _alone
    _alone = lock


def open_image(
    file: ImageFile,
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
    with opened_image(
        file,
        content,
        at_least=at_least,
        max_pixels=max_pixels,
        as_stored=as_stored,
        limited_by=limited_by,
    ) as image:
        return image


@contextlib.contextmanager
def opened_image(
    file: ImageFile,
    content: bytes | None = None,
    *,
    at_least: int | None = None,
    max_pixels: int | None = None,
    as_stored: bool = False,
    limited_by: str = "runtime.max_pixels",
) -> Iterator[Image.Image]:
    """Yield what ``open_image`` returns; a large image is the only large one until the end."""
    content = read_image(file) if content is None else content
    with contextlib.ExitStack() as alone:
        most = max_pixels or MAX_PIXELS
        yield _decoded(file, content, at_least, most, as_stored, limited_by, alone)


def _decoded(
    file: ImageFile,
    content: bytes,
    at_least: int | None,
    max_pixels: int,
    as_stored: bool,
    limited_by: str,
    alone: contextlib.ExitStack,
) -> Image.Image:
    if not content:
        raise InputError(f"{file} is empty.")
    try:
        # What Pillow finds odd is read or refused here.
        with _QUIET, Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                raise InputError(
                    f"{file} has {opened.width} x {opened.height} pixels, more than the "
                    f"{max_pixels:,} allowed ({limited_by})."
                )
            if at_least is not None:
                opened.draft(None, (at_least, at_least))
            if memory(opened) > LARGE:
                alone.enter_context(_alone)
            opened.load()
            return opened.copy() if as_stored else _rgb(opened)
    except InputError:
        raise
    except Image.DecompressionBombError as error:  # above Pillow's own limit, whatever ours is
        count, most = re.search(r"\d+", str(error)), min(max_pixels, MAX_PIXELS)
        size = f"{int(count[0]):,} pixels, " if count else ""
        raise InputError(
            f"{file} has {size}more than the {most:,} allowed ({limited_by})."
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{file} {_unread(content)}") from None
    except MemoryError:
        raise InputError(f"{file} takes more memory to decode than there is.") from None
    except Exception as error:  # whatever a decoder makes of bytes from elsewhere
        reason = str(error) or type(error).__name__
        raise InputError(f"{file} cannot be read as an image: {reason}") from None


def memory(opened: Image.Image) -> int:
    """Return the bytes that it takes at most to make an opened image RGB."""
    a_pixel = BYTES_A_PIXEL.get(opened.format or "", OTHER_BYTES_A_PIXEL)
    return opened.width * opened.height * a_pixel


def _rgb(opened: Image.Image) -> Image.Image:
    """Return a loaded image as RGB, upright, transparency on white."""
    image = opened
    with contextlib.suppress(Exception):  # damaged EXIF says nothing about the orientation
        if opened.getexif().get(ORIENTATION, 1) != 1:  # else it would be copied
            image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16"):  # 16-bit grey; a plain convert would clip it
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
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
