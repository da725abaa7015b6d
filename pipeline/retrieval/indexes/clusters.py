"""The exact best images without a look at every image: clusters, and what bounds their scores.

A query's score is at most v·x for a vector v between its two ends (``certified.py``). All images of
a segment of a cluster lie within an angle θ of the centre's direction, so v·x is at most
‖v‖·cos(φ - θ) where v lies at φ > θ: segments that stay below the k-th best so far are left out. In
the others x is c + h + r, with h the part of x - c along the first principal axes and r the rest,
so v·x is at most v·c + v·h + ‖v along the rest‖·‖r‖: one product of a few dimensions. Only images
that reach the k-th best by that are read in full. All bounds allow for rounding: nothing is missed.

Where a few queries show that most of the gallery would have to be read, it is scanned instead.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import IndexConfig
from pipeline.retrieval import bounded
from pipeline.retrieval.indexes import costs, layout
from pipeline.retrieval.indexes.base import Found, Rows, Scores, Vectors
from pipeline.retrieval.indexes.layout import SEGMENTS, TOGETHER, Layout
from pipeline.retrieval.ranking import Gallery, ignore, top_images
from pipeline.retrieval.scoring import Ends, normalise
from pipeline.store.files import is_ready, lock

ROUNDS = (1, 4)
"""Clusters that a query looks into first, those of nearest centres, before all that are left."""

SAMPLE = 4
"""Queries of a search, one in ``FEWEST`` at most, that show how much has to be read."""

SAMPLED = 2_048
"""Images that show how many have to be read in full."""

FEWEST = 16
"""Fewer queries are never scanned."""

QUERIES = 512
"""Queries that search together."""

FEATURES = 8 << 20
"""Bytes of the features of images that are read at a time."""

DENSE = 512
"""Pairs of queries and images of one cluster from which on a matrix product is quicker."""


class Clusters:
    """A gallery in clusters. ``read`` counts, over all searches and queries, the images of which
    at least the first coordinates were read.
    """

    exact = True

    def __init__(self, gallery: Gallery, file: Path) -> None:
        self.gallery = gallery
        self.layout = Layout(file)
        self.directions = layout.directions(self.layout.centres).astype(np.float32)
        self.read = 0

    def search(self, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
        """Return the k largest inner products, as ``Index`` says; equal ones in gallery order."""
        probes = torch.from_numpy(vectors)
        found = self.best(Ends(probes, probes), [probes], k)
        scores, rows = found.scores.numpy(), found.rows.numpy()
        return scores, np.where(np.isneginf(scores), -1, rows)

    def best(
        self,
        ends: Ends,
        probes: Sequence[Tensor],
        k: int,
        excluded: Tensor | None = None,
        advance: Callable[[int], Any] = ignore,
    ) -> Found:
        """Return each query's best images; ``excluded`` int64 (queries, m) are never among them.

        For every image, one of the ``probes``, each (queries, d), bounds its score from above.
        """
        if self._scan_is_quicker(ends, probes, k, excluded):
            best, found = top_images(ends, self.gallery, k, excluded=excluded)
            self.read += ends.count * self.gallery.shape[0]
            advance(ends.count)
            return Found(best, found, np.full(ends.count, self.gallery.shape[0]), ends.count)
        scores, rows, visited = [], [], []
        for start in range(0, ends.count, QUERIES):
            some = slice(start, start + QUERIES)
            one = self._search(some, ends, probes, k, excluded)
            one.run()
            self.read += one.read
            scores.append(one.scores)
            rows.append(one.rows)
            visited.append(one.visited)
            advance(one.ends.count)
        return Found(
            torch.from_numpy(np.concatenate(scores)),
            torch.from_numpy(np.concatenate(rows)),
            np.concatenate(visited),
            0,
        )

    def _search(
        self,
        some: slice,
        ends: Ends,
        probes: Sequence[Tensor],
        k: int,
        excluded: Tensor | None,
    ) -> "_Search":
        never = None if excluded is None else excluded[some].numpy()
        own = [probe[some].numpy() for probe in probes]
        return _Search(self, ends.map(itemgetter(some)), own, k, never)

    def _scan_is_quicker(
        self, ends: Ends, probes: Sequence[Tensor], k: int, excluded: Tensor | None
    ) -> bool:
        """Whether a scan will take less time, by what some of the queries would have to read."""
        images, width = self.gallery.shape
        if ends.count < FEWEST or k > images:
            return False
        some = slice(0, None, max(FEWEST, ends.count // SAMPLE))
        left, full = self._search(some, ends, probes, k, excluded).shares()
        clusters, head = len(self.layout.centres), self.layout.heads.shape[1]
        quick = bounded.pays(ends, images, k, excluded)
        own = costs.of_clusters(images, width, head, clusters, ends.count, left, full)
        return own > costs.of_scan(images, width, ends.count, quick)


@dataclass
class _Pairs:
    """Pairs of a probe and an image that reached the query's k-th best: numbers (n) each."""

    probe: Rows
    place: Rows
    """Where the image lies in the layout."""
    score: Scores
    """Its inner product, without what the tail adds."""


