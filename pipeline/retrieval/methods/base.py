"""What a retrieval method declares: its clues, its weights, and the function that scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.retrieval.clues import Clues
from pipeline.retrieval.plans import Lists
from pipeline.retrieval.scoring import Ends, Score
from pipeline.retrieval.sections import Section, steps, weight

Grid = Mapping[str, Sequence[float]]
"""Names of weights to the values that tuning tries."""


@dataclass(frozen=True)
class Method:
    """One way to rank: a function from clues, and the weights of its sections, to a score."""

    name: str
    score: Callable[..., Score]
    """Called with the clues and one ``Section`` for each of ``sections``."""
    needs: tuple[str, ...]
    """The clues that it may ask for."""
    sections: tuple[type[Section], ...] = ()
    grid: Grid | None = None
    """The values that tuning tries where they are not the sections' own."""
    lists: Callable[..., Lists] | None = None
    """Of a method that joins several candidate lists a query: called as ``score``, in its place."""
    parts: tuple[str, ...] = ()
    """The methods whose rankings a pool fuses; it has no score of its own."""

    @property
    def summary(self) -> str:
        """What the method does, in a sentence."""
        return " ".join(((self.lists or self.score).__doc__ or "").split())

    @property
    def weights(self) -> dict[str, type[Section]]:
        """The section of every weight, by the weight's name."""
        return {field: kind for kind in self.sections for field in kind.model_fields}

    @property
    def tuned(self) -> dict[str, list[float]]:
        """The values that tuning tries, by weight; empty where there is nothing to tune."""
        if self.grid is not None:
            return {name: list(values) for name, values in self.grid.items()}
        return {name: tried for kind in self.sections for name, tried in kind.grid().items()}


METHODS: dict[str, Method] = {}


def method(
    name: str,
    needs: tuple[str, ...],
    sections: tuple[type[Section], ...] = (),
    grid: Grid | None = None,
) -> Callable[[Callable[..., Score]], Callable[..., Score]]:
    """Register a function as the method that ``--method`` takes by this name; see ``Method``."""

    def register(score: Callable[..., Score]) -> Callable[..., Score]:
        METHODS[name] = Method(name, score, needs, sections, grid)
        return score

    return register


def listed(
    name: str, needs: tuple[str, ...], sections: tuple[type[Section], ...] = ()
) -> Callable[[Callable[..., Lists]], Callable[..., Lists]]:
    """Register a function from clues to candidate lists as a method; see ``Method.lists``."""

    def none(*_: object) -> Score:
        raise ConfigError(f"{name} joins lists; it has no score of its own.")

    def register(lists: Callable[..., Lists]) -> Callable[..., Lists]:
        METHODS[name] = Method(name, none, needs, sections, lists=lists)
        return lists

    return register


def same(vectors: Any) -> Ends:
    """Return the score of one vector a query (queries, d), without an increment."""
    return Ends(vectors, vectors)


__all__ = ["METHODS", "Clues", "Method", "Section", "listed", "method", "same", "steps", "weight"]
