"""Whether two rankings differ by more than chance: Fisher's randomisation test, and Holm's step.

Under the null hypothesis it does not matter which of the two a query's result came from. So the two
results of a query are swapped at random, for every query on its own, and p is the share of swaps
that differ by at least as much as what was observed (Smucker et al., CIKM 2007, section 2.1).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
