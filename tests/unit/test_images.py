"""Image files of every kind open as upright RGB; broken ones are named."""

import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import images
from pipeline.errors import InputError
from pipeline.images import open_image
from pipeline.pixels import TargetPad


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
    assert Image.MAX_IMAGE_PIXELS
    assert images.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    side = 60_000
    zipped = zlib.compress(bytes(1 << 24), 9) * 200  # gigabytes once inflated
    bomb = png(
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zipped),
        (b"IEND", b""),
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"bomb\.png has 3,600,000,000 pixels, more than"):
        open_image(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_texts_in_a_png_may_not_inflate_without_end(tmp_path: Path) -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9)
    bomb = png(
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        *[(b"zTXt", text)] * 20,
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    )
    (tmp_path / "texts.png").write_bytes(bomb)
    with pytest.raises(InputError, match=r"texts\.png cannot be read"):
        open_image(tmp_path / "texts.png")


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    Image.new("RGB", (20, 10)).save(file)
    assert open_image(file, max_pixels=200).size == (20, 10)
    with pytest.raises(InputError, match="20 x 10 pixels, more than the 199 allowed"):
        open_image(file, max_pixels=199)


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        b"%PDF-1.7\n1 0 obj\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"GIF89a",
        b"RIFF\x24\0\0\0WEBPVP8 ",
    ],
)
def test_documents_are_no_images(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"image\.png"):
        open_image(file)


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "moving.gif").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    "tail", [b"\xff" * 40, b"II*\0" + b"\xff" * 20, b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_exif_does_not_hide_the_picture(tmp_path: Path, tail: bytes) -> None:
    Image.new("RGB", (8, 4), "red").save(tmp_path / "odd.jpg", exif=b"Exif\0\0" + tail)
    assert open_image(tmp_path / "odd.jpg").size == (8, 4)


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for file in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match=str(file)):
            open_image(file)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate(images.MAX_BYTES + 1)  # a hole: it takes no disk
    with pytest.raises(InputError, match=r"huge\.jpg has 1,073,741,825 bytes"):
        open_image(tmp_path / "huge.jpg")


def test_a_strip_is_padded_in_bounded_memory() -> None:
    padded = TargetPad(1.25)(Image.new("RGB", (60_000, 1), "red"))
    assert padded.width * padded.height <= images.MAX_PIXELS
    assert padded.width / padded.height == pytest.approx(1.25, rel=0.01)


def test_target_pad_widens_the_short_side_to_the_ratio() -> None:
    assert TargetPad(1.25)(Image.new("RGB", (100, 90))).size == (100, 90)
    assert TargetPad(1.25)(Image.new("RGB", (200, 100))).size == (200, 160)
    assert TargetPad(1.25)(Image.new("RGB", (100, 300))).size == (240, 300)
