"""Images near one another, or near a text, in the encoder's space: what triplets are about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.store.features import FeatureFile

if TYPE_CHECKING:
    from torch import Tensor

QUERIES = 1024
"""Vectors that are compared with the gallery at a time."""
COPIES = 64
"""Copies of an image that are looked past, beside the neighbours that are wanted."""


@dataclass
class Found:
    """The images that were found for each query, best first, and what came of the others."""

    names: dict[int, list[str]] = field(default_factory=dict)
    """Query's number to images; none where there is none."""
    alone: list[int] = field(default_factory=list)
    """Queries without another image in their category."""


def nearest(
    vectors: "Tensor",
    own: Sequence[str],
    gallery: FeatureFile,
    categories: Mapping[str, str],
    count: int,
    below: float = np.inf,
    device: str = "cpu",
) -> Found:
    """Return, for each of ``vectors`` (n, d, normalised), the nearest ``count`` images by cosine.

    ``own`` names the image that each vector belongs to, which is left out, as are images above
    ``below``, which are copies, and, where ``categories`` (image to category) has its category,
    those of others. Equal cosines keep the gallery's order.
    """
    import torch

    from pipeline.retrieval.ranking import Best, blocks

    found = Found()
    by_category: dict[str | None, list[int]] = {}
    for number, name in enumerate(own):
        by_category.setdefault(categories.get(name), []).append(number)
    of_rows = np.array([categories.get(name, "") for name in gallery.names])
    for category, numbers in by_category.items():
        inside = None if category is None else of_rows == category
        others = len(of_rows) if inside is None else int(inside.sum())
        if others < 2:
            found.alone += numbers
            continue
        k = min(count + 1 + COPIES, others)
        for start in range(0, len(numbers), QUERIES):
            part = numbers[start : start + QUERIES]
            asked = vectors[torch.tensor(part)].to(device)
            best = Best(len(part), k)
            for rows, features in blocks(gallery, inside, device, vectors=len(part)):
                best.add((asked @ features.T).cpu(), rows)
            for place, number in enumerate(part):
                scored = zip(best.rows[place].tolist(), best.scores[place].tolist(), strict=True)
                kept = [
                    gallery.names[row]
                    for row, score in scored
                    if score <= below and gallery.names[row] != own[number]
                ]
                found.names[number] = kept[:count]
    return found
