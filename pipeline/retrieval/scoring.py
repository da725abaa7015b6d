"""The formulas, as pure functions of tensors. Everything else about search is in ``search.py``.

torch is imported where it computes: methods, which are built on this, are known without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def normalise(features: Tensor) -> Tensor:
    """Return rows of ``features`` (n, d) at length 1; zero rows stay zero."""
    import torch

    return torch.nn.functional.normalize(features, dim=-1)


def mean_feature(embeddings: Tensor, normalise_first: bool = False) -> Tensor:
    """Return the normalised mean (d) of text embeddings (texts, d).

    SEIZE section 3.3 averages raw embeddings; ``normalise_first`` averages normalised ones.
    """
    rows = normalise(embeddings) if normalise_first else embeddings
    return normalise(rows.mean(dim=0))


def mean_of_each(lists: Sequence[Tensor], width: int) -> Tensor:
    """Return the mean (lists, width) of each list's rows (n, width), zeros where it has none.

    The mean of one row is that row to the last bit.
    """
    import torch

    nothing = torch.zeros(width)
    return torch.stack([rows.mean(dim=0) if len(rows) else nothing for rows in lists])


@dataclass(frozen=True)
class Ends:
    """The two query vectors every single-pass method comes down to, float32 (queries, d) each.

    The score of gallery image x is ``min(positive·x, negative·x)``, or the max of the two where
    ``take_max``. Without an increment both are the same vector.
    """

    positive: Tensor
    negative: Tensor
    take_max: bool = False

    @property
    def count(self) -> int:
        """How many queries there are."""
        return self.positive.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Ends:
        """Return the ends with ``function`` applied to both; one vector stays one vector."""
        positive = function(self.positive)
        shared = self.negative is self.positive
        return Ends(positive, positive if shared else function(self.negative), self.take_max)

    def scores(self, gallery: Tensor) -> Tensor:
        """Return scores (queries, images) of normalised ``gallery`` features (images, d)."""
        import torch

        positive = self.positive @ gallery.T
        if self.positive is self.negative:
            return positive
        negative = self.negative @ gallery.T
        return (torch.maximum if self.take_max else torch.minimum)(positive, negative)


def shortest(ends: Ends) -> Tensor:
    """Return the shortest vector (queries, d) between both ends of each query.

    Each vector between them is a bound. With a shorter one fewer images reach a given inner
    product, so that the list that is needed is shorter too.
    """
    import torch

    if ends.positive is ends.negative:
        return ends.positive
    line = ends.positive - ends.negative
    length = (line * line).sum(dim=1).clamp(min=torch.finfo(line.dtype).tiny)
    return between(ends, (-(ends.negative * line).sum(dim=1) / length).clamp(0, 1))


def between(ends: Ends, share: Tensor) -> Tensor:
    """Return share·q⁺ + (1 − share)·q⁻ (queries, d) for ``share`` in [0, 1], (queries)."""
    return share[:, None] * ends.positive + (1 - share)[:, None] * ends.negative


@dataclass(frozen=True)
class RankEnds:
    """The rank variant of SEIZE's score, for normalised features float32 (queries, d).

    Δ is the number of places an image rises from the ranking by s_before to that by s_after, so
    a score needs the whole gallery: it is no inner product. Equal similarities keep gallery order.
    """

    content: Tensor
    composed: Tensor
    positive: float
    negative: float

    @property
    def count(self) -> int:
        """How many queries there are."""
        return self.composed.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> RankEnds:
        """Return the same score with ``function`` applied to both features."""
        content, composed = function(self.content), function(self.composed)
        return RankEnds(content, composed, self.positive, self.negative)

    def similarities(self, gallery: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_after and s_before (queries, images) of a block of ``gallery`` (images, d)."""
        return self.composed @ gallery.T, self.content @ gallery.T

    def scores(self, after: Tensor, risen: Tensor) -> Tensor:
        """Return scores from s_after and by how many places each image rises (shaped alike)."""
        rises = risen.float()
        rising, falling = rises.clamp(min=0), rises.clamp(max=0)
        return after + self.positive * rising + self.negative * falling


Score = Ends | RankEnds
"""What a method makes of its queries."""


def increment_ends(
    content: Tensor,
    composed: Tensor,
    positive: float,
    negative: float,
    query: Tensor | None = None,
) -> Ends:
    """Return the ends of SEIZE's score (section 3.3) for normalised features (queries, d).

    With s_after = composed·x, Δ = s_after − content·x, the score is
    s_after + α⁺·max(Δ, 0) + α⁻·min(Δ, 0). Where α⁻ ≥ α⁺ that is the smaller of
    s_after + α⁺Δ and s_after + α⁻Δ, else the larger; each of these is one inner product.
    ``query`` (queries, d), where given, takes the place of composed in s_after, not in Δ.
    """
    query = composed if query is None else query
    difference = composed - content
    return Ends(
        query + positive * difference,
        query + negative * difference,
        take_max=positive > negative,
    )


def top_k(scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of ``scores`` (queries, n), best first, and their ``rows`` (n).

    Equal scores are ordered by row, at the cut too, so that the result does not depend on blocks.
    ``rows`` must rise. Returns scores (queries, k) and rows int64 (queries, k).
    """
    import torch

    k = min(k, scores.shape[1])
    best = torch.topk(scores, k, dim=1)
    order = best.indices.sort(dim=1).values
    tied = (scores >= best.values[:, -1:]).sum(dim=1) > k
    for query in tied.nonzero().flatten().tolist():
        order[query] = scores[query].sort(descending=True, stable=True).indices[:k].sort().values
    values = scores.gather(1, order)
    ranked = values.sort(dim=1, descending=True, stable=True)
    return ranked.values, rows[order.gather(1, ranked.indices)]
