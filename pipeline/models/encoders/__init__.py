"""Encoders: models that map images and texts into one space. One file a kind."""

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.models.encoders.base import Encoder, EncoderKind, JointEncoder
from pipeline.models.kinds import Role

__all__ = ["ROLE", "Encoder", "EncoderKind", "JointEncoder", "load", "width"]

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


def width(settings: ClipConfig) -> int | None:
    """Return the d of the encoder's features without loading it; None if that cannot be told.

    Raises ModelError for a name that its kind does not know.
    """
    encoder = ROLE.choose(settings)
    kind = encoder.kind
    return kind.width(encoder.settings) if isinstance(kind, EncoderKind) else None
