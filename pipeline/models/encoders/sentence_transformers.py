"""An embedder of sentence-transformers in this process: a hub name or a folder.

Multimodal models embed images, texts and both together; its CLIP models images and texts.
"""

from typing import Any

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import InstallationError
from pipeline.models.encoders.base import Encoder, EncoderKind
from pipeline.models.identity import model_identity
from pipeline.models.loading import hub


def _load(settings: ClipConfig, runtime: RuntimeConfig) -> Encoder:
    try:
        from pipeline.models.encoders._sentence_transformers import SentenceEncoder
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "sentence_transformers":
            raise
        raise InstallationError(
            "The encoder sentence-transformers:… needs sentence-transformers, which is not "
            "installed. Run: pip install 'sentence-transformers>=6.2,<7' (with `pip install -e`: "
            "'.[sentence-transformers]')."
        ) from error
    with hub(settings.model):
        return SentenceEncoder(settings, runtime)


def _identity(settings: ClipConfig) -> dict[str, Any]:
    return {
        "encoder": "sentence-transformers",
        "model": model_identity(settings.model),
        "image_instruction": settings.image_instruction,
        "text_instruction": settings.text_instruction,
        "longest_side": settings.longest_side,
        "precision": settings.precision,
    }


KIND = EncoderKind(
    load=_load,
    identity=_identity,
    files=lambda settings: (settings.model,),
    joint=True,
)
