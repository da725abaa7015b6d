"""Queries taken apart into atomic retrievals, whose candidates are joined by set logic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.models.prompts.decompose import Plan
from pipeline.retrieval.clues.retrievals import plans, role_plans
from pipeline.retrieval.methods.base import Clues, listed
from pipeline.retrieval.plans import Lists, Planned
from pipeline.retrieval.scoring import normalise

if TYPE_CHECKING:
    from torch import Tensor


def _lists(clues: Clues, name: str, found: Sequence[Plan], settings: Planned) -> Lists:
    import torch

    reference, vectors = clues.vectors("reference"), []
    for image, features, plan in zip(reference, clues.lists(name), found, strict=True):
        texts = iter(features)
        own: list[Tensor] = []
        for atom in plan.retrievals:
            text = next(texts) if atom.text else torch.zeros_like(image)
            shown = torch.zeros_like(image) if atom.by == "text" else image
            own.append(normalise(text + shown))
        vectors.append(torch.stack(own))
    wanted = [[atom.wanted for atom in plan.retrievals] for plan in found]
    return Lists(vectors, wanted, [plan.join for plan in found], settings)


@listed("planned", ("retrievals", "reference"), (Planned,))
def planned(clues: Clues, settings: Planned) -> Lists:
    """Atomic retrievals that an LLM takes the query apart into, joined by union or intersection
    less what is unwanted, then fused (after OSCAR, arXiv 2602.08603).
    """
    return _lists(clues, "retrievals", plans(clues.source), settings)


@listed("planned-roles", ("role_retrievals", "reference"), (Planned,))
def planned_roles(clues: Clues, settings: Planned) -> Lists:
    """The same for the roles of edits: the image with what is desired, what is preserved, less what
    is forbidden.
    """
    return _lists(clues, "role_retrievals", role_plans(clues.source), settings)
