"""CLIP in this process, by open_clip: an architecture, ``local-dir:FOLDER`` or ``hf-hub:NAME``."""

import os
from collections.abc import Sequence
from typing import Any

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.models.encoders.base import Encoder, EncoderKind
from pipeline.models.identity import model_identity
from pipeline.models.loading import hub

LOCAL, HUB = "local-dir", "hf-hub"
"""open_clip's own schemes of names."""
ENTER = {"model", "pretrained", "target_pad", "pixels", "precision"}
"""The settings that open_clip's features depend on."""


def _load(settings: ClipConfig, runtime: RuntimeConfig) -> Encoder:
    from pipeline.models.encoders._open_clip import Clip

    scheme, _, folder = settings.model.partition(":")
    with hub(folder if scheme == LOCAL else settings.model):
        return Clip(settings, runtime)


def _identity(settings: ClipConfig) -> dict[str, Any]:
    scheme, _, folder = settings.model.partition(":")
    told: dict[str, Any] = (
        {} if settings.long_texts == "cut" else {"long_texts": settings.long_texts}
    )
    if settings.decode != "exact":
        told["decode"] = settings.decode
    return {
        **told,
        **settings.model_dump(include=ENTER),
        "model": model_identity(folder) if scheme == LOCAL else settings.model,
        "pretrained": settings.pretrained and model_identity(settings.pretrained),
    }


def _files(settings: ClipConfig) -> tuple[str, ...]:
    scheme, _, place = settings.model.partition(":")
    if scheme in (LOCAL, HUB):
        return (place,)
    given = settings.pretrained
    return (given,) if given is not None and os.path.isfile(given) else ()


def _width(settings: ClipConfig) -> int | None:
    from pipeline.models.encoders._open_clip import width  # open_clip is slow to import

    return width(settings)


def _downloads(settings: ClipConfig) -> str | None:
    if _files(settings):
        return None
    from pipeline.models.encoders._open_clip import to_download

    return to_download(settings)


def _cut(settings: ClipConfig, texts: Sequence[str]) -> list[int]:
    from pipeline.models.encoders._open_clip import cut

    scheme, _, folder = settings.model.partition(":")
    with hub(folder if scheme == LOCAL else settings.model):
        return cut(settings, texts)


KIND = EncoderKind(
    load=_load,
    identity=_identity,
    files=_files,
    downloads=_downloads,
    folder=f"{LOCAL}:FOLDER",
    width=_width,
    cut=_cut,
)
