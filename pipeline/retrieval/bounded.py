"""Exact top-k for many queries at the price of one quick product a query and image.

SEIZE's score is the smaller of two inner products, so an inner product with any vector between the
two bounds it from above; of the larger of two, either has to reach a limit. A quick product with a
proven error (``products.py``) says which images may exceed a query's k-th best score so far. Their
scores alone are computed in float32, each pair alike wherever it stands: what is found does not
depend on which product was quick, nor on blocks, and equal features have equal scores.

No image is missed. Let t be a query's k-th best score and s an image's, both as computed in
float32, p and n the query's ends, q a vector between them, x of length 1. If s > t, then

    t < s  ≤  min(p·x, n·x) + e  ≤  q·x + e  ≤  fl(q'·x') + error + e,

where e bounds the error of s. So fl(q'·x') > t − error − e, and that is what is asked for. For the
larger of two, s − e is at most p·x or n·x, and the same follows for that one. Later images have to
exceed t, so that equal scores keep gallery order.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.retrieval import products, trials
from pipeline.retrieval.scoring import Ends, shortest

MULTIPLY_ADDS = 1 << 34
"""A search of fewer is over in a fraction of a second: it takes the plain path."""

QUERIES = 64
"""Fewer queries gain less than it takes to convert the gallery."""

FIRST = 2_048
"""Images whose products are computed in float32, before there is a limit to compare with."""

BLOCK = 4_096
"""Images compared at a time, at most: smaller products stay in the cache, larger ones do not."""

SHARE = 32
"""A more exact product is taken where more than one in so many pairs of a block are to be scored,
beside what is to be expected; a query that takes so many of the gallery's images is left out."""

EXPECTED = 4
"""How many times as many images as would join a query's best in random order are expected."""

UNIT_LENGTH = 1 + 1e-5
"""Features that are normalised in float32 are no longer than this."""

LARGEST = 1e15
"""Queries with larger numbers, or infinite ones, take the plain path: their sums might overflow."""


class Kept(Protocol):
    """The best images so far."""

    @property
    def threshold(self) -> Tensor | None:
        """The score (queries) that a later image must exceed, None while there are too few."""

    def add_some(self, queries: Tensor, scores: Tensor, rows: Tensor) -> None:
        """Take in scores (m) of the images in ``rows`` (m), each for one query of ``queries``."""


def pays(ends: Ends, images: int, k: int, excluded: Tensor | None) -> bool:
    """Whether to search ``images`` for the best ``k`` of every query in this way."""
    count, width = ends.positive.shape
    never = 0 if excluded is None else excluded.shape[1]
    return (
        ends.positive.device.type == "cpu"
        and count >= QUERIES
        and count * images * width >= MULTIPLY_ADDS
        and images >= 8 * FIRST
        and 16 * (k + never) <= FIRST
        and all(bool((end.abs() < LARGEST).all()) for end in (ends.positive, ends.negative))
        and bool(trials.ranked(width))
    )


def search(
    ends: Ends,
    blocks: Iterable[tuple[Tensor, Tensor]],
    images: int,
    k: int,
    kept: Kept,
    excluded: Tensor | None,
    kinds: tuple[type[products.Product], ...] | None = None,
) -> NDArray[np.bool_]:
    """Put each query's best ``k`` images into ``kept``; return who was left out, bool (queries).

    ``blocks`` yields rows int64 (n), which rise, and features float32 (n, d) of length 1 (or 0), of
    ``images`` together. Queries left out have not all of theirs: too many images are as good as
    their best. ``kinds`` are the products to take, the quickest first, found out if not given.
    """
    return _Search(ends, images, k, kept, excluded, kinds).run(blocks)


