"""How much two systems' rankings of the same queries agree."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.datasets.reading import Predictions

CUTOFFS = (10, 50)
PERSISTENCE = 0.9
"""p of the rank-biased overlap: the first ten ranks have 86 % of its weight."""


def agreement(ours: Predictions, theirs: Predictions) -> dict[str, float]:
    """Return measures in percent, means over the queries that both have.

    ``overlap@k``: images that the first k have in common. ``rbo``: rank-biased overlap (Webber et
    al., TOIS 2010), extrapolated, p = 0.9. ``kendall``: Kendall's τ of the images that both lists
    have, -100 to 100; of queries with two such images at least.
    """
    names = [name for name in ours if name in theirs]
    pairs = [(ours[name], theirs[name]) for name in names]
    taus = [tau for one, other in pairs if (tau := kendall(one, other)) is not None]
    found: dict[str, Sequence[float]] = {
        **{f"overlap@{k}": [overlap(one, other, k) for one, other in pairs] for k in CUTOFFS},
        "rbo": [rank_biased_overlap(one, other) for one, other in pairs],
        "kendall": taus,
    }
    return {name: 100 * float(np.mean(values)) for name, values in found.items() if values}


def overlap(one: Sequence[str], other: Sequence[str], k: int) -> float:
    """Return the share of the first k images that are in both lists, of as many as they have."""
    depth = min(k, max(len(one), len(other)))
    return len(set(one[:k]) & set(other[:k])) / depth if depth else 1.0


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], p: float = PERSISTENCE) -> float:
    """Return the extrapolated rank-biased overlap in [0, 1] (Webber et al., equation 30).

    With A_d the share of the first d images that both have, and k the shorter list's length:
    A_k p^k + (1 − p)/p Σ_{d ≤ k} A_d p^d. It is 1 for equal lists, 0 for disjoint ones.
    """
    seen_one: set[str] = set()
    seen_other: set[str] = set()
    total, agreed, depth = 0.0, 0.0, 0
    for depth, (a, b) in enumerate(zip(one, other, strict=False), start=1):
        seen_one.add(a)
        seen_other.add(b)
        agreed = len(seen_one & seen_other) / depth
        total += agreed * p**depth
    return agreed * p**depth + (1 - p) / p * total if depth else 1.0


def kendall(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Return Kendall's τ in [-1, 1] of the images that are in both lists; None for fewer than two.

    Lists have no ties, so that τ-a and τ-b are the same.
    """
    place: Mapping[str, int] = {image: i for i, image in enumerate(other)}
    places = np.array([place[image] for image in one if image in place])
    if len(places) < 2:
        return None
    upper = np.triu_indices(len(places), k=1)
    return float(np.sign(places[None] - places[:, None])[upper].mean())
