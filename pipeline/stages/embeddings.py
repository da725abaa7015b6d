"""Where the features of a run's images and texts are, and what they depend on."""

import itertools
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.models import encoders
from pipeline.models.identity import begun_features
from pipeline.models.identity import settle as settle_model
from pipeline.run import Run, slug
from pipeline.store.identity import fingerprint
from pipeline.store.segments import folder_of

TEXTS = "texts"
"""The folder of the cache that holds the features of texts, one file an encoder."""


def header(run: Run) -> dict[str, Any]:
    """Return everything about the encoder that changes a feature."""
    return identity(run.config)


def identity(config: Config) -> dict[str, Any]:
    """Return everything about the configuration's encoder that changes a feature."""
    return encoders.ROLE.chosen(config).identity


def of_images(config: Config) -> dict[str, Any]:
    """Return everything about the configuration's encoder that changes the feature of an image."""
    return {name: told for name, told in identity(config).items() if name != "long_texts"}


def settle(config: Config, *files: Path) -> tuple[Config, dict[str, Any]]:
    """Return ``config`` with the precision to go on with ``files`` in, and what headers say of it.

    The first of them that is there tells; a server's precision is its own matter.
    """
    if encoders.ROLE.chosen(config).kind.served:
        return config, {}
    parts = ([file, *sorted(folder_of(file).glob("*.safetensors"))] for file in files)
    begun = begun_features(list(itertools.chain.from_iterable(parts)))
    encoder, told = settle_model(config.encoder, config.runtime, begun)
    return config.with_encoder(encoder), told


def image_file(run: Run) -> Path:
    """Where the features of the gallery's images are; splits with one gallery share it."""
    content = of_images(run.config) | run.dataset.gallery_identity
    name = f"{slug(run.config.encoder.model)}-{fingerprint(content)}.safetensors"
    return run.cache / run.dataset.gallery_name / "images" / name


def text_file(run: Run) -> Path:
    """Where the features of all texts are that this encoder has embedded, whatever the dataset."""
    content = header(run) | {"stage": "embed texts"}
    name = f"{slug(run.config.encoder.model)}-{fingerprint(content)}.safetensors"
    return run.cache / TEXTS / name
