"""Retrieval metrics on ranked ids. The protocols that use them are in ``datasets``."""

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Ranking


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


def trapezoidal_average_precision(ranking: Sequence[str], relevant: Collection[str]) -> float:
    """Return the area under the precision-recall curve by the trapezoidal rule, in [0, 1].

    As landmark retrieval (Philbin et al., CVPR 2007) and i-CIR (Psomas et al., NeurIPS 2025)
    measure it: the j-th relevant image (from 0) at place r (from 0) adds the mean of the precision
    before it, j/r (1 where r is 0), and with it, (j+1)/(r+1), divided by the number of relevant
    images. Relevant images that ``ranking`` lacks add nothing.
    """
    total, found = 0.0, 0
    for place, image in enumerate(ranking):
        if image in relevant:
            before = found / place if place else 1.0
            found += 1
            total += (before + found / (place + 1)) / 2
    return total / len(relevant) if relevant else 0.0


def behind_ties(ranking: Ranking, relevant: Collection[str]) -> tuple[str, ...]:
    """Return a ranking's images, ``relevant`` ones behind the others of their score.

    A metric that counts places is then what it is at worst: a method that scores all images alike
    finds nothing by their order. Neighbours alone are compared, as a verified ranking's scores need
    not fall, and there its probabilities have to be alike, too.
    """
    told = ranking.probabilities or (None,) * len(ranking.images)
    tied = zip(ranking.images, zip(ranking.scores, told, strict=True), strict=True)
    runs = itertools.groupby(tied, key=lambda item: item[1])
    ordered = (sorted((name for name, _ in run), key=relevant.__contains__) for _, run in runs)
    return tuple(itertools.chain.from_iterable(ordered))


def resample(
    strata: Sequence[Sequence[int]], units: Sequence[str], resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """Return how often each query is drawn, (resamples, queries): the bootstrap's weights.

    ``units`` names what each query is drawn with: itself, or a session whose turns depend on one
    another. Units are drawn with replacement within each of ``strata`` (lists of query numbers), so
    that every category keeps its size. The same weights for two rankings make the comparison
    paired.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(units)))
    for stratum in strata:
        place = {unit: n for n, unit in enumerate(dict.fromkeys(units[q] for q in stratum))}
        drawn = rng.multinomial(len(place), np.full(len(place), 1 / len(place)), size=resamples)
        weights[:, list(stratum)] = drawn[:, [place[units[q]] for q in stratum]]
    return weights


def interval(samples: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap ``samples``; a resample without value is left
    out (a semantic aspect of few queries may be missed)."""
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)
