"""The encoders that pseudo-words can be put into: open_clip's, as only their text tower is open."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ConfigError
from pipeline.models import encoders
from pipeline.models.encoders import open_clip as kind

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.encoders._open_clip import Clip


class Widths(NamedTuple):
    """The widths of an encoder; None where one is unknown before it is loaded."""

    d: int | None
    """Of the joint space."""
    t: int | None
    """Of the text tower's tokens."""
    v: int | None
    """Of the image tower's tokens; 0 for one that gives none."""


UNKNOWN = Widths(None, None, None)


def load(settings: ClipConfig, runtime: RuntimeConfig) -> "Clip":
    """Load the encoder, with its text tower; raises ConfigError for another kind, ModelError."""
    _open(settings)
    clip: Any = encoders.load(settings, runtime)
    return clip  # type: ignore[no-any-return]


def widths(settings: ClipConfig) -> Widths:
    """Return the encoder's widths without loading it.

    Unknown are all of a model of the hub, and t of a text tower of another library. Raises
    ConfigError for an encoder that takes no pseudo-words.
    """
    name = _open(settings).model
    scheme, separator, folder = name.partition(":")
    try:
        if not separator:
            import open_clip

            found: Any = open_clip.get_model_config(name)
        elif scheme == kind.LOCAL:
            file = Path(folder) / "open_clip_config.json"
            found = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        else:
            return UNKNOWN
        d, text, vision = int(found["embed_dim"]), found["text_cfg"], found["vision_cfg"]
        t = None if "hf_model_name" in text else int(text.get("width", 512))
        own = "timm_model_name" not in vision and isinstance(vision.get("layers", 12), int)
        return Widths(d, t, int(vision.get("width", 768)) if own else 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return UNKNOWN


def image_tokens(clip: "Clip", prepared: "Tensor") -> "Tensor":
    """Return the image tower's tokens (n, tokens, v), float32, of prepared images.

    The class token stands first; taken after all blocks, before the last norm and the projection.
    Raises ConfigError for a tower that is no vision transformer of open_clip's own.
    """
    blocks = getattr(clip.model.visual, "transformer", None)
    if blocks is None:
        raise without_tokens(clip.name)
    kept: list[Tensor] = []
    hook = blocks.register_forward_hook(lambda _, __, tokens: kept.append(tokens))
    try:
        clip.images(prepared)
    finally:
        hook.remove()
    return kept[0].float()


def without_tokens(name: str) -> ConfigError:
    """Return the error of an encoder whose image tower gives no tokens."""
    return ConfigError(
        f"The image tower of {name} gives no tokens: fine-grained pseudo-words need a vision "
        "transformer of open_clip's own, such as ViT-L-14. Give it with --clip."
    )


def _open(settings: ClipConfig) -> ClipConfig:
    """Return the settings with the bare name; raises ConfigError where open_clip loads it not."""
    choice = encoders.ROLE.choose(settings)
    if choice.kind is not kind.KIND:
        raise ConfigError(
            f"Pseudo-words need an encoder of open_clip; {settings.model} is one of "
            f"{choice.kind_name}. Give another with --clip, or choose another method."
        )
    return choice.settings
