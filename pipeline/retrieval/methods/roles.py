"""What the LLM wants, keeps and forbids, beside the edited captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval.methods.base import Clues, Section, method, same, weight
from pipeline.retrieval.methods.increment import INCREMENT, NEEDS, Increment, incremented
from pipeline.retrieval.scoring import Score

if TYPE_CHECKING:
    from torch import Tensor

TRIED = [0, 0.1, 0.2, 0.4, 0.8]


class Roles(Section):
    """Weights of a structured answer's parts beside the edited captions' one."""

    name: ClassVar[str] = "roles"

    desired: float = weight(0.2, "weight of the desired", TRIED)
    preserve: float = weight(0.2, "weight of the preserved", TRIED)
    forbidden: float = weight(0.2, "weight of the forbidden", TRIED)


def query_of_roles(clues: Clues, weights: Roles) -> Tensor:
    """Return the composed feature, plus what is wanted and kept, less what is forbidden."""
    wanted = weights.desired * clues.vectors("desired") + weights.preserve * clues.vectors(
        "preserve"
    )
    return clues.vectors("composed") + wanted - weights.forbidden * clues.vectors("forbidden")


@method("roles", ("composed", *ROLES), (Roles,))
def roles(clues: Clues, weights: Roles) -> Score:
    """The composed feature, with what is desired and preserved added and what is forbidden
    subtracted (after MulVec, arXiv 2608.25305, whose weights and patch vectors are others).
    """
    return same(query_of_roles(clues, weights))


@method(
    "seize+roles",
    (*NEEDS, *ROLES),
    (Roles, Increment),
    grid={**{name: [0, 0.2, 0.4] for name in ROLES}, **INCREMENT},
)
def seize_roles(clues: Clues, weights: Roles, increment: Increment) -> Score:
    """SEIZE's increment on the query of roles."""
    return incremented(clues, increment, query_of_roles(clues, weights))
