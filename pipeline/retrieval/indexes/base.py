"""What an index of a gallery offers, whatever serves it."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.retrieval.ranking import Gallery

Vectors = NDArray[np.float32]
Scores = NDArray[np.float32]
Rows = NDArray[np.int64]


class Index(Protocol):
    """Finds the gallery images of largest inner product with a vector."""

    exact: bool
    """Whether its lists are complete; the lists of an approximate index may leave images out."""

    def search(self, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
        """Return the k largest inner products of each of ``vectors`` (n, d), falling, and their
        gallery rows, both (n, k); row -1 and -inf fill up where it found fewer.
        """


def spans(images: int, shards: int) -> list[int]:
    """Return where each of ``shards`` parts of equal size starts, and where the last ends.

    There are fewer where there are fewer images.
    """
    count = min(shards, images)
    return [images * shard // count for shard in range(count + 1)]


@dataclass(frozen=True)
class Found:
    """The best images of every query, best first, equal scores in gallery order."""

    scores: Tensor
    """float32 (queries, up to k); -inf where there are fewer."""
    rows: Tensor
    """int64 (queries, up to k)."""
    visited: NDArray[np.int64]
    """Images whose whole feature was read (queries); all of the gallery where it was scanned."""
    scanned: int
    """Queries that were scanned, because no list was long enough or a scan takes less time."""


class Members:
    """The gallery of some rows of another."""

    def __init__(self, gallery: Gallery, chosen: Rows) -> None:
        self.gallery = gallery
        self.chosen = chosen
        self.shape: tuple[int, int] = (len(chosen), gallery.shape[1])

    def rows(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Return rows ``start`` to ``stop`` as an array (stop - start, d)."""
        return self.gallery.take(self.chosen[start:stop])

    def take(self, rows: Rows) -> NDArray[np.floating[Any]]:
        """Return the given rows as an array (len(rows), d)."""
        return self.gallery.take(self.chosen[rows])
