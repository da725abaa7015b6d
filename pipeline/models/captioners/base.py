"""What captioners share: what they are asked, what they answer, and how they work in batches."""

import itertools
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from pipeline.config import CaptionerConfig

PHOTO = "a photo of"
"""What SEIZE and LDRE let BLIP-2 go on from."""


def prompt_of(settings: CaptionerConfig, own: str = PHOTO) -> str:
    """Return what a caption starts from: the configured prompt, or the captioner's ``own``."""
    return own if settings.prompt is None else settings.prompt


@dataclass(frozen=True)
class Failure:
    """Stands for the captions of an image that got none."""

    reason: str


Named = tuple[str, Image.Image]
"""An image's id, and the image as RGB."""
Captioned = tuple[str, list[str] | Failure]
"""An image's id, and its captions or why there are none."""


class Captioner(Protocol):
    """Describes images. The captions of an image depend on nothing but it, its id and the seed."""

    def caption(
        self, ids: Sequence[str], images: Sequence[Image.Image]
    ) -> Sequence[list[str] | Failure]:
        """Return ``samples`` captions for each RGB image, in sampling order, or why there are none.

        Raises ModelError if no image can be captioned any more.
        """
        ...

    def stream(self, images: Iterable[Named], batch: int) -> Generator[Captioned, None, None]:
        """Yield the captions of each image as they come, in any order; see ``caption``.

        ``images`` are read as they are needed, so that any number takes steady memory; ``batch``
        of them are worked on at a time where that is this process's choice.
        """
        ...


class InBatches:
    """For captioners that work on a batch at a time: streams by ``caption``."""

    def stream(
        self: Captioner, images: Iterable[Named], batch: int
    ) -> Generator[Captioned, None, None]:
        """Yield the captions of each image, batch by batch."""
        waiting = iter(images)
        while some := dict(itertools.islice(waiting, batch)):
            texts = self.caption(list(some), list(some.values()))
            yield from zip(some, texts, strict=True)
