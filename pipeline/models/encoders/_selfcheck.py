"""What an encoder has to get right before a gallery is embedded with it.

A multimodal embedder that is asked in another form than it was trained with, or served with another
template, gives vectors that look like any others; rankings by them would be wrong, unsaid.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipeline.errors import ModelError
from pipeline.models.encoders.base import Encoder, Features, JointEncoder

SAME = 1 - 1e-5
"""Cosine from which on two vectors are taken for one."""
TEXTS = (
    "a large red circle on a white background",
    "two large blue squares on a dark background",
)
CHANGE = "is blue instead of red"


def pictures() -> tuple[Image.Image, Image.Image]:
    """Return the two RGB images that ``TEXTS`` describe."""
    one = Image.new("RGB", (256, 256), (250, 250, 250))
    ImageDraw.Draw(one).ellipse((130, 66, 190, 126), fill=(215, 30, 30))
    other = Image.new("RGB", (256, 256), (25, 25, 35))
    for x, y in ((70, 134), (134, 70)):
        ImageDraw.Draw(other).rectangle((x, y, x + 53, y + 53), fill=(40, 70, 230))
    return one, other


def check(encoder: Encoder, name: str, advice: str) -> None:
    """Raise ModelError for features that are not finite, alike, or say no picture from another.

    An image's own text must beat another image's. ``advice`` says what may be wrong.
    """
    images = _units(encoder.images(_prepared(encoder, *pictures())), name, advice)
    texts = _units(encoder.texts(TEXTS), name, advice)
    for what, (one, other) in (("images", images), ("texts", texts)):
        if one @ other > SAME:
            raise ModelError(f"{name} makes the same vector of two different {what}. {advice}")
    found = images @ texts.T
    if not (found[0, 0] > found[0, 1] and found[1, 1] > found[1, 0]):
        raise ModelError(
            f"{name} does not know two pictures by their own texts: {TEXTS[0]!r} and {TEXTS[1]!r} "
            f"have cosines {found[0, 0]:.3f} and {found[0, 1]:.3f} with the first, "
            f"{found[1, 0]:.3f} and {found[1, 1]:.3f} with the second. {advice}"
        )


def check_pairs(encoder: JointEncoder, name: str, instruction: str, advice: str) -> None:
    """Raise ModelError where an image with a text is embedded as one of the two alone."""
    picture = _prepared(encoder, pictures()[0])
    (pair,) = _units(encoder.pairs(picture, [CHANGE], instruction), name, advice)
    (image,) = _units(encoder.images(picture), name, advice)
    (text,) = _units(encoder.texts([CHANGE]), name, advice)
    for what, alone in (("image", image), ("text", text)):
        if pair @ alone > SAME:
            raise ModelError(
                f"{name} embeds an image with a text as the {what} alone: it is no joint embedder, "
                f"or not served as one. {advice} Without one, use --method sum."
            )


def _prepared(encoder: Encoder, *images: Image.Image) -> Any:
    from pipeline.models.decode import stacked

    return stacked([encoder.prepare(image) for image in images])


def _units(features: Features, name: str, advice: str) -> Features:
    if not np.isfinite(features).all():
        raise ModelError(f"{name} makes vectors that hold NaN or infinity. {advice}")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise ModelError(f"{name} makes vectors of nothing but zeros. {advice}")
    units: Features = features / lengths
    return units
