"""The encoders that pseudo-words can be put into: open_clip's, as only their text tower is open."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ConfigError
from pipeline.models import encoders
from pipeline.models.encoders import open_clip as kind

if TYPE_CHECKING:
    from pipeline.models.encoders._open_clip import Clip


def load(settings: ClipConfig, runtime: RuntimeConfig) -> "Clip":
    """Load the encoder, with its text tower; raises ConfigError for another kind, ModelError."""
    _open(settings)
    clip: Any = encoders.load(settings, runtime)
    return clip  # type: ignore[no-any-return]


def widths(settings: ClipConfig) -> tuple[int | None, int | None]:
    """Return d of the joint space and t of the text tower's tokens, without loading the encoder.

    None stands for what is unknown: both for a model of the hub, t for a text tower of another
    library. Raises ConfigError for an encoder that takes no pseudo-words.
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
            return None, None
        d, text = int(found["embed_dim"]), found["text_cfg"]
        t = None if "hf_model_name" in text else int(text.get("width", 512))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None
    return d, t


def _open(settings: ClipConfig) -> ClipConfig:
    """Return the settings with the bare name; raises ConfigError where open_clip loads it not."""
    choice = encoders.ROLE.choose(settings)
    if choice.kind is not kind.KIND:
        raise ConfigError(
            f"Pseudo-words need an encoder of open_clip; {settings.model} is one of "
            f"{choice.kind_name}. Give another with --clip, or choose another method."
        )
    return choice.settings
