"""A box of an image file as a picture of its own."""

from PIL import Image

from pipeline.errors import InputError
from pipeline.records import Crop


def cut(image: Image.Image, crop: Crop) -> Image.Image:
    """Return the part of an RGB image that a crop names, padded with black to a square around it.

    The box is dilated as GeneCIS evaluates its objects (Vaze et al., CVPR 2023; DILATION of its
    datasets/vaw_dataset.py): with a dilation d it starts d of its own width and height further left
    and up, inside the image, and ends 1 + d of these behind that start, so that it grows to the
    left and to the top unless the image ends there. Raises InputError for a box that holds nothing.
    """
    x, y, width, height = crop.box
    left, top = max(0.0, x - crop.dilation * width), max(0.0, y - crop.dilation * height)
    right = min(float(image.width), left + (1 + crop.dilation) * width)
    bottom = min(float(image.height), top + (1 + crop.dilation) * height)
    box = (round(left), round(top), round(right), round(bottom))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(
            f"{crop} holds no pixel: the image has {image.width} x {image.height} of them."
        )
    return square(image.crop(box))


def square(image: Image.Image) -> Image.Image:
    """Return an RGB image in the middle of a black square of its longer side."""
    side = max(image.size)
    if image.width == image.height:
        return image
    padded = Image.new("RGB", (side, side))
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return padded
