"""BLIP-2 in this process, by transformers: a hub name or a folder."""

from typing import Any

from pipeline.config import CaptionerConfig, RuntimeConfig
from pipeline.models.captioners.base import Captioner, prompt_of
from pipeline.models.identity import model_identity
from pipeline.models.kinds import Kind
from pipeline.models.loading import hub


def _load(settings: CaptionerConfig, runtime: RuntimeConfig) -> Captioner:
    from pipeline.models.captioners._blip2 import Blip2

    with hub(settings.model):
        return Blip2(settings, runtime)


def _identity(settings: CaptionerConfig) -> dict[str, Any]:
    return {
        **settings.model_dump(exclude={"url"}),
        "prompt": prompt_of(settings),
        "model": model_identity(settings.model),
    }


KIND: Kind[CaptionerConfig, Captioner] = Kind(
    load=_load, identity=_identity, files=lambda settings: (settings.model,)
)
