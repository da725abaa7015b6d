"""A trained ``multi-vector`` composer as an encoder: ``composer:FILE``, with ``--method joint``.

It compares several vectors an image, made of patch tokens, so that the gallery is embedded by it,
too. The encoder below it is the one that the checkpoint was trained on.
"""

from pathlib import Path
from typing import Any

from pipeline.config import ClipConfig, RuntimeConfig, shipped
from pipeline.models.encoders.base import Encoder, EncoderKind
from pipeline.models.identity import model_identity


def _file(settings: ClipConfig) -> Path:
    return Path(shipped(settings.model))


def below(settings: ClipConfig) -> ClipConfig:
    """Return the settings of the encoder that a checkpoint was trained on; raises ModelError."""
    from pipeline.models.composers import checkpoints

    return ClipConfig.model_validate(checkpoints.configuration(_file(settings))["clip"])


def _load(settings: ClipConfig, runtime: RuntimeConfig) -> Encoder:
    from pipeline.models.encoders._composer import MultiVectors

    return MultiVectors(_file(settings), below(settings), runtime)


def _identity(settings: ClipConfig) -> dict[str, Any]:
    from pipeline.models.composers import checkpoints

    told = checkpoints.configuration(_file(settings))
    return {"model": model_identity(str(_file(settings))), "below": told["encoder"]}


def _width(settings: ClipConfig) -> int | None:
    from pipeline.models.composers import checkpoints

    sizes = checkpoints.configuration(_file(settings))["sizes"]
    return int(sizes["vectors"]) * int(sizes["channels"]) if "vectors" in sizes else None


KIND = EncoderKind(
    load=_load,
    identity=_identity,
    files=lambda settings: (str(_file(settings)),),
    folder="FILE",
    width=_width,
    joint=True,
)
