"""An encoder's widths, told without loading it."""

import json
from pathlib import Path
from typing import Any

import open_clip

from pipeline.config import ClipConfig


def widths(config: ClipConfig) -> tuple[int | None, int | None]:
    """Return d of the joint space and t of the text tower's tokens; None where that is unknown.

    It is for a model of the hub, and t for a text tower of another library.
    """
    scheme, separator, folder = config.model.partition(":")
    try:
        if not separator:
            settings: Any = open_clip.get_model_config(config.model)
        elif scheme == "local-dir":
            file = Path(folder) / "open_clip_config.json"
            settings = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        else:
            return None, None
        d, text = int(settings["embed_dim"]), settings["text_cfg"]
        t = None if "hf_model_name" in text else int(text.get("width", 512))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None
    return d, t
