"""Near-duplicates among what a query found: images whose features are nearly the same are one
result, shown by the best of them.
"""

import itertools
import math
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DIRECTIONS = 3
"""Directions in which images are compared first: what is far apart there is so in all of them."""
SHADOW = 16
"""Directions in which those of the cells around are compared, before all of them."""
ROUNDING = 1e-5
"""Of squared distances of unit vectors in float32, at most."""
CELLS = 1 << 12
"""Cells of a direction, at most."""
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

    Rows are compared with the first rows in their cell and those around it, in a grid over a few
    directions whose cells are as wide as such rows may lie apart: so the time grows about with
    their number.
    """
    groups: list[list[int]] = []
    cells: dict[int, list[int]] = defaultdict(list)
    features = features.float()
    values, reach = features.numpy(), max(2 - 2 * threshold, 0) + ROUNDING
    shadows = (features @ _directions(features)).numpy()
    places, around = _cells(shadows[:, :DIRECTIONS], math.sqrt(reach))
    number: dict[int, int] = {}
    for row, place in enumerate(places):
        beside = [one for offset in around for one in cells.get(place + offset, ())]
        if beside:
            near = np.array(beside)
            near = near[np.square(shadows[near] - shadows[row]).sum(axis=1) <= reach]
            alike = near[values[near] @ values[row] >= threshold] if len(near) else near
            if len(alike):
                groups[number[alike.min()]].append(row)
                continue
        if len(groups) < k:
            cells[place].append(row)
            number[row] = len(groups)
            groups.append([row])
    return groups


def _directions(features: Tensor) -> Tensor:
    """Return orthonormal directions (d, up to ``SHADOW``) in which rows differ from their mean."""
    count = min(SHADOW, *features.shape)
    some = torch.linspace(0, max(len(features) - 1, 0), count).long()
    made: Tensor = torch.linalg.qr((features[some] - features.mean(dim=0)).T).Q
    return made


def _cells(shadows: NDArray[np.float32], width: float) -> tuple[list[int], list[int]]:
    """Return the number of each row's cell, and what is added to it for the cells around it."""
    scale = CELLS ** np.arange(shadows.shape[1])
    cells = np.floor(shadows / max(width, 4 / CELLS)).astype(np.int64) + CELLS // 2
    around = itertools.product((-1, 0, 1), repeat=shadows.shape[1])
    return (cells @ scale).tolist(), [int(np.dot(one, scale)) for one in around]
