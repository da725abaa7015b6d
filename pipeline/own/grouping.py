"""Near-duplicates among what a query found: images whose features are nearly the same are one
result, shown by the best of them.
"""

import torch
from torch import Tensor

MOST = 1_000
"""Results above which nothing is grouped: each is compared with all before it."""
SPARE = 16
"""Images looked at beyond twice as many as are shown."""


def enough(k: int) -> int:
    """Return how many images of a ranking to look at first for ``k`` groups."""
    return 2 * k + SPARE


def group(features: Tensor, threshold: float, k: int) -> list[list[int]]:
    """Return up to ``k`` groups of rows of ``features`` (n, d), which have length 1, best first.

    Each row joins the first group whose first row has a cosine of at least ``threshold`` with it,
    or begins one. Rows behind those that begin the ``k`` groups only join.
    """
    groups: list[list[int]] = []
    firsts = torch.empty(0, features.shape[1])
    for row, feature in enumerate(features):
        alike = (firsts @ feature >= threshold).nonzero()
        if len(alike):
            groups[int(alike[0])].append(row)
        elif len(groups) < k:
            groups.append([row])
            firsts = features[[own[0] for own in groups]]
    return groups
