"""LDRE: edits weighted by how much they took away."""

from __future__ import annotations

from typing import ClassVar

from pipeline.retrieval.methods.base import Clues, Section, method, same, weight
from pipeline.retrieval.scoring import Score


class Ldre(Section):
    """LDRE's k and τ."""

    name: ClassVar[str] = "ldre"

    drops: int = weight(5, "k", [1, 2, 5, 10, 20, 50], ge=1)
    temperature: float = weight(0.04, "τ", [0.01, 0.02, 0.04, 0.1, 0.3, 1, 3], gt=0)


@method("ldre", ("composed", "edits", "differences"), (Ldre,))
def ldre(clues: Clues, weights: Ldre) -> Score:
    """Edits weighted by how much they took away (LDRE, SIGIR 2024).

    For caption j, u_j is the sum of the k largest drops over the gallery; the weights are
    softmax((u / max u) / τ), normalised for each query as the paper says.
    """
    import torch

    composed = []
    drops = [rows.sum(dim=1) for rows in clues.largest_drops(weights.drops)]
    fallbacks = clues.vectors("composed")
    for fallback, edits, u in zip(fallbacks, clues.lists("edits"), drops, strict=True):
        if len(edits) == 0:
            composed.append(fallback)
            continue
        share = u / u.max().clamp(min=torch.finfo(u.dtype).tiny)
        composed.append(torch.softmax(share / weights.temperature, dim=0) @ edits)
    return same(torch.stack(composed))
