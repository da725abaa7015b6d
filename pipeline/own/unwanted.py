"""What is not wanted: texts and images whose similarity counts against an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.retrieval.scoring import Score, normalise

WEIGHT = 0.5
"""What the similarity to what is not wanted counts against that to the query."""


@dataclass(frozen=True)
class Unwanted:
    """What is not wanted, each as far away as what is wanted is near."""

    texts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    """SHA-256 of images of the gallery or of an earlier query."""


NOTHING = Unwanted()


def away_from(features: Sequence[Tensor], score: Score) -> Score:
    """Return ``score`` less the weighted similarity to the mean direction of raw features (d).

    Every score is a sum of inner products with vectors a query, so it is taken off these: the
    search stays the same, and as exact.
    """
    if not features:
        return score
    away = WEIGHT * normalise(normalise(torch.stack(list(features))).mean(dim=0))
    return score.map(lambda queries: queries - away)
