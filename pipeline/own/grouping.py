"""Near-duplicates among what a query found: images whose features are nearly the same are one
result, shown by the best of them.
"""

from torch import Tensor

WINDOW = 1_000
"""Results before an image that it is compared with, at most: so deep pages take time by their
number, not by its square."""
BLOCK = 256
"""Images that are compared at a time."""
SPARE = 16
"""Images looked at beyond twice as many as are shown."""


def enough(k: int) -> int:
    """Return how many images of a ranking to look at first for ``k`` groups."""
    return 2 * k + SPARE


def group(features: Tensor, threshold: float, k: int) -> list[list[int]]:
    """Return up to ``k`` groups of rows of ``features`` (n, d), which have length 1, best first.

    Each row joins the first group whose first row has a cosine of at least ``threshold`` with it,
    among the last ``WINDOW`` groups before its block, or begins one. Rows behind those that begin
    the ``k`` groups only join, so that a larger ``k`` has the same groups first.
    """
    groups: list[list[int]] = []
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        early = max(0, len(groups) - WINDOW)
        firsts = features[[own[0] for own in groups[early:]]]
        alike = (rows @ firsts.T >= threshold).numpy()
        among = (rows @ rows.T >= threshold).numpy()
        new: list[int] = []
        for row in range(len(rows)):
            before = alike[row].nonzero()[0]
            beside = among[row, new].nonzero()[0] if not len(before) else before
            if len(before):
                groups[early + before[0]].append(start + row)
            elif len(beside):
                groups[len(groups) - len(new) + beside[0]].append(start + row)
            elif len(groups) < k:
                groups.append([start + row])
                new.append(row)
    return groups
