"""Captioners: models that describe an image several times. One file a kind."""

import functools
import gc
import itertools
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from pipeline.config import CaptionerConfig, RuntimeConfig, in_precision
from pipeline.models.loading import LOADING, hub

SERVED = "served:"
"""Marks a vision model behind a server."""


def prompt_of(config: CaptionerConfig) -> str:
    """Return what the caption starts from: the configured prompt, or the captioner's own."""
    if config.prompt is not None:
        return config.prompt
    if config.model.startswith(SERVED):
        return "Describe this image in one sentence of at most 20 words. Answer with it alone."
    return "a photo of"  # BLIP-2, as SEIZE and LDRE prompt it


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


def load(config: CaptionerConfig, runtime: RuntimeConfig) -> Captioner:
    """Load the captioner that ``config`` names, once a process; raises ModelError."""
    if not config.model.startswith(SERVED):
        config = in_precision(config, runtime)
    with LOADING:
        return _load(config.model_dump_json(), runtime.model_dump_json())


def unload() -> None:
    """Forget the captioner that is loaded, so that its memory is freed."""
    _load.cache_clear()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@functools.lru_cache(maxsize=1)
def _load(config: str, runtime: str) -> Captioner:
    from pipeline.models.captioners.blip2 import Blip2
    from pipeline.models.captioners.served import ServedCaptioner

    settings = CaptionerConfig.model_validate_json(config)
    kind = ServedCaptioner if settings.model.startswith(SERVED) else Blip2
    with nullcontext() if kind is ServedCaptioner else hub(settings.model):
        return kind(settings, RuntimeConfig.model_validate_json(runtime))
