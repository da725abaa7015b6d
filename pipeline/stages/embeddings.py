"""Where the features of a run's images and texts are, and what they depend on."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.errors import ModelError
from pipeline.models.identity import begun_features, model_identity
from pipeline.models.identity import settle as settle_model
from pipeline.run import Run, slug
from pipeline.store.features import Features
from pipeline.store.identity import fingerprint
from pipeline.store.shards import folder_of

TEXTS = "texts"
"""The folder of the cache that holds the features of texts, one file an encoder."""


def header(run: Run) -> dict[str, Any]:
    """Return everything about CLIP that changes a feature."""
    return identity(run.config)


def identity(config: Config) -> dict[str, Any]:
    """Return everything about the configuration's CLIP that changes a feature."""
    clip = config.clip
    scheme, _, folder = clip.model.partition(":")
    return {
        **clip.model_dump(),
        "model": model_identity(folder) if scheme == "local-dir" else clip.model,
        "pretrained": clip.pretrained and model_identity(clip.pretrained),
    }


def settle(config: Config, *files: Path) -> tuple[Config, dict[str, Any]]:
    """Return ``config`` with the precision to go on with ``files`` in, and what headers say of it.

    The first of them that is there tells.
    """
    parts = ([file, *sorted(folder_of(file).glob("*.safetensors"))] for file in files)
    begun = begun_features(list(itertools.chain.from_iterable(parts)))
    clip, told = settle_model(config.clip, config.runtime, begun)
    return config.model_copy(update={"clip": clip}), told


def image_file(run: Run) -> Path:
    """Where the features of the gallery's images are; splits with one gallery share it."""
    content = header(run) | {"gallery": run.dataset.gallery_fingerprint}
    name = f"{slug(run.config.clip.model)}-{fingerprint(content)}.safetensors"
    return run.cache / run.dataset.gallery_name / "images" / name


def text_file(run: Run) -> Path:
    """Where the features of all texts are that this encoder has embedded, whatever the dataset."""
    content = header(run) | {"stage": "embed texts"}
    name = f"{slug(run.config.clip.model)}-{fingerprint(content)}.safetensors"
    return run.cache / TEXTS / name


def finite(features: Features, names: Sequence[str], what: str) -> Features:
    """Return ``features`` (len(names), d); raises ModelError naming the first that is not finite.

    A model that overflows in half precision makes such features; they would spoil every ranking.
    """
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        raise ModelError(
            f"CLIP makes a feature that is NaN or infinite of the {what} "
            f"{names[int(good.argmin())]!r}. If it does so in float16, try --set "
            "clip.precision=float32; else its weights are damaged."
        )
    return features
