"""Exact top-k over a gallery of features, block by block: memory stays bounded at any size."""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.retrieval import bounded, rises, trials
from pipeline.retrieval.scoring import Ends, RankEnds, Score, normalise, top_k

BLOCK = 4_096
"""Gallery images scored at a time on a CPU, at most: small temporaries are the fast ones."""

PIECE = 512
"""Images converted to float32 at a time: they are still in the cache when they are normalised."""

ACCELERATOR_BLOCK = 1 << 20
"""The same elsewhere, and where a block is no copy."""

MEMORY = 192 << 20
"""Bytes for a block and its scores at most, where no more is known to be free."""

FIRST = 2_048
"""Gallery images scored before there is a threshold to compare with. Further blocks are no larger
than all before them, so that few images of each exceed the threshold so far."""

PAIRS = 1_024
"""Pairs of a query and an image whose second inner product is computed at a time."""

QUERIES = 1_024
"""Queries that search the gallery together: with many more, blocks would have to be small."""

MERGED = 256
"""Images of a query that are merged into its best at a time."""

WHOLE = 96 << 20
"""Bytes for similarities where a score needs the whole gallery."""


class Gallery(Protocol):
    """Feature vectors of gallery images, read in slices."""

    @property
    def shape(self) -> tuple[int, int]:
        """Images, dimensions."""

    def rows(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Return rows ``start`` to ``stop`` as an array (stop - start, d)."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Return the given rows as an array (len(rows), d)."""


class UnitGallery:
    """Normalised features in memory, float32 (images, d): nothing is checked or copied again."""

    def __init__(self, features: Tensor) -> None:
        self.features = normalise(features.float())
        self._array = self.features.numpy()

    @property
    def shape(self) -> tuple[int, int]:
        """Images, dimensions."""
        return self.features.shape[0], self.features.shape[1]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows ``start`` to ``stop`` as a view (stop - start, d)."""
        rows: NDArray[np.float32] = self._array[start:stop]
        return rows

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the given rows as an array (len(rows), d)."""
        taken: NDArray[np.float32] = self._array[rows]
        return taken


def ignore(count: int) -> None:
    return None


def block_size(vectors: int, width: int, free: int, most: int) -> int:
    """Return how many images to compare with ``vectors`` at a time, ``most`` at most.

    An image takes its feature of ``width`` in float16 or float32, as float32 and normalised; a pair
    of image and vector its bound and, at worst, an entry in each list of ``_exceeding``. All of it
    is to fit into ``free`` bytes.
    """
    return max(1, min(most, free // (12 * width + 48 * vectors)))


def _free(device: str) -> int:
    """Return the bytes that a block may take on a device: on CUDA half of what is free."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0] // 2
    return MEMORY


def blocks(
    gallery: Gallery,
    inside: NDArray[np.bool_] | None,
    device: str,
    advance: Callable[[int], Any] = ignore,
    vectors: int = 1_000,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row numbers int64 (n) and normalised float32 features (n, d) of each block.

    ``inside`` (images) tells which rows take part; ``advance`` is told how many were read;
    ``vectors`` is how many vectors each image is compared with, which bounds a block's size. A
    block's features last until the next one: their memory is used again.
    """
    unit = isinstance(gallery, UnitGallery)
    most = BLOCK if device == "cpu" and not unit else ACCELERATOR_BLOCK
    size, stop = block_size(vectors, gallery.shape[1], _free(device), most), 0
    converts = device == "cpu" and gallery.rows(0, 0).dtype != np.float32
    room = torch.empty(min(size, gallery.shape[0]) if converts else 0, gallery.shape[1])
    while stop < gallery.shape[0]:
        start, stop = stop, min(stop + min(size, max(stop, FIRST)), gallery.shape[0])
        rows = torch.arange(start, stop)
        if converts:
            features = _converted(gallery, start, room[: stop - start])
        else:
            stored = torch.from_numpy(gallery.rows(start, stop))
            features = stored.float().to(device)
            features = features if unit else _unit(features, stored)
        if inside is not None:
            chosen = torch.from_numpy(inside[start:stop])
            rows, features = rows[chosen], features[chosen.to(device)]
        if len(rows):
            yield rows, features
        advance(stop - start)


def _converted(gallery: Gallery, start: int, room: Tensor) -> Tensor:
    """Return the rows from ``start`` on in ``room`` (n, d), normalised."""
    for place in range(0, len(room), PIECE):
        piece, first = room[place : place + PIECE], start + place
        piece.copy_(torch.from_numpy(gallery.rows(first, first + len(piece))))
        lengths = torch.linalg.vector_norm(piece, dim=1, keepdim=True)
        piece.div_(lengths.clamp_(min=1e-12))  # as ``normalise`` does
    return room


def _unit(features: Tensor, stored: Tensor) -> Tensor:
    """Return ``features`` normalised; as they are where they are so already, which saves a copy.

    Unless they are ``stored``, they may be changed.
    """
    lengths = torch.linalg.vector_norm(features, dim=1)
    if ((lengths - 1).abs() < 1e-6).all():
        return features
    lengths = lengths.clamp(min=1e-12)[:, None]  # as ``normalise`` does, but measured once
    return features / lengths if features is stored else features.div_(lengths)


class Best:
    """The best k images of every query so far. Equal scores keep gallery order."""

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.scores = torch.empty(queries, 0)
        self.rows = torch.empty(queries, 0, dtype=torch.long)

    @property
    def threshold(self) -> Tensor | None:
        """The score (queries) that a later image must exceed, None while there are fewer than k."""
        return self.scores[:, -1] if self.scores.shape[1] == self.k else None

    def add(self, scores: Tensor, rows: Tensor) -> None:
        """Take in a later block's ``scores`` (queries, n) of the images in ``rows`` (n)."""
        self._merge(*top_k(scores, rows, self.k))

    def add_some(self, queries: Tensor, scores: Tensor, rows: Tensor) -> None:
        """Take in scores (m) of the images in ``rows`` (m), each for one query of ``queries`` (m).

        ``queries`` must rise, and ``rows`` within a query; all are later than what came before.
        """
        counts = torch.bincount(queries, minlength=len(self.scores))
        if not len(queries):
            return
        place = torch.arange(len(queries)) - (counts.cumsum(0) - counts)[queries]
        for start in range(0, int(counts.max()), MERGED):
            part = (place >= start) & (place < start + MERGED)
            where = queries[part], place[part] - start
            width = int(where[1].max()) + 1
            found = torch.full((len(counts), width), float("-inf"))
            found_rows = torch.zeros((len(counts), width), dtype=torch.long)
            found[where], found_rows[where] = scores[part], rows[part]
            self._merge(found, found_rows)

    def _merge(self, found: Tensor, found_rows: Tensor) -> None:
        """A stable sort keeps what came earlier first among equal scores."""
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
    advance: Callable[[int], Any] = ignore,
) -> tuple[Tensor, Tensor]:
    """Return each query's best images: scores float32 and rows int64, both (queries, up to k).

    ``excluded`` int64 (queries, m) holds rows never to be retrieved, -1 for none; where too few
    images are left a score is -inf.
    """
    queries = score.count
    score = score.map(lambda vectors: vectors.to(device))
    if isinstance(score, RankEnds):
        best, best_rows = [], []
        for some, after, before, rows in _whole(score, gallery, inside, device, advance):
            never = None if excluded is None else excluded[some]
            found, found_rows = rises.best(score, after, before, rows, k, never)
            best.append(found)
            best_rows.append(found_rows)
        return torch.cat(best), torch.cat(best_rows)
    passes = [slice(start, start + QUERIES) for start in range(0, max(queries, 1), QUERIES)]
    share = _shared(advance, len(passes))
    kept = []
    for some in passes:
        own = score.map(itemgetter(some))
        never = None if excluded is None else excluded[some]
        kept.append(_one_pass(own, gallery, k, inside, never, device, share))
    return torch.cat([best.scores for best in kept]), torch.cat([best.rows for best in kept])


def first_product(score: Score, images: int, k: int, excluded: Tensor | None) -> str | None:
    """Return the name of the quick product that ``top_images`` takes first on this processor.

    None where the search is too small for one, or of another kind.
    """
    if isinstance(score, RankEnds) or not bounded.pays(score, images, k, excluded):
        return None
    return trials.ranked(score.positive.shape[1])[0].name


def _one_pass(
    ends: Ends,
    gallery: Gallery,
    k: int,
    inside: NDArray[np.bool_] | None,
    excluded: Tensor | None,
    device: str,
    advance: Callable[[int], Any],
) -> Best:
    images = gallery.shape[0] if inside is None else int(inside.sum())
    if not bounded.pays(ends, images, k, excluded):
        return _plain_pass(ends, gallery, k, inside, excluded, device, advance)
    kept = Best(ends.count, k)
    read = blocks(gallery, inside, device, advance, 0)
    left_out = torch.from_numpy(bounded.search(ends, read, images, k, kept, excluded))
    if left_out.all():
        return _plain_pass(ends, gallery, k, inside, excluded, device)
    if left_out.any():
        own = ends.map(itemgetter(left_out))
        never = None if excluded is None else excluded[left_out]
        rest = _plain_pass(own, gallery, k, inside, never, device)
        kept.scores[left_out], kept.rows[left_out] = rest.scores, rest.rows
    return kept


def _plain_pass(
    ends: Ends,
    gallery: Gallery,
    k: int,
    inside: NDArray[np.bool_] | None,
    excluded: Tensor | None,
    device: str,
    advance: Callable[[int], Any] = ignore,
) -> Best:
    kept = Best(ends.count, k)
    for rows, features in blocks(gallery, inside, device, advance, ends.count):
        threshold = kept.threshold
        if threshold is None:
            kept.add(without(ends.scores(features).cpu(), rows, excluded), rows)
        else:
            kept.add_some(*_exceeding(ends, features, rows, threshold, excluded))
    return kept


def _shared(advance: Callable[[int], Any], passes: int) -> Callable[[int], None]:
    """Return an ``advance`` for several passes over the gallery that count as one."""
    read = 0

    def told(count: int) -> None:
        nonlocal read
        before = read // passes
        read += count
        advance(read // passes - before)

    return told


def _exceeding(
    ends: Ends, features: Tensor, rows: Tensor, threshold: Tensor, excluded: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query numbers, scores and rows (m each) of the images that exceed ``threshold``.

    Where a score is the smaller of two inner products, the first bounds it from above: the second
    is computed only for images whose bound exceeds the query's threshold.
    """
    bound = ends.scores(features) if ends.take_max else ends.positive @ features.T
    queries, columns = (bound > threshold.to(bound.device)[:, None]).nonzero(as_tuple=True)
    scores = bound[queries, columns]
    if not ends.take_max and ends.negative is not ends.positive:
        for start in range(0, len(queries), PAIRS):
            part = slice(start, start + PAIRS)
            # Pairs come query by query, so a slice has few queries: a small product holds them all.
            first, last = int(queries[start]), int(queries[part][-1])
            other = ends.negative[first : last + 1] @ features[columns[part]].T
            own = other[queries[part] - first, torch.arange(other.shape[1], device=other.device)]
            scores[part] = torch.minimum(scores[part], own)
    queries, scores, found = queries.cpu(), scores.cpu(), rows[columns.cpu()]
    good = scores > threshold[queries]
    if excluded is not None:
        good &= (excluded[queries] != found[:, None]).all(dim=1)
    return queries[good], scores[good], found[good]


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
        for some, after, before, rows in _whole(score, gallery, inside, device):
            for own, one, other in zip(asked[some], after, before, strict=True):
                columns = torch.searchsorted(rows, torch.tensor(own, dtype=torch.long))
                found.append(rises.scored(score, one, other, columns))
        return found
    return [_few(score, gallery, i, rows, device) for i, rows in enumerate(asked)]


def _few(score: Ends, gallery: Gallery, query: int, rows: Sequence[int], device: str) -> Tensor:
    if not rows:
        return torch.empty(0)
    features = torch.from_numpy(gallery.take(np.array(rows))).float()
    block = normalise(features.to(device))
    return score.map(lambda vectors: vectors[query : query + 1]).scores(block)[0].cpu()


def _whole(
    score: RankEnds,
    gallery: Gallery,
    inside: NDArray[np.bool_] | None,
    device: str,
    advance: Callable[[int], Any] = ignore,
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield some queries at a time, both their similarities (queries, n) and the rows (n)."""
    images = gallery.shape[0] if inside is None else int(inside.sum())
    if not images:
        return
    size = max(1, WHOLE // (8 * images))
    for start in range(0, score.count, size):
        some = slice(start, start + size)
        part = score.map(itemgetter(some))
        after = torch.empty((part.count, images))
        before, rows, stop = torch.empty_like(after), torch.empty(images, dtype=torch.long), 0
        progress = ignore if start else advance
        for numbers, features in blocks(gallery, inside, device, progress, 2 * part.count):
            place, stop = slice(stop, stop + len(numbers)), stop + len(numbers)
            after[:, place], before[:, place] = part.similarities(features)
            rows[place] = numbers
        yield some, after, before, rows


def without(scores: Tensor, rows: Tensor, excluded: Tensor | None) -> Tensor:
    """Set the ``scores`` (queries, n) of ``excluded`` rows (queries, m) to -inf, in place.

    ``rows`` is (n), or (queries, n) where every query has its own.
    """
    if excluded is not None:
        for column in excluded.T:
            scores[rows == column[:, None]] = float("-inf")
    return scores


def places_of(
    vectors: Tensor,
    gallery: Gallery,
    asked: Tensor,
    inside: NDArray[np.bool_] | None = None,
    excluded: Tensor | None = None,
    device: str = "cpu",
) -> Tensor:
    """Return the places, 1 for the best, that gallery rows have in rankings by inner product.

    ``vectors`` (queries, d) are compared with the gallery; ``asked`` int64 (queries, m) holds the
    rows to be placed, -1 for none. Returns int64 (queries, m), 0 for none. Reads the gallery twice.
    """
    vectors = vectors.to(device)
    own = torch.full(asked.shape, float("nan"))
    for rows, features in blocks(gallery, inside, device):
        similarity = (vectors @ features.T).cpu()
        column = torch.searchsorted(rows, asked).clamp(max=len(rows) - 1)
        here = rows[column] == asked
        own[here] = similarity.gather(1, column)[here]
    places = torch.zeros_like(asked)
    for rows, features in blocks(gallery, inside, device):
        similarity = without((vectors @ features.T).cpu(), rows, excluded)
        for number, (score, row) in enumerate(zip(own.T, asked.T, strict=True)):
            ahead = similarity > score[:, None]
            ahead |= (similarity == score[:, None]) & (rows < row[:, None])
            places[:, number] += ahead.sum(dim=1)
    return torch.where(own.isnan(), 0, places + 1)