class _Search:
    def __init__(
        self,
        ends: Ends,
        images: int,
        k: int,
        kept: Kept,
        excluded: Tensor | None,
        kinds: tuple[type[products.Product], ...] | None,
    ) -> None:
        self.ends, self.k, self.kept, self.excluded = ends, k, kept, excluded
        self.most = images // SHARE
        both = ends.positive, ends.negative
        self.vectors = torch.cat(both) if ends.take_max else shortest(ends)
        width = self.vectors.shape[1]
        self.kinds = list(kinds or trials.ranked(width))
        self.product = self.kinds.pop(0)(self.vectors)
        longest = [products.lengths_of(end) for end in both]
        # Of a score in float32; a vector between the ends is itself rounded, by less than that.
        self.own_error = products.sum_error(width) * np.maximum(*longest) + products.TINY
        self.seen = 0
        self.counts = np.zeros(ends.count, np.int64)
        self.left_out = np.zeros(ends.count, bool)

    def run(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> NDArray[np.bool_]:
        for rows, features in blocks:
            if 2 * int(self.left_out.sum()) > len(self.left_out):
                self.left_out[:] = True
                break
            for start in range(0, len(rows), BLOCK):
                self._add(rows[start : start + BLOCK], features[start : start + BLOCK])
        return self.left_out

    def _add(self, rows: Tensor, features: Tensor) -> None:
        threshold = self.kept.threshold
        if threshold is None:
            pairs = self._first(rows, features)
            threshold = torch.full((self.ends.count,), float("-inf"))
        else:
            pairs = self._candidates(features, threshold.double().numpy())
        images, queries, scores = exceeding(self.ends, features, *pairs, threshold)
        found = rows[images]
        if self.excluded is not None:
            scores[(self.excluded[queries] == found[:, None]).any(dim=1)] = float("-inf")
        order = queries.argsort(stable=True)  # images keep theirs
        order = order[scores[order] > float("-inf")]
        self.kept.add_some(queries[order], scores[order], found[order])
        self.seen += len(rows)

    def _first(self, rows: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return pairs of images and queries that may be among the best of the first block."""
        scores = self.ends.scores(features)
        if self.excluded is not None:
            for column in self.excluded.T:
                scores[rows == column[:, None]] = float("-inf")
        k = min(self.k, len(rows))
        least = scores.topk(k, dim=1).values[:, -1].double().numpy()
        limits = products.rounded_down(least - 2 * self.own_error)
        mask = scores.numpy() >= limits[:, None]
        return _pairs(np.ascontiguousarray(mask.T))

    def _candidates(
        self, features: Tensor, threshold: NDArray[np.float64]
    ) -> tuple[Tensor, Tensor]:
        """Return pairs of images and queries that may exceed the query's ``threshold``."""
        while True:
            self.product.load(features, UNIT_LENGTH)
            limits = threshold - self.own_error
            limits[self.left_out] = np.inf
            if self.ends.take_max:
                limits = np.tile(limits, 2)
            mask = self.product.reaching(limits - self.product.error())
            if self.ends.take_max:
                mask = mask[:, : len(threshold)] | mask[:, len(threshold) :]
            images, queries = _pairs(mask)
            expected = len(features) * (EXPECTED * self.k / self.seen + 1 / SHARE)
            if not self.kinds or len(queries) <= expected * len(threshold):
                break
            self.product = self.kinds.pop(0)(self.vectors)
        self.counts += torch.bincount(queries, minlength=len(threshold)).numpy()
        new = self.counts > self.most
        if new.any():
            self.left_out |= new
            kept = ~torch.from_numpy(self.left_out)[queries]
            images, queries = images[kept], queries[kept]
        return images, queries


def _pairs(mask: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Return the images, which rise, and the queries (m each) that ``mask`` (n, queries) is for."""
    places = torch.from_numpy(mask.reshape(-1).nonzero()[0])
    images = places // mask.shape[1]
    return images, places - images * mask.shape[1]


def exceeding(
    ends: Ends, features: Tensor, images: Tensor, queries: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return those pairs of ``images``, which rise, of ``features`` and ``queries`` (m each) whose
    score exceeds their query's ``threshold`` (queries), and these scores.

    The smaller of two products is computed where the first exceeds it, too. Pairs go image by
    image: queries are fewer, and stay in the cache.
    """
    scores = products.sampled(features, ends.positive, images, queries)
    if ends.take_max:
        others = products.sampled(features, ends.negative, images, queries)
        scores = torch.maximum(scores, others)
    good = scores > threshold[queries]
    images, queries, scores = images[good], queries[good], scores[good]
    if ends.take_max or ends.negative is ends.positive:
        return images, queries, scores
    others = products.sampled(features, ends.negative, images, queries)
    good = others > threshold[queries]
    return images[good], queries[good], torch.minimum(scores, others)[good]
