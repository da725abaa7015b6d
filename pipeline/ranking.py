"""Exact top-k over a gallery of features, block by block: memory stays bounded at any size."""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.scoring import Ends, RankEnds, Score, normalise, top_k

BLOCK = 16_384
"""Gallery images scored at a time."""

WHOLE = 192 << 20
"""Bytes for the queries that are scored at a time where a score needs the whole gallery."""


class Gallery(Protocol):
    """Feature vectors of gallery images, read in slices."""

    @property
    def shape(self) -> tuple[int, int]:
        """Images, dimensions."""

    def rows(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Return rows ``start`` to ``stop`` as an array (stop - start, d)."""


def _ignore(count: int) -> None:
    return None


def blocks(
    gallery: Gallery,
    inside: NDArray[np.bool_] | None,
    device: str,
    advance: Callable[[int], Any] = _ignore,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row numbers int64 (n) and normalised float32 features (n, d) of each block.

    ``inside`` (images) tells which rows take part; ``advance`` is told how many were read.
    """
    for start in range(0, gallery.shape[0], BLOCK):
        stop = min(start + BLOCK, gallery.shape[0])
        rows = torch.arange(start, stop)
        features = torch.from_numpy(gallery.rows(start, stop)).float()
        if inside is not None:
            chosen = torch.from_numpy(inside[start:stop])
            rows, features = rows[chosen], features[chosen]
        if len(rows):
            yield rows, normalise(features.to(device))
        advance(stop - start)


class Best:
    """The best k images of every query so far. Equal scores keep gallery order."""

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.scores = torch.empty(queries, 0)
        self.rows = torch.empty(queries, 0, dtype=torch.long)

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Take in a later block's ``scores`` (queries, n) of the images in ``rows`` (n)."""
        found, found_rows = top_k(scores, rows, self.k)
        both = torch.cat([self.scores, found], dim=1)
        both_rows = torch.cat([self.rows, found_rows], dim=1)
        ranked = both.sort(dim=1, descending=True, stable=True)
        self.scores = ranked.values[:, : self.k]
        self.rows = both_rows.gather(1, ranked.indices)[:, : self.k]


def top_images(
    score: Score,
    gallery: Gallery,
    k: int,
    inside: NDArray[np.bool_] | None = None,
    excluded: Tensor | None = None,
    device: str = "cpu",
    advance: Callable[[int], Any] = _ignore,
) -> tuple[Tensor, Tensor]:
    """Return each query's best images: scores float32 and rows int64, both (queries, up to k).

    ``excluded`` int64 (queries, m) holds rows never to be retrieved, -1 for none; where too few
    images are left a score is -inf.
    """
    queries = score.count
    score = score.map(lambda vectors: vectors.to(device))
    if isinstance(score, RankEnds):
        best, best_rows = [], []
        for start, scores, rows in _whole(score, gallery, inside, device, advance):
            part = None if excluded is None else excluded[start : start + len(scores)]
            found, found_rows = top_k(without(scores, rows, part), rows, k)
            best.append(found)
            best_rows.append(found_rows)
        return torch.cat(best), torch.cat(best_rows)
    kept = Best(queries, k)
    for rows, features in blocks(gallery, inside, device, advance):
        kept.add(without(score.scores(features).cpu(), rows, excluded), rows)
    return kept.scores, kept.rows


def scores_of(
    score: Score,
    gallery: Gallery,
    asked: Sequence[Sequence[int]],
    inside: NDArray[np.bool_] | None = None,
    device: str = "cpu",
) -> list[Tensor]:
    """Return, for each query, the scores (len(asked[i])) of the gallery rows it asks for."""
    score = score.map(lambda vectors: vectors.to(device))
    if isinstance(score, RankEnds):
        found: list[Tensor] = []
        for start, scores, rows in _whole(score, gallery, inside, device):
            for i, row in enumerate(scores, start):
                found.append(row[torch.searchsorted(rows, torch.tensor(asked[i]))])
        return found
    return [_few(score, gallery, i, rows, device) for i, rows in enumerate(asked)]


def _few(score: Ends, gallery: Gallery, query: int, rows: Sequence[int], device: str) -> Tensor:
    if not rows:
        return torch.empty(0)
    features = np.concatenate([gallery.rows(row, row + 1) for row in rows])
    block = normalise(torch.from_numpy(features).float().to(device))
    return score.map(lambda vectors: vectors[query : query + 1]).scores(block)[0].cpu()


def _whole(
    score: RankEnds,
    gallery: Gallery,
    inside: NDArray[np.bool_] | None,
    device: str,
    advance: Callable[[int], Any] = _ignore,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the first query's number, scores (queries, n) and rows (n), some queries at a time."""
    images = gallery.shape[0] if inside is None else int(inside.sum())
    size = max(1, WHOLE // (48 * max(images, 1)))
    for start in range(0, score.count, size):
        part = score.map(itemgetter(slice(start, start + size)))
        found = [
            (rows, part.similarities(features))
            for rows, features in blocks(gallery, inside, device, advance if not start else _ignore)
        ]
        if not found:
            continue
        after = torch.cat([after for _, (after, _) in found], dim=1)
        before = torch.cat([before for _, (_, before) in found], dim=1)
        yield start, part.scores(after, before).cpu(), torch.cat([rows for rows, _ in found])


def without(scores: Tensor, rows: Tensor, excluded: Tensor | None) -> Tensor:
    """Set the ``scores`` (queries, n) of ``excluded`` rows (queries, m) to -inf, in place."""
    if excluded is not None:
        for column in excluded.T:
            scores[rows[None, :] == column[:, None]] = float("-inf")
    return scores
