"""Pools: the candidates of several rankings, fused into one ranking.

A pool is named by its parts, ``pool:A,B,C``, and is a method like any other: searched, verified,
compared, tuned and submitted. Its rules are those of the field's libraries (a test holds them
against ranx's), an image that a part does not list getting nothing from it:

- ``rrf``: reciprocal rank fusion, the sum of w / (k + place) (Cormack et al., SIGIR 2009; k = 60);
- ``min-max``: the sum of w times the score scaled to [0, 1] over the part's list (CombSUM);
- ``z-norm``: the same with the list's mean as 0 and its standard deviation as 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from pipeline.config.names import named
from pipeline.errors import ConfigError
from pipeline.retrieval.sections import Section, weight

Rule = Literal["rrf", "min-max", "z-norm"]
Scored = Mapping[str, float]
"""The images of one list with their scores, best first."""

SMALLEST = 1e-9
"""Scores that differ by less are scaled as if they differed by this."""
LARGEST_WEIGHT = 1e6


class Pool(Section):
    """How the parts of a pool are fused, and how far they are looked into."""

    name: ClassVar[str] = "pool"

    rule: Rule = Field(default="rrf", title="how lists are fused")
    k: float = weight(60.0, "k of reciprocal rank fusion", [1, 5, 10, 20, 60, 200], ge=0)
    depth: int | None = Field(
        default=None, ge=1, le=1_000_000, title="images of each part; as many as are retrieved"
    )
    weights: dict[str, float] = Field(default_factory=dict, title="weight by part; 1 otherwise")

    @field_validator("weights")
    @classmethod
    def _finite(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, value in weights.items():
            if not 0 <= value <= LARGEST_WEIGHT:
                raise ValueError(f"the weight of {name} must be from 0 to {LARGEST_WEIGHT:g}")
        return weights

    def of(self, parts: Sequence[str]) -> list[float]:
        """Return the weights of a pool's parts; raises ConfigError where all are 0."""
        found = [self.weights.get(part, 1.0) for part in parts]
        if not any(found):
            raise ConfigError(f"search.pool.weights: all parts of {named(parts)} weigh 0.")
        return found


def reciprocal_ranks(scores: Scored, k: float) -> dict[str, float]:
    """Return 1 / (k + place) for every image, the first place being 1."""
    return {image: 1 / (k + place) for place, image in enumerate(scores, start=1)}


def min_max(scores: Scored) -> dict[str, float]:
    """Return scores scaled so that the highest is 1 and the lowest 0; all 0 where they are one."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {image: (score - low) / max(high - low, SMALLEST) for image, score in scores.items()}


def z_norm(scores: Scored) -> dict[str, float]:
    """Return scores with a mean of 0 and a standard deviation of 1; all 0 where they are one."""
    values = np.array(list(scores.values()), dtype=np.float64)
    mean, spread = (values.mean(), max(values.std(), SMALLEST)) if len(values) else (0.0, 1.0)
    return {image: float((score - mean) / spread) for image, score in scores.items()}


def fuse(lists: Sequence[Scored], settings: Pool, weights: Sequence[float]) -> dict[str, float]:
    """Return the images of all ``lists``, best first, with their fused scores.

    Of images with equal scores, that comes first which an earlier list names, or names earlier.
    """
    normalise: dict[Rule, Callable[[Scored], Any]] = {
        "rrf": lambda scores: reciprocal_ranks(scores, settings.k),
        "min-max": min_max,
        "z-norm": z_norm,
    }
    total: dict[str, float] = {}
    for scores, factor in zip(lists, weights, strict=True):
        for image, value in normalise[settings.rule](scores).items():
            total[image] = total.get(image, 0.0) + factor * value
    return dict(sorted(total.items(), key=lambda item: -item[1]))
