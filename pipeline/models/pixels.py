"""An image as the pixels that a CLIP model takes: TargetPad, then open_clip's own transform."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import open_clip.transform
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional, v2

from pipeline.config import MAX_PIXELS
from pipeline.errors import InputError

LONGEST_STRIP = 8_192
"""Pixels that a strip's longer side is scaled down to before it is padded."""

THINNEST = 256
"""Ratio of sides beyond which a strip that is not padded loses its ends, which a centre crop drops
anyway: scaled by its short side it would take gigabytes."""


@dataclass(frozen=True)
class TargetPad:
    """Pad an image with black until its sides' ratio is at most ``ratio``.

    Baldrati et al., "Effective conditioned and composed image retrieval combining CLIP-based
    features", CVPR 2022; SEIZE uses 1.25. An image may have any mode; that of an RGB image is kept,
    and so is every other one's, where 0 is what counts as black, as in the released scripts.
    """

    ratio: float

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        longest = max(width, height)
        if longest / min(width, height) < self.ratio:
            return image
        if longest**2 / self.ratio > MAX_PIXELS:  # a strip, which would be padded to gigabytes
            image = image.copy()
            image.thumbnail((LONGEST_STRIP, LONGEST_STRIP))
            width, height = image.size
            longest = max(width, height)
        side = longest / self.ratio
        horizontal = max(int((side - width) / 2), 0)
        vertical = max(int((side - height) / 2), 0)
        padded: Image.Image = functional.pad(image, [horizontal, vertical, horizontal, vertical])
        return padded


def shorten(image: Image.Image) -> Image.Image:
    """Cut the ends off a strip whose sides' ratio is above ``THINNEST``."""
    width, height = image.size
    limit = THINNEST * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(width - limit, 0) // 2, max(height - limit, 0) // 2
    return image.crop((left, top, width - left, height - top))


class Preprocess:
    """An image to a uint8 tensor (3, height, width): padded, then as open_clip has it.

    ``settings`` are those of ``open_clip.get_model_preprocess_cfg``: size, interpolation,
    ``resize_mode`` (shortest, longest, squash) and ``fill_color`` are open_clip's own transform's;
    its ``mean`` and ``std`` are left to the model's device. ``target_pad`` is TargetPad's ratio,
    None for none.

    ``as_stored`` says that images come in their file's own mode (``clip.pixels: released``), as
    SEIZE's released scripts open them, with the ``targetpad_transform`` of CLIP4Cir and SEARLE:
    that mode is padded, resized and cropped, and RGB only then. So a palette's images are resized
    without smoothing, transparency is dropped (mostly to black) and EXIF's orientation is ignored.
    Published figures were made so; the corrected path is what such images look like.

    Raises InputError for a mode that cannot be transformed.
    """

    def __init__(
        self, settings: dict[str, Any], target_pad: float | None, as_stored: bool = False
    ) -> None:
        known = open_clip.transform.PreprocessCfg(**settings)
        *inner, _, _ = open_clip.transform.image_transform_v2(known, is_train=False).transforms
        squashes = known.resize_mode == "squash"
        before: Callable[[Image.Image], Image.Image]
        before = TargetPad(target_pad) if target_pad else _unchanged if squashes else shorten
        self.as_stored = as_stored
        self._transform = v2.Compose([before, *inner, v2.PILToTensor()])

    def __call__(self, image: Image.Image) -> Tensor:
        try:
            pixels: Tensor = self._transform(image)
        except (ValueError, TypeError, OSError) as error:
            raise InputError(
                f"An image of mode {image.mode} cannot be preprocessed: {error}"
            ) from None
        return pixels


def _unchanged(image: Image.Image) -> Image.Image:
    return image
