"""A gallery in parts, each with an index of its own: built one by one, searched together.

A shard needs the memory of its part alone while it is built, a stopped build goes on with the
shard that it was at, and shards may lie on several disks. FAISS and clusters map the files into
memory, inverted lists too, so only what a search touches has to be there. Milvus keeps shards
itself, as partitions of one collection.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import IndexConfig, RuntimeConfig
from pipeline.retrieval.indexes.base import Index, Rows, Scores, Vectors, spans
from pipeline.retrieval.ranking import Gallery

if TYPE_CHECKING:
    from pipeline.retrieval.indexes import Opener

PARTITIONED = ("milvus",)
"""Kinds that keep shards in one index, whatever serves it."""


class Span:
    """Rows ``start`` to ``stop`` of another gallery."""

    def __init__(self, gallery: Gallery, start: int, stop: int) -> None:
        self.gallery = gallery
        self.start = start
        self.shape: tuple[int, int] = (stop - start, gallery.shape[1])

    def rows(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Return rows ``start`` to ``stop`` as an array (stop - start, d)."""
        stop = min(stop, self.shape[0])
        return self.gallery.rows(self.start + start, self.start + stop)

    def take(self, rows: Rows) -> NDArray[np.floating[Any]]:
        """Return the given rows as an array (len(rows), d)."""
        return self.gallery.take(self.start + rows)


class Shards:
    """The indexes of some spans of a gallery as one; exact where all of them are."""

    def __init__(self, indexes: Sequence[Index], starts: Sequence[int]) -> None:
        self.indexes, self.starts = indexes, starts
        self.exact = all(index.exact for index in indexes)

    def search(self, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
        """Return the k largest inner products, as ``Index`` says; equal ones in gallery order."""
        lists = [index.search(vectors, k) for index in self.indexes]
        scores = np.concatenate([found for found, _ in lists], axis=1)
        rows = np.concatenate(
            [
                np.where(found < 0, -1, found + start)
                for (_, found), start in zip(lists, self.starts, strict=True)
            ],
            axis=1,
        )
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def opened(
    opener: "Opener", gallery: Gallery, settings: IndexConfig, file: Path, runtime: RuntimeConfig
) -> Index:
    """Return the index of a gallery, in ``settings.shards`` parts of equal size where there are
    as many images; each is kept in a file of its own and built where it is not there.
    """
    bounds = spans(gallery.shape[0], settings.shards)
    count = len(bounds) - 1
    if count == 1 or settings.kind in PARTITIONED:
        return opener(gallery, settings, file, runtime)
    parts = [
        opener(
            Span(gallery, start, stop),
            settings,
            file.with_name(f"{file.name}-{shard + 1}-of-{count}"),
            runtime,
        )
        for shard, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]
    return Shards(parts, bounds[:-1])
