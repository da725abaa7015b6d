"""The ``multi-vector`` composer on top of open_clip's patch tokens."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ModelError
from pipeline.models import encoders
from pipeline.models.composers import checkpoints
from pipeline.models.composers.base import Given, unit
from pipeline.models.encoders._open_clip import Clip
from pipeline.models.encoders.base import Features, JointEncoder
from pipeline.models.inversion.towers import image_tokens

GRID = 4
"""Patch tokens are averaged to as many rows and columns, whatever the image tower's own are."""


class MultiVectors(JointEncoder):
    """Images and pairs are k vectors of c channels, behind one another; a text alone is none."""

    def __init__(self, file: Path, below: ClipConfig, runtime: RuntimeConfig) -> None:
        kind = encoders.ROLE.choose(below)
        clip = kind.kind.load(kind.settings, runtime)
        if not isinstance(clip, Clip):
            raise ModelError(f"{file} needs patch tokens, which encoders of open_clip have.")
        self.clip, self.file = clip, file
        self.head = checkpoints.load(file)
        if not self.head.reads_tokens:
            raise ModelError(
                f"{file} makes one query vector: use it with --method composer and --set "
                f"search.composer.checkpoint={file}."
            )
        self.device = clip.device
        self.head.to(self.device)

    @property
    def prepare(self) -> Callable[[Image.Image], Any]:
        """Padding, resizing and cropping, as the encoder below does it."""
        return self.clip.prepare

    @torch.inference_mode()
    def images(self, prepared: Tensor) -> Features:
        """Return features (n, k·c)."""
        features, tokens = tokens_of(self.clip, prepared)
        found: Features = self.head.targets(features, tokens).cpu().numpy()
        return found

    @torch.inference_mode()
    def pairs(self, prepared: Tensor, texts: Sequence[str], instruction: str) -> Features:
        """Return features (n, k·c) of images, each with its text."""
        features, tokens = tokens_of(self.clip, prepared)
        said = unit(torch.from_numpy(self.clip.texts(texts)).to(self.device))
        found: Features = self.head(Given(unit(features), said, tokens=tokens)).cpu().numpy()
        return found

    def texts(self, texts: Sequence[str]) -> Features:
        """Refuse: the head was never shown a text without an image."""
        raise ModelError(
            f"{self.file} composes an image with a text and embeds no text alone: take --method "
            "joint, or image."
        )

    def check_pairs(self) -> None:
        """Raise ModelError where a pair's feature does not depend on its text."""
        picture = torch.stack([self.prepare(Image.new("RGB", (64, 64), "grey"))] * 2)
        one, other = self.pairs(picture, ["a red circle", "two blue squares"], "")
        if np.array_equal(one, other):
            raise ModelError(f"{self.file} makes the same of two texts: it cannot be right.")


@torch.inference_mode()
def tokens_of(clip: Clip, prepared: Tensor) -> tuple[Tensor, Tensor]:
    """Return raw features (n, d) and patch tokens (n, GRID², v), float32, of prepared images.

    Tokens are those behind the last block of the image tower, averaged over a grid. Raises
    ConfigError for an image tower that gives none.
    """
    tokens = image_tokens(clip, prepared)[:, 1:]
    side = math.isqrt(tokens.shape[1])
    maps = tokens[:, : side * side].transpose(1, 2).reshape(len(tokens), -1, side, side)
    grid = nn.functional.adaptive_avg_pool2d(maps, GRID)
    features = torch.from_numpy(clip.images(prepared)).to(clip.device)
    return features, grid.flatten(2).transpose(1, 2)
