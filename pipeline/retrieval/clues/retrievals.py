"""The texts of a query's atomic retrievals: those of its plan, or those that its roles are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline.models.prompts.decompose import Plan, of_roles
from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval.clues.base import Clues, Source, clue, good
from pipeline.retrieval.scoring import normalise
from pipeline.retrieval.sections import Section

if TYPE_CHECKING:
    from torch import Tensor


class Decompose(Section):
    """How the LLM is asked to take queries apart."""

    name: ClassVar[str] = "decompose"
    needed: ClassVar[Mapping[str, str]] = {"prompt": "atomic"}

    prompt: str | None = Field(default=None, title="a prompt that takes queries apart")
    captions: int = Field(default=3, ge=1, le=1000, title="captions that the LLM is shown")


def plans(source: Source) -> list[Plan]:
    """Return every query's plan, as the decompose stage made it."""
    return [Plan.model_validate_json(good(own)[0]) for own in source.texts("plans")]


def role_plans(source: Source) -> list[Plan]:
    """Return every query's plan as its roles have it."""
    said = [source.texts(role) for role in ROLES]
    return [of_roles(*(good(texts) for texts in own)) for own in zip(*said, strict=True)]


def _embedded(source: Source, found: Sequence[Plan]) -> list[Tensor]:
    return [normalise(source.embed(plan.texts)) for plan in found]


@clue("retrievals", reads=("retrievals",), settings=Decompose)
def retrievals(clues: Clues) -> list[Tensor]:
    """Return the normalised features (texts, d) of the texts of each query's plan."""
    return _embedded(clues.source, plans(clues.source))


@clue("role_retrievals", reads=ROLES)
def role_retrievals(clues: Clues) -> list[Tensor]:
    """Return the same of the plan that a query's roles are."""
    return _embedded(clues.source, role_plans(clues.source))
