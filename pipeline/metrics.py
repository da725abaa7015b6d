"""Retrieval metrics on ranked ids. The protocols that use them are in ``datasets``."""

from collections.abc import Collection, Sequence


def recall_at_k(ranking: Sequence[str], target: str, k: int) -> float:
    """Return 1.0 if ``target`` is among the first ``k`` of ``ranking``, else 0.0."""
    return float(target in ranking[:k])


def average_precision_at_k(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return AP@k in [0, 1] with the divisor min(k, number of relevant ids).

    AP@k = Σ_{i ≤ k, ranking_i relevant} (relevant among the first i / i) / min(k, |relevant|),
    as CIRCO defines it (Baldrati et al., ICCV 2023, section 4). ``ranking`` has no duplicates.
    """
    hits, total = 0, 0.0
    for place, image in enumerate(ranking[:k], start=1):
        if image in relevant:
            hits += 1
            total += hits / place
    return total / min(k, len(relevant)) if relevant else 0.0
