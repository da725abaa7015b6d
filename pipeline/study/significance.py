"""Whether two rankings differ by more than chance: Fisher's randomisation test, and Holm's step.

Under the null hypothesis it does not matter which of the two a query's result came from. So the two
results of a query are swapped at random, for every query on its own, and p is the share of swaps
that differ by at least as much as what was observed (Smucker et al., CIKM 2007, section 2.1).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.base import Dataset

CHUNK = 512
"""Permutations at a time: one sign a query of each is in memory."""
ROUNDING = 1e-9
"""Sums of the same numbers in another order are equal up to this share of what is added up."""


def randomisation_test(
    differences: NDArray[np.float64], permutations: int = 10_000, seed: int = 0
) -> NDArray[np.float64]:
    """Return the two-sided p of each column of ``differences`` (queries, n), shape (n,).

    A column holds what each query adds to the difference of two rankings in one metric; swapping a
    query's results turns its sign, in all columns alike. p is (1 + swaps at least as extreme) /
    (1 + permutations), hence never 0 (Phipson and Smyth, 2010): what was observed is one of them.
    """
    rng = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0)) - ROUNDING * np.abs(differences).sum(axis=0)
    extreme = np.zeros(differences.shape[1])
    for start in range(0, permutations, CHUNK):
        count = min(CHUNK, permutations - start)
        signs = rng.integers(0, 2, size=(count, len(differences))) * 2.0 - 1.0
        extreme += (np.abs(signs @ differences) >= observed).sum(axis=0)
    return np.asarray((1 + extreme) / (1 + permutations))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many they are (Holm, 1979), in the given order.

    The chance that any of them is below a level although nothing differs is at most that level.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for step, place in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - step) * p[place]))
        corrected[place] = largest
    return corrected


def contributions(
    dataset: Dataset, values: Mapping[str, Mapping[str, float]]
) -> dict[str, NDArray[np.float64]]:
    """Return what each query adds to each metric in percent, (queries): their sum is the metric.

    ``values`` is what ``Dataset.per_query`` returns.
    """
    number = {query.id: i for i, query in enumerate(dataset.queries)}
    found = {}
    for metric, by_query in values.items():
        found[metric] = np.zeros(len(number))
        places = [number[name] for name in by_query]
        found[metric][places] = 100 * np.array(list(by_query.values())) / len(by_query)
    for metric, parts in dataset.averages.items():
        if all(part in found for part in parts):
            found[metric] = np.mean([found[part] for part in parts], axis=0)
    return found
