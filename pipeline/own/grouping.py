"""Near-duplicates among what a query found: images whose features are nearly the same are one
result, shown by the best of them.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DIRECTIONS = 16
"""Directions in which images are compared first: what is far apart there is so in all of them."""
ROUNDING = 1e-5
"""Of squared distances of unit vectors in float32, at most."""
BLOCK = 256
"""Rows that are compared with all before them at a time."""
MANY = 1 / 64
"""Share of pairs that are near in a few directions from which on all are compared in all of them;
they would take as long one by one."""
PAIRS = 4_096
"""Pairs that are compared one by one at a time."""
SPARE = 16
"""Images looked at beyond twice as many as are shown."""


def enough(k: int) -> int:
    """Return how many images of a ranking to look at first for ``k`` groups."""
    return 2 * k + SPARE


def group(features: Tensor, threshold: float, k: int) -> list[list[int]]:
    """Return up to ``k`` groups of rows of ``features`` (n, d), which have length 1, best first.

    Each row joins the first group whose first row has a cosine of at least ``threshold`` with it,
    or begins one. Rows behind those that begin the ``k`` groups only join, so that a larger ``k``
    has the same groups first.
    """
    groups: list[list[int]] = []
    number: dict[int, int] = {}
    for row, alike in enumerate(_alike(features.float(), threshold)):
        own = min((number[one] for one in alike if one in number), default=None)
        if own is not None:
            groups[own].append(row)
        elif len(groups) < k:
            number[row] = len(groups)
            groups.append([row])
    return groups


def _alike(features: Tensor, threshold: float) -> Iterator[list[int]]:
    """Yield for each row the rows before it whose cosine with it is at least ``threshold``."""
    shadows = features @ _directions(features)
    halves, ones = shadows.square().sum(dim=1, keepdim=True) / 2, torch.ones(len(features), 1)
    # Their products are minus half the squared distances in those directions.
    left, right = torch.cat([shadows, -halves, ones], 1), torch.cat([shadows, ones, -halves], 1)
    least = -(max(2 - 2 * threshold, 0) + ROUNDING) / 2
    for start in range(0, len(features), BLOCK):
        block, before = features[start : start + BLOCK], features[: start + BLOCK]
        pairs = _reaching(left[start : start + BLOCK] @ right[: start + BLOCK].T, least)
        if len(pairs) > MANY * len(block) * len(before):
            pairs = _reaching(block @ before.T, threshold)
        else:
            parts = torch.split(pairs, PAIRS)
            cosines = [(block[some[:, 0]] * before[some[:, 1]]).sum(dim=1) for some in parts]
            pairs = pairs[torch.cat(cosines) >= threshold]
        found: list[list[int]] = [[] for _ in block]
        for row, other in pairs[pairs[:, 1] < pairs[:, 0] + start].tolist():
            found[row].append(other)
        yield from found


def _reaching(products: Tensor, least: float) -> Tensor:
    """Return the places (m, 2) of what is at least ``least``."""
    reached: NDArray[np.int64] = np.flatnonzero((products >= least).numpy())
    return torch.from_numpy(np.stack(np.divmod(reached, products.shape[1]), axis=1))


def _directions(features: Tensor) -> Tensor:
    """Return orthonormal directions (d, up to ``DIRECTIONS``) in which rows differ."""
    count = min(DIRECTIONS, *features.shape)
    some = torch.linspace(0, max(len(features) - 1, 0), count).long()
    made: Tensor = torch.linalg.qr((features[some] - features.mean(dim=0)).T).Q
    return made
