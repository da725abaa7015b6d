"""A folder's index as it is held in memory, and what tells that the one on disk has changed."""

import numpy as np
import torch
from torch import Tensor

from pipeline.own.folder import Folder
from pipeline.retrieval.ranking import UnitGallery
from pipeline.store import segments


class Images:
    """The index in memory: normalised features in the order of paths."""

    def __init__(self, source: Folder) -> None:
        self.stamp = stamp(source)
        stored = source.features()
        row = stored.row
        self.paths: dict[str, list[str]] = {}
        for path, content_hash in source.hashes().items():
            if content_hash in row:
                self.paths.setdefault(content_hash, []).append(path)
        self.hashes = list(self.paths)
        self.row = {name: i for i, name in enumerate(self.hashes)}
        places = np.array([row[name] for name in self.hashes], np.int64)
        self.gallery = UnitGallery(torch.from_numpy(stored.take(places)))
        self._stored, self._places = stored, places

    def raw(self, row: int) -> Tensor:
        """Return an image's feature (d) as CLIP gives it, not normalised."""
        return torch.from_numpy(self._stored.take(self._places[[row]]))[0].float()


def stamp(source: Folder) -> tuple[tuple[int, int], ...]:
    """Return what changes when another process updates the index."""
    return (*segments.stamp(source.feature_file), *segments.stamp(source.listing.file))
