"""Encoders: models that map images and texts into one space. One file a kind."""

from collections.abc import Sequence
from typing import Any

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ConfigError
from pipeline.models import sizes
from pipeline.models.encoders.base import Encoder, EncoderKind, JointEncoder
from pipeline.models.kinds import Role

__all__ = [
    "ROLE",
    "Encoder",
    "EncoderKind",
    "JointEncoder",
    "check_joint",
    "cut",
    "is_joint",
    "load",
    "load_joint",
    "width",
    "width_of",
]

ROLE: Role[ClipConfig, Encoder] = Role(
    name="encoder",
    section="encoder",
    option="--clip",
    package=__name__,
    group="seize.encoders",
    default="open_clip",
)


def load(settings: ClipConfig, runtime: RuntimeConfig) -> Encoder:
    """Load the encoder that ``settings`` name, once a process; raises ModelError."""
    return ROLE.load(settings, runtime)


def is_joint(settings: ClipConfig) -> bool:
    """Whether an encoder is of a kind that embeds an image with a text; raises ConfigError."""
    kind = ROLE.choose(settings).kind
    return isinstance(kind, EncoderKind) and kind.joint


def check_joint(settings: ClipConfig) -> None:
    """Raise ConfigError for an encoder of a kind that embeds no image with a text."""
    if not is_joint(settings):
        choice = ROLE.choose(settings)
        known = [name for name in ROLE.kinds if getattr(ROLE.kind(name), "joint", False)]
        raise ConfigError(
            f"{settings.model} embeds no image together with a text: it is of the kind "
            f"{choice.kind_name}. Kinds that do: {', '.join(known)}. With this one, --method sum "
            "adds the two."
        )


def load_joint(settings: ClipConfig, runtime: RuntimeConfig) -> JointEncoder:
    """Load an encoder for images with texts, and try it.

    Raises ConfigError for a kind that is not joint, ModelError for one that cannot be used.
    """
    check_joint(settings)
    encoder: Any = load(settings, runtime)
    encoder.check_pairs()
    return encoder  # type: ignore[no-any-return]


def width(settings: ClipConfig) -> int | None:
    """Return the d of the encoder's features without loading it; None if that cannot be told.

    Raises ModelError for a name that its kind does not know.
    """
    encoder = ROLE.choose(settings)
    kind = encoder.kind
    return kind.width(encoder.settings) if isinstance(kind, EncoderKind) else None


def width_of(settings: ClipConfig) -> int | None:
    """Return what ``width`` does without a library of models, and without a check of the name."""
    choice = ROLE.choose(settings)
    if choice.kind_name == "open_clip":
        return sizes.width(choice.settings)
    return width(settings)


def cut(settings: ClipConfig, texts: Sequence[str]) -> list[int] | None:
    """Return how many tokens each text has more than the encoder reads; None if untold.

    Only the tokenizer is loaded. Raises ModelError for a name that its kind does not know.
    """
    encoder = ROLE.choose(settings)
    kind = encoder.kind
    return kind.cut(encoder.settings, texts) if isinstance(kind, EncoderKind) else None