class _Search:
    """The search of some queries (n) for the k best images of each, by probes (m, d)."""

    def __init__(
        self,
        index: Clusters,
        ends: Ends,
        probes: Sequence[Vectors],
        k: int,
        excluded: Rows | None,
    ) -> None:
        self.gallery, self.layout, self.k = index.gallery, index.layout, k
        self.ends, self.excluded = ends, excluded
        self.owner = np.tile(np.arange(ends.count), len(probes))
        vectors = np.concatenate(probes)
        width = vectors.shape[1]
        turned = vectors @ self.layout.axes
        head = self.layout.heads.shape[1] - 1
        self.tail = np.ascontiguousarray(turned[:, head:])
        self.rest = np.nextafter(np.linalg.norm(self.tail, axis=1), np.float32(np.inf))
        self.head = np.column_stack([turned[:, :head], self.rest])
        self.centre = turned @ self.layout.centres.T
        self.length = np.linalg.norm(vectors.astype(np.float64), axis=1)
        exact = layout.error(width)
        cosine = (turned @ index.directions.T) / np.maximum(self.length, 1e-30)[:, None]
        self.angle: NDArray[np.float64] = (
            np.arccos(np.clip(cosine + 2 * exact, -1, 1)) - 1e-6
        )  # of float32's arccos
        rounded = self.layout.radius * 2.0**-11 + width * 2.0**-25  # to float16
        self.inexact = (self.length * (rounded + 3 * exact)).astype(np.float32)
        longest = torch.maximum(ends.positive.norm(dim=1), ends.negative.norm(dim=1))
        self.margin: Scores = (exact * longest).numpy()
        self.blocks = self.layout.heads.reshape(-1, TOGETHER, head + 1)
        self.pairs = max(1, FEATURES // (4 * width))
        self.scores = np.full((ends.count, k), -np.inf, np.float32)
        self.rows = np.zeros((ends.count, k), np.int64)
        self.visited = np.zeros(ends.count, np.int64)
        self.read = 0

    @property
    def needed(self) -> Scores:
        """The inner product (m) that an image must reach; -inf while there are fewer than k."""
        needed: Scores = (self.scores[:, -1] - self.margin)[self.owner]
        return needed

    def run(self) -> None:
        """Find every query's best images."""
        self._look(np.where(self.begin(), self._segments(), 0))

    def shares(self) -> tuple[float, float]:
        """Look into the nearest clusters alone; return which shares of all images are left to read,
        in part and in full, an average of the probes. The second is estimated from some images.
        """
        segments = np.where(self.begin(), self._segments(), 0)
        starts = self.layout.starts
        images = int(starts[-1])
        left = (segments @ np.diff(starts)).mean() / (SEGMENTS * images)
        place = np.arange(min(SAMPLED, images)) * images // min(SAMPLED, images)
        own = np.searchsorted(starts, place, side="right") - 1
        bound = self.centre[:, own] + self.head @ _wide(self.layout.heads[place]).T
        full = (bound >= (self.needed - self.inexact)[:, None]).mean()
        return float(left), min(float(left), float(full))

    def begin(self) -> NDArray[np.bool_]:
        """Look into the nearest clusters, which say what others must reach.

        Returns (m, clusters) which are left.
        """
        last = min(sum(ROUNDS), self.centre.shape[1]) - 1
        nearest = np.argpartition(-self.centre, last, axis=1)[:, : last + 1]
        order = np.argsort(-np.take_along_axis(self.centre, nearest, 1), axis=1)
        nearest = np.take_along_axis(nearest, order, 1)
        left = np.ones(self.centre.shape, bool)
        for start, count in zip((0, ROUNDS[0]), ROUNDS, strict=True):
            chosen = np.zeros(left.shape, bool)
            np.put_along_axis(chosen, nearest[:, start : start + count], True, axis=1)
            self._look(np.where(chosen, self._segments(), 0))
            left &= ~chosen
        return left

    def _segments(self) -> NDArray[np.int64]:
        """Return how many segments (m, clusters), from the rim inwards, can hold what is needed.

        The bound ‖v‖·cos(φ - θ) reaches s where θ is at least φ - arccos(s / ‖v‖).
        """
        if np.isneginf(self.scores[:, -1]).all():
            return np.full(self.angle.shape, SEGMENTS)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = np.nan_to_num(self.needed / self.length, nan=-1.0)
        least = self.angle - np.arccos(np.clip(cosine, -1, 1))[:, None] - 1e-6
        count = np.zeros(least.shape, np.int64)
        for rim in self.layout.angles.T:
            count += rim >= least
        return count

    def _look(self, segments: NDArray[np.int64]) -> None:
        """Look into as many ``segments`` (m, clusters) of every cluster."""
        sizes = np.diff(self.layout.starts)
        dense = (segments * sizes // SEGMENTS).sum(axis=0) >= DENSE
        found: list[_Pairs] = []
        pending = 0
        for producer in (self._many(segments, dense), self._few(segments * ~dense)):
            for pairs in producer:
                found.append(pairs)
                pending += len(pairs.probe)
                if pending >= self.pairs:
                    self._compare(found)
                    found, pending = [], 0
        self._compare(found)

    def _many(self, segments: NDArray[np.int64], dense: NDArray[np.bool_]) -> Iterator[_Pairs]:
        """Yield what the heads of ``dense`` clusters leave of the probes that look into them."""
        for cluster in np.flatnonzero(dense).tolist():
            probes = np.flatnonzero(segments[:, cluster])
            start, stop = self.layout.starts[cluster : cluster + 2].tolist()
            stop = start + (stop - start) * int(segments[probes, cluster].max()) // SEGMENTS
            heads = _wide(self.layout.heads[start:stop])
            bound = self.head[probes] @ heads.T
            centre = self.centre[probes, cluster]
            least = (self.needed - self.inexact)[probes] - centre
            hits = np.flatnonzero((bound >= least[:, None]).ravel())
            which, image = np.divmod(hits, stop - start)
            self.read += bound.size
            score = bound.ravel()[hits] - self.rest[probes[which]] * heads[image, -1]
            yield _Pairs(probes[which], start + image, score + centre[which])

    def _few(self, segments: NDArray[np.int64]) -> Iterator[_Pairs]:
        """Yield the same of other clusters, by the blocks of images that hold their segments."""
        probe, cluster = np.nonzero(segments)
        start = self.layout.starts[cluster]
        size = self.layout.starts[cluster + 1] - start
        stop = start + size * segments[probe, cluster] // SEGMENTS
        first = start // TOGETHER
        count = np.where(stop > start, -(-stop // TOGETHER) - first, 0)
        pair, block = np.repeat(np.arange(len(probe)), count), _ranges(first, count)
        centre = self.centre[probe, cluster]
        portion = self.pairs // TOGETHER + 1
        for some in range(0, len(pair), portion):
            part = slice(some, some + portion)
            which = pair[part]
            heads = _wide(self.blocks[block[part]])
            bound = (heads @ self.head[probe[which], :, None])[:, :, 0]
            least = (self.needed - self.inexact)[probe[which]] - centre[which]
            where, image = np.divmod(np.flatnonzero((bound >= least[:, None]).ravel()), TOGETHER)
            self.read += bound.size
            place = block[part][where] * TOGETHER + image
            inside = (place >= start[which[where]]) & (place < stop[which[where]])
            where, image, place = where[inside], image[inside], place[inside]
            own = probe[which[where]]
            score = bound[where, image] - self.rest[own] * heads[where, image, -1]
            yield _Pairs(own, place, score + centre[which[where]])

    def _compare(self, found: list[_Pairs]) -> None:
        """Compare the images of pairs in full; keep each query's best."""
        for pairs in _portions(found, self.pairs):
            tails = _wide(self.layout.tails[pairs.place])
            score = pairs.score + np.einsum("ij,ij->i", self.tail[pairs.probe], tails)
            self.visited += np.bincount(self.owner[pairs.probe], minlength=self.ends.count)
            some = score >= (self.needed - self.inexact)[pairs.probe]
            self._keep(self.owner[pairs.probe[some]], self.layout.rows[pairs.place[some]])

    def _keep(self, query: Rows, row: Rows) -> None:
        """Merge images, given by their gallery rows (n), into the best of their queries (n)."""
        if self.excluded is not None:
            good = (self.excluded[query] != row[:, None]).all(axis=1)
            query, row = query[good], row[good]
        if not len(query):
            return
        score = self._exact(query, row)
        touched = np.unique(query)
        query = np.concatenate([np.repeat(touched, self.k), query])
        score = np.concatenate([self.scores[touched].ravel(), score])
        row = np.concatenate([self.rows[touched].ravel(), row])
        order = np.lexsort((row, -score, query))
        query, score, row = query[order], score[order], row[order]
        again = (np.diff(query, prepend=-1) == 0) & (np.diff(row, prepend=-1) == 0)
        again &= ~np.isneginf(score)  # of two probes
        query, score, row = query[~again], score[~again], row[~again]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = rank < self.k
        self.scores[query[kept], rank[kept]] = score[kept]
        self.rows[query[kept], rank[kept]] = row[kept]

    def _exact(self, query: Rows, row: Rows) -> Scores:
        """Return the scores (n) of gallery rows (n), each for its query (n)."""
        features = normalise(torch.from_numpy(self.gallery.take(row)).float()).numpy()
        positive: Scores = np.einsum("ij,ij->i", self.ends.positive.numpy()[query], features)
        if self.ends.negative is self.ends.positive:
            return positive
        negative = np.einsum("ij,ij->i", self.ends.negative.numpy()[query], features)
        both = np.maximum if self.ends.take_max else np.minimum
        scores: Scores = both(positive, negative)
        return scores


def _portions(found: list[_Pairs], size: int) -> Iterator[_Pairs]:
    """Yield all pairs, ``size`` at a time."""
    if not found:
        return
    probe = np.concatenate([pairs.probe for pairs in found])
    place = np.concatenate([pairs.place for pairs in found])
    score = np.concatenate([pairs.score for pairs in found])
    for start in range(0, len(probe), size):
        part = slice(start, start + size)
        yield _Pairs(probe[part], place[part], score[part])


def _wide(rows: NDArray[np.float16]) -> Vectors:
    """Return float16 rows as float32; torch does so many times faster than numpy."""
    wide: Vectors = torch.from_numpy(rows).float().numpy()
    return wide


def _ranges(start: Rows, count: Rows) -> Rows:
    """Return start, start + 1, … of each of some ranges (n), one range after the other."""
    before = np.cumsum(count) - count
    ranges: Rows = np.arange(count.sum()) + np.repeat(start - before, count)
    return ranges


def opened(gallery: Gallery, settings: IndexConfig, file: Path) -> Clusters:
    """Return the clusters in ``file``, built first where they are not there."""
    if not is_ready(file):
        with lock(file):
            if not is_ready(file):
                layout.build(gallery, settings.lists, file)
    return Clusters(gallery, file)
