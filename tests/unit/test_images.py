"""Image files of every kind open as upright RGB; broken ones are named."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import images
from pipeline.clip import TargetPad
from pipeline.errors import InputError
from pipeline.images import open_image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    ending = ".tiff" if mode in ("F", "CMYK", "I") else ".png"
    file = tmp_path / f"image{ending}"
    Image.new(mode, (5, 7)).save(file)
    image = open_image(file)
    assert image.mode == "RGB"
    assert image.size == (5, 7)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    file = tmp_path / "grey.png"
    Image.fromarray(np.full((4, 4), 128 * 256, dtype=np.uint16)).save(file)
    assert open_image(file).getpixel((0, 0)) == (128, 128, 128)


def test_transparency_shows_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by a quarter turn
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 8)


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    import zlib

    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"hello", "not an image"),
        ("truncated", "cannot be read"),
        (png_of_size(60_000, 60_000), "pixels"),
    ],
)
def test_broken_images_are_named(tmp_path: Path, content: bytes | str | None, reason: str) -> None:
    file = tmp_path / "broken.jpg"
    if content == "truncated":
        Image.effect_noise((64, 64), 50).save(file)
        file.write_bytes(file.read_bytes()[:-200])
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"broken\.jpg.*{reason}"):
        open_image(file)


def test_the_pixel_limit_bounds_memory() -> None:
    assert images.MAX_PIXELS * 3 < 1e9


def test_target_pad_widens_the_short_side_to_the_ratio() -> None:
    assert TargetPad(1.25)(Image.new("RGB", (100, 90))).size == (100, 90)
    assert TargetPad(1.25)(Image.new("RGB", (200, 100))).size == (200, 160)
    assert TargetPad(1.25)(Image.new("RGB", (100, 300))).size == (240, 300)
