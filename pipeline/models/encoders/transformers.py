"""CLIP and SigLIP checkpoints of transformers in this process: a hub name or a folder.

Checkpoints that bring code of their own beside an ordinary CLIP (BGE-VL-base and -large) are loaded
as that CLIP; the code never runs.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.models.encoders.base import Encoder, EncoderKind
from pipeline.models.identity import model_identity
from pipeline.models.loading import hub


def _load(settings: ClipConfig, runtime: RuntimeConfig) -> Encoder:
    from pipeline.models.encoders._transformers import TwoTowers

    with hub(settings.model):
        return TwoTowers(settings, runtime)


def _identity(settings: ClipConfig) -> dict[str, Any]:
    return {
        "encoder": "transformers",
        "model": model_identity(settings.model),
        "precision": settings.precision,
    }


def _width(settings: ClipConfig) -> int | None:
    try:
        config = json.loads((Path(settings.model) / "config.json").read_text(encoding="utf-8"))
        return int(config["projection_dim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


KIND = EncoderKind(
    load=_load, identity=_identity, files=lambda settings: (settings.model,), width=_width
)
