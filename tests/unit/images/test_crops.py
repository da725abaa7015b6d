"""A box of an image as a picture of its own, as GeneCIS cuts its objects."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.files import open_image
from pipeline.records import Crop


def by_hand(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """The published crop, in the order in which vaw_dataset.py computes it."""
    x, y, w, h = box
    left, top = max(0, x - 0.7 * w), max(0, y - 0.7 * h)
    right, bottom = min(image.width, left + 1.7 * w), min(image.height, top + 1.7 * h)
    part = image.crop((left, top, right, bottom))  # type: ignore[arg-type]
    side = max(part.size)
    pixels = np.zeros((side, side, 3), np.uint8)
    y0, x0 = (side - part.height) // 2, (side - part.width) // 2
    pixels[y0 : y0 + part.height, x0 : x0 + part.width] = np.asarray(part)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "box",
    [(40, 30, 20, 10), (0, 0, 30, 12), (5.5, 3.25, 20.5, 40.75), (90, 60, 30, 30), (0, 0, 100, 80)],
)
def test_crops_are_as_published(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    file = tmp_path / "x.png"
    whole = Image.fromarray(pixels)
    whole.save(file)
    cropped = open_image(Crop(file, box, 0.7))
    assert cropped.width == cropped.height
    np.testing.assert_array_equal(np.asarray(cropped), np.asarray(by_hand(whole, box)))


def test_a_box_outside_the_image_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.new("RGB", (20, 20)).save(file)
    with pytest.raises(InputError, match=r"x.png, box 200, 5, 10, 10 holds no pixel.*20 x 20"):
        open_image(Crop(file, (200, 5, 10, 10), 0.7))
