"""How large a model is and how much it computes, told from its name or files without loading it.

A transformer multiplies every token with all weights of its layers (two operations a weight) and
with every other token (four operations a layer and unit of width): Kaplan et al., *Scaling laws for
neural language models* (arXiv 2001.08361), table 1.
"""

import importlib.util
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ClipConfig
from pipeline.models import weights

IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", re.IGNORECASE)
"""A count of parameters as names have it: ``7B``, ``6.7b``, ``500M``."""
LONGEST_HEADER = 100 << 20
"""Bytes of a safetensors header; the format's own limit."""


@dataclass(frozen=True)
class Tower:
    """A transformer that reads an image or a text at once."""

    layers: int
    width: int
    tokens: int
    ratio: float = 4.0
    """Of the feed-forward layers' width to the width."""
    embeddings: int = 0
    """Parameters before the layers."""

    @property
    def parameters(self) -> float:
        """Its weights, without biases."""
        return self._multiplied + self.embeddings

    @property
    def operations(self) -> float:
        """Floating-point operations an item."""
        attention = 4 * self.layers * self.width * self.tokens**2
        return 2 * self._multiplied * self.tokens + attention

    @property
    def values(self) -> float:
        """Numbers that a layer holds at once, an item: its input, three projections, the attention
        between all tokens by 64 units of width, and the feed-forward layer."""
        wide = (5 + self.ratio) * self.width
        return self.tokens * (wide + self.tokens * max(self.width // 64, 1))

    @property
    def _multiplied(self) -> float:
        return (4 + 2 * self.ratio) * self.width**2 * self.layers


def towers(settings: ClipConfig) -> tuple[Tower, Tower] | None:
    """Return the towers of images and of texts of an open_clip model by its configuration.

    None where it has none of the usual shape, or it is not on this machine.
    """
    try:
        config = _open_clip(settings.model)
        image, text = config["vision_cfg"], config["text_cfg"]
        patches = (int(image["image_size"]) // int(image["patch_size"])) ** 2
        return (
            Tower(
                int(image["layers"]),
                int(image["width"]),
                patches + 1,
                float(image.get("mlp_ratio", 4)),
                3 * int(image["patch_size"]) ** 2 * int(image["width"]),
            ),
            Tower(
                int(text["layers"]),
                int(text["width"]),
                int(text["context_length"]),
                embeddings=int(text["vocab_size"]) * int(text["width"]),
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def width(settings: ClipConfig) -> int | None:
    """Return the d of an open_clip model's features; None where ``towers`` is, too."""
    try:
        return int(_open_clip(settings.model)["embed_dim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open_clip(model: str) -> dict[str, Any]:
    """Return an architecture's configuration without importing open_clip, which imports torch."""
    scheme, colon, place = model.partition(":")
    if not colon:
        found = importlib.util.find_spec("open_clip")
        if found is None or not found.submodule_search_locations:
            raise KeyError("open_clip")
        file = Path(found.submodule_search_locations[0]) / "model_configs" / f"{model}.json"
    elif scheme == "local-dir":
        file = Path(place) / "open_clip_config.json"
    else:
        held = weights.cached_file(place, "open_clip_config.json")
        if held is None:
            raise KeyError(model)
        file = held
    content = json.loads(file.read_bytes())
    config: dict[str, Any] = content["model_cfg"] if colon else content
    return config


def parameters(model: str) -> tuple[float, str] | None:
    """Return how many parameters a model has, and what that is told by; None where it is untold.

    ``model`` is a folder, a hub's name or a server's; files on this machine count before the name.
    """
    folder = Path(model) if Path(model).is_dir() else weights.cached(model)
    files = sorted(folder.glob("*.safetensors")) if folder is not None else []
    if files and (counts := [_in_file(file) for file in files]) and None not in counts:
        return float(sum(filter(None, counts))), "its files"
    if found := IN_NAME.search(model):
        return float(found[1]) * {"b": 1e9, "m": 1e6}[found[2].lower()], "its name"
    return None


def _in_file(file: Path) -> int | None:
    """Return the parameters of a safetensors file by its header; None for one that is none."""
    try:
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > LONGEST_HEADER:
                return None
            header = json.loads(stream.read(size))
        shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        return None
    total = 0
    for shape in shapes:
        count = 1
        for side in shape:
            count *= int(side)
        total += count
    return total
