"""Top-k from the lists of an inner-product index, with a certificate that nothing was missed.

The score min(q⁺·x, q⁻·x) is at most q·x for any q between the two ends, so an image outside the
index's list for q scores no more than the list's last entry. Once the k-th best exact score exceeds
that bound, the top-k is found; until then a longer list is taken. For the max, the lists of both
ends bound it together. With an exact index the result is that of the scan.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.retrieval.indexes.base import Found, Index, Rows
from pipeline.retrieval.indexes.clusters import Clusters
from pipeline.retrieval.ranking import Gallery, ignore, top_images, without
from pipeline.retrieval.scoring import Ends, normalise, shortest, top_k

FIRST = 2
"""A query's first list is this many times as long as the top-k: nearly always enough."""

GROWTH = 4
"""Each further list is this many times as long as the one before."""

LONGEST = 16_384
"""No list is longer, as Milvus has it; a query that needs one is scanned."""

SHARE = 8
"""Nor longer than the gallery divided by this: from there on a scan costs less."""

CANDIDATES = 64 << 20
"""Bytes of candidates' features held at a time."""


def search(
    ends: Ends,
    gallery: Gallery,
    index: Index,
    k: int,
    excluded: Tensor | None = None,
    bound: Callable[[Ends], Tensor] = shortest,
    device: str = "cpu",
    advance: Callable[[int], Any] = ignore,
) -> Found:
    """Return each query's best images by lists of ``index``, scored exactly from ``gallery``.

    ``excluded`` int64 (queries, m) holds rows never to be retrieved, -1 for none. ``bound`` chooses
    a vector (queries, d) between the ends. ``advance`` is told how many queries are done. What an
    approximate index leaves out of its lists is not found, nor covered by the certificate.
    """
    images, width = gallery.shape
    if excluded is None:
        excluded = torch.full((ends.count, 1), -1)
    k = min(k, images)
    if isinstance(index, Clusters):  # which knows more than a list's end to stop at
        return index.best(ends, _probes(ends, bound), k, excluded, advance)
    scores = torch.full((ends.count, k), float("-inf"))
    rows = torch.zeros((ends.count, k), dtype=torch.long)
    visited = np.zeros(ends.count, dtype=np.int64)
    todo = torch.arange(ends.count)
    length = FIRST * k + excluded.shape[1]
    while len(todo) and length <= min(LONGEST, images // SHARE):
        open_ones = []
        for chunk in torch.split(todo, max(1, CANDIDATES // (4 * width * length))):
            own = ends.map(itemgetter(chunk))
            found, unseen = _listed(index, _probes(own, bound), length)
            exact = _exact(own, gallery, found, excluded[chunk])
            best, places = top_k(exact, torch.arange(found.shape[1]), k)
            sure = best[:, -1] > unseen + _margin(own)
            scores[chunk], rows[chunk] = best, found.gather(1, places)
            visited[chunk.numpy()] = (exact != float("-inf")).sum(dim=1).numpy()
            open_ones.append(chunk[~sure])
            advance(int(sure.sum()))
        todo = torch.cat(open_ones)
        length *= GROWTH
    if len(todo):
        own = ends.map(itemgetter(todo))
        scores[todo], rows[todo] = top_images(
            own, gallery, k, excluded=excluded[todo], device=device
        )
        visited[todo.numpy()] = images
        advance(len(todo))
    return Found(scores, rows, visited, len(todo))


def _probes(ends: Ends, bound: Callable[[Ends], Tensor]) -> list[Tensor]:
    """Return vectors (queries, d) one of which bounds each image's score from above."""
    return [ends.positive, ends.negative] if ends.take_max else [bound(ends)]


def _listed(index: Index, probes: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Return the union of the probes' lists and a bound (queries) of what is in none of them.

    The rows int64 (queries, m) rise, with -1 for nothing. A list that is not full bounds nothing:
    the index has no more images to offer.
    """
    lists = [index.search(probe.numpy(), length) for probe in probes]
    rows: Rows = np.sort(np.concatenate([found for _, found in lists], axis=1), axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1  # an image on both lists counts once
    rows.sort(axis=1)
    last = [np.where(found[:, -1] < 0, -np.inf, scores[:, -1]) for scores, found in lists]
    return torch.from_numpy(rows), torch.from_numpy(np.max(last, axis=0))


def _exact(ends: Ends, gallery: Gallery, rows: Tensor, excluded: Tensor) -> Tensor:
    """Return the scores (queries, m) of each query's own ``rows``; -inf for none and excluded."""
    flat = gallery.take(rows.clamp(min=0).flatten().numpy())
    features = normalise(torch.from_numpy(flat).float()).reshape(*rows.shape, -1)
    vectors = torch.stack([ends.positive, ends.negative], dim=2)
    products = features @ vectors
    scores = products.amax(dim=2) if ends.take_max else products.amin(dim=2)
    scores[rows < 0] = float("-inf")
    return without(scores, rows, excluded)


def _margin(ends: Ends) -> Tensor:
    """Return how far (queries) an inner product with a unit vector and its bound can be off.

    Each is a float32 sum of d products, in whatever order: off by at most d·2⁻²⁴ of the vector's
    length (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), and a few for normalising.
    """
    longest = torch.maximum(ends.positive.norm(dim=1), ends.negative.norm(dim=1))
    return 2 * (ends.positive.shape[1] + 8) * 2.0**-24 * longest
