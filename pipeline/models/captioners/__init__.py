"""Captioners: models that describe an image several times. One file a kind."""

from pipeline.config import CaptionerConfig, RuntimeConfig
from pipeline.models.captioners.base import Captioned, Captioner, Failure, InBatches, Named
from pipeline.models.kinds import Role

__all__ = ["ROLE", "Captioned", "Captioner", "Failure", "InBatches", "Named", "load", "unload"]

ROLE: Role[CaptionerConfig, Captioner] = Role(
    name="captioner",
    section="captioner",
    option="--captioner",
    package=__name__,
    group="seize.captioners",
    default="blip2",
)


def load(settings: CaptionerConfig, runtime: RuntimeConfig) -> Captioner:
    """Load the captioner that ``settings`` name, once a process; raises ModelError."""
    return ROLE.load(settings, runtime)


def unload() -> None:
    """Forget the captioner that is loaded, so that its memory is freed."""
    ROLE.unload()
