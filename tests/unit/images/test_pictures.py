"""Thumbnails fit a number of bytes; a contact sheet shows one ranking or many."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images.files import open_image
from pipeline.images.pictures import SIZES, spread, thumbnails


def photographs(folder: Path, count: int) -> dict[str, Path]:
    """Smooth colourful pictures of 640 x 480, each another."""
    files = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        files[str(number)] = folder / f"{number}.jpg"
        small.resize((640, 480), Image.Resampling.BICUBIC).save(files[str(number)])
    return files


def test_thumbnails_are_as_large_as_the_budget_allows(tmp_path: Path) -> None:
    images = photographs(tmp_path, 60)
    plenty, little = thumbnails(images, 10_000_000), thumbnails(images, 60_000)
    assert plenty.side == SIZES[0][0]
    assert little.side < plenty.side
    assert sum(map(len, little.files.values())) <= 60_000 * 1.05
    assert thumbnails(images, 0).side == SIZES[-1][0]
    file = tmp_path / "one.webp"
    file.write_bytes(plenty.files["7"])
    assert Image.open(file).size == (192, 144)
    whole = open_image(images["7"]).resize((192, 144))
    away = np.asarray(Image.open(file), dtype=float) - np.asarray(whole, dtype=float)
    assert np.abs(away).mean() < 4


def test_an_unreadable_image_is_named_and_small_ones_keep_their_size(tmp_path: Path) -> None:
    images = {"broken": tmp_path / "broken.jpg", "small": tmp_path / "small.png"}
    images["broken"].write_bytes(b"")
    Image.new("RGB", (20, 10), "red").save(images["small"])
    found = thumbnails(images, 1_000_000)
    assert list(found.files) == ["small"]
    assert "broken.jpg is empty" in found.failed["broken"]
    file = tmp_path / "small.webp"
    file.write_bytes(found.files["small"])
    assert Image.open(file).size == (20, 10)


def test_a_jpeg_may_come_smaller_but_never_below_what_is_asked(tmp_path: Path) -> None:
    (file,) = photographs(tmp_path, 1).values()
    assert open_image(file).size == (640, 480)
    assert open_image(file, at_least=100).size == (160, 120)
    assert open_image(file, at_least=300).size == (640, 480)


@pytest.mark.parametrize(("count", "asked"), [(10, 3), (3, 10), (800, 12), (1, 1)])
def test_what_is_spread_keeps_its_order_and_repeats_nothing(count: int, asked: int) -> None:
    chosen = spread(range(count), asked)
    assert len(chosen) == min(count, asked)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0
