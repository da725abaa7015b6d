"""Captioners: models that describe an image several times. One file a kind."""

import functools
from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from pipeline.config import CaptionerConfig, RuntimeConfig

SERVED = "served:"
"""Marks a vision model behind a server."""


def prompt_of(config: CaptionerConfig) -> str:
    """Return what the caption starts from: the configured prompt, or the captioner's own."""
    if config.prompt is not None:
        return config.prompt
    if config.model.startswith(SERVED):
        return "Describe this image in one sentence of at most 20 words. Answer with it alone."
    return "a photo of"  # BLIP-2, as SEIZE and LDRE prompt it


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
    from pipeline.captioners.served import ServedCaptioner

    settings = CaptionerConfig.model_validate_json(config)
    kind = ServedCaptioner if settings.model.startswith(SERVED) else Blip2
    return kind(settings, RuntimeConfig.model_validate_json(runtime))
