"""How queries were taken apart, as the report shows it: the plans that a ranking was made by."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.config.names import without_encoder
from pipeline.models.prompts.decompose import Plan, of_roles
from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import decompose, edit


class Shown(NamedTuple):
    """A query's plan."""

    plan: Plan
    failed: bool = False
    """Whether it stands for one that the LLM did not make."""

    def of(self, method: str) -> dict[str, Any]:
        """Return it as the page's script takes it."""
        return {"method": method, "failed": self.failed, **self.plan.model_dump()}


def _of_decompose(run: Run) -> dict[str, Shown]:
    made = decompose.answered(run)
    return {query: Shown(plan, made[query] is None) for query, plan in decompose.read(run).items()}


def _of_roles(run: Run) -> dict[str, Shown]:
    said = edit.read_roles(run)
    return {query: Shown(of_roles(*(own[role] for role in ROLES))) for query, own in said.items()}


BY_CLUE: dict[str, Callable[[Run], dict[str, Shown]]] = {
    "retrievals": _of_decompose,
    "role_retrievals": _of_roles,
}
"""What reads the plans that a clue is made from."""


def plans(run: Run, names: Iterable[str]) -> Mapping[str, list[dict[str, Any]]]:
    """Return, by query id, the plans that the methods of these ``names``, or their parts, rank by.

    Raises MissingStageError where plans, edits or captions are gone.
    """
    wanted = {
        without_encoder(part): clue
        for part in methods.expanded(names)
        for clue in methods.clues_of(part)
        if clue in BY_CLUE
    }
    found: dict[str, list[dict[str, Any]]] = {query.id: [] for query in run.queries}
    for method, clue in wanted.items():
        for query, shown in BY_CLUE[clue](run).items():
            found[query].append(shown.of(method))
    return found
