"""Image files of every kind open as upright RGB; broken ones are named."""

import os
import resource
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.images import files as images
from pipeline.images.files import encoded, open_image, opened_image
from pipeline.models.pixels import TargetPad
from tests.conftest import PROJECT


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


@pytest.mark.parametrize("read", [images.read_image, open_image])
def test_every_way_of_reading_refuses_what_never_ends_and_what_is_huge(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "hole.png").open("wb") as stream:
        stream.truncate(3 << 30)
    for name in ("/dev/zero", "pipe.png", "hole.png", "missing.png", "."):
        file = tmp_path / name
        with pytest.raises(InputError, match=f"^{file} ") as caught:
            read(file)
        assert str(caught.value).count(str(file)) == 1


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\1\0\1\0", "icon"),
        (b"\xff\x0a\0", "JPEG XL"),
    ],
)
def test_a_kind_that_is_not_read_is_named(content: bytes, kind: str) -> None:
    if kind == "HEIC" and images.HEIF:
        pytest.skip("pillow-heif is installed")
    with pytest.raises(InputError, match=rf"^photo\.x is .*{kind}.* convert it"):
        open_image(Path("photo.x"), content)


@pytest.mark.skipif(not images.HEIF, reason="pillow-heif is not installed")
def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "photo.heic")
    assert ".heic" in images.endings()
    assert open_image(tmp_path / "photo.heic").size == (40, 20)
    assert images.looks_like_image((tmp_path / "photo.heic").read_bytes()[: images.START])


def test_images_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    for ending in (".avif", ".gif", ".jpg", ".jp2", ".png", ".tiff", ".webp"):
        Image.new("RGB", (40, 20), "red").save(tmp_path / f"a{ending}")
        assert images.looks_like_image((tmp_path / f"a{ending}").read_bytes()[: images.START])
    for text in (b"", b"BM is no bitmap", b"P6 is no pixmap", b"RIFF1234WAVE", b"#!/bin/sh"):
        assert not images.looks_like_image(text)


@pytest.mark.parametrize("ending", [".png", ".avif", ".jpg"])
def test_the_limit_is_called_by_its_name_and_never_by_pillows(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"image{ending}"
    Image.new("RGB", (20, 10)).save(file)
    with pytest.raises(InputError, match=r"199 allowed \(seize app --max-pixels\)\.$"):
        open_image(file, max_pixels=199, limited_by="seize app --max-pixels")
    with pytest.raises(InputError) as caught:
        open_image(Path("bomb.png"), png_of_size(60_000, 60_000))
    assert "bomb DOS" not in str(caught.value)


PEAK = """
import sys
from pathlib import Path
from PIL import Image
from pipeline.images.files import memory, open_image

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

file = Path(sys.argv[1])
open_image(file.with_name("small" + file.suffix))  # what libraries allocate once
before = peak()
image = open_image(file)
print(peak() - before, memory(Image.open(file)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory was in use")
@pytest.mark.parametrize(
    ("ending", "mode"),
    [
        (".png", "RGBA"), (".png", "LA"), (".png", "I;16"), (".jpg", "RGB"), (".jpg", "CMYK"),
        (".webp", "RGB"), (".webp", "RGBA"), (".avif", "RGBA"), (".jp2", "RGBA"),
        (".tiff", "RGBA"), (".tiff", "F"), (".gif", "P"), (".bmp", "RGB"), (".ppm", "RGB"),
    ],
)  # fmt: skip
def test_decoding_takes_no_more_than_is_reckoned(tmp_path: Path, ending: str, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: a copy more
    how = {"exif": exif} if ending in (".jpg", ".png", ".webp", ".avif", ".tiff") else {}
    for name, side in (("large", 2000), ("small", 16)):
        Image.new(mode, (side, side)).save(tmp_path / f"{name}{ending}", **how)
    command = [sys.executable, "-c", PEAK, str(tmp_path / f"large{ending}")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken, reckoned = map(int, done.stdout.split())
    assert 0.2 * reckoned < taken < reckoned + (2 << 20)


def test_one_large_image_at_a_time_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("RGB", (50, 50)), 50)
    monkeypatch.setattr(images, "LARGE", 50 * 50 * 12 - 1)
    second = threading.Thread(target=open_image, args=(Path("b"), content))
    with opened_image(Path("a"), content):
        second.start()
        second.join(0.3)
        assert second.is_alive()
        small = encoded(Image.new("RGB", (49, 49)), 50)
        assert open_image(Path("c"), small).size == (49, 49)
    second.join(30)
    assert not second.is_alive()
    with pytest.raises(ZeroDivisionError), opened_image(Path("a"), content):
        raise ZeroDivisionError  # it is no error of the image, and the next one is not kept waiting
    assert open_image(Path("a"), content).size == (50, 50)
