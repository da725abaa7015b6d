"""Images to train from: a folder, or a benchmark's gallery, as features that the cache holds."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.recipes.base import Given, Source
from pipeline.store.identity import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.records import ImageFile

SOURCE = Source("images", "a folder of images, or DATASET:SPLIT for a benchmark's gallery")


@dataclass(frozen=True)
class Images:
    """Images by name, with their raw features."""

    names: list[str]
    """Of a folder's images the hash of the content, so that a copy counts once."""
    features: Tensor
    """Raw, float32 (n, d)."""
    read: Callable[[str], tuple[ImageFile, bytes]]
    """Returns the file of a name, and its bytes."""
    paths: dict[str, list[str]]
    """What others call an image, by its name: paths below the folder, or a benchmark's id."""
    cache: Path
    """The folder of the cache that is about them."""
    lost: int
    """Images that could not be read."""

    @property
    def name(self) -> str:
        """What messages call them."""
        return self.cache.name

    @property
    def identity(self) -> str:
        """A fingerprint of the images and their order."""
        return fingerprint(self.names)

    def chosen(self, places: Sequence[int]) -> Images:
        """Return some of the images, in that order."""
        names = [self.names[place] for place in places]
        return replace(self, names=names, features=self.features[list(places)])


def load(given: Given, most: int | None = None) -> Images:
    """Return the images of ``--images``, embedding those that are not yet; at most ``most``.

    Which ones those are follows from the seed. Raises InputError for a place that is none, or
    without an image that can be read.
    """
    place = given.sources["images"] or ""
    if Path(place).is_dir():
        found = _of_folder(given, Path(place))
    elif re.fullmatch(r"[\w.-]+:[\w.-]+", place):
        found = _of_gallery(given, place)
    else:
        raise InputError(f"--images {place} is neither a folder nor DATASET:SPLIT.")
    if most is None or most >= len(found.names):
        return found
    rng = random.Random(given.settings.seed)
    return found.chosen(sorted(rng.sample(range(len(found.names)), most)))


def _of_folder(given: Given, place: Path) -> Images:
    import torch

    from pipeline.own import folder

    opened = folder.open_folder(place, given.config, given.cache)
    report = folder.index(opened)
    stored = opened.features()
    paths: dict[str, list[str]] = {}
    for path, name in opened.hashes().items():
        paths.setdefault(name, []).append(path)
    known = [name for name in stored.names if name in paths]

    def read(name: str) -> tuple[Path, bytes]:
        path = paths[name][0]
        return opened.root / path, opened.read(path, name)

    features = torch.from_numpy(stored.take(_rows(stored.row, known))).float()
    home = opened.feature_file.parent.parent
    return Images(known, features, read, paths, home, len(report.failed))


def _of_gallery(given: Given, place: str) -> Images:
    import torch

    from pipeline.images.files import read_named
    from pipeline.stages import embed, embeddings
    from pipeline.store.features import FeatureFile

    run = given.run(place, {"search.method": "image"})
    embed.embed(run)
    stored = FeatureFile(embeddings.image_file(run))
    files = run.dataset.images
    known = [name for name in files if name in stored.row]

    features = torch.from_numpy(stored.take(_rows(stored.row, known))).float()
    paths = {name: [name] for name in known}
    home = embeddings.image_file(run).parent.parent
    read = functools.partial(read_named, files)
    return Images(known, features, read, paths, home, len(files) - len(known))


def _rows(row: Any, names: list[str]) -> Any:
    import numpy as np

    return np.array([row[name] for name in names])
