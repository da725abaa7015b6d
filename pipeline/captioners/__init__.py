"""Captioners: models that describe an image several times. One file a kind."""

import functools
from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from pipeline.config import CaptionerConfig, RuntimeConfig


class Captioner(Protocol):
    """Describes images. The captions of an image depend on nothing but it, its id and the seed."""

    def caption(self, ids: Sequence[str], images: Sequence[Image.Image]) -> list[list[str]]:
        """Return ``samples`` captions for each RGB image, in sampling order."""
        ...


def load(config: CaptionerConfig, runtime: RuntimeConfig) -> Captioner:
    """Load the captioner that ``config`` names, once a process; raises ModelError."""
    return _load(config.model_dump_json(), runtime.model_dump_json())


@functools.lru_cache(maxsize=1)
def _load(config: str, runtime: str) -> Captioner:
    from pipeline.captioners.blip2 import Blip2

    return Blip2(
        CaptionerConfig.model_validate_json(config), RuntimeConfig.model_validate_json(runtime)
    )
