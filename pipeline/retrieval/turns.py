"""What a turn of a dialogue hands to the next one: the state that the next turn begins with.

The one home of it, for a benchmark's sessions, `seize.load` and the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.errors import ConfigError, nearest
from pipeline.retrieval import methods
from pipeline.retrieval.scoring import Ends, RankEnds, Score, normalise

if TYPE_CHECKING:
    from torch import Tensor

State = Literal["given", "image", "query", "caption"]
"""``image``: the first image that was retrieved is the next reference. ``query``: the query's own
vector stands for the next reference's feature. ``caption``: the edited captions are the next
turn's captions, and the vector stands for the feature, where a method looks at one. ``given``: the
benchmark's own reference, as if every turn before had been answered right."""
STATES: tuple[State, ...] = get_args(State)


SAID = frozenset({"relative_captions", "relative_parts", "entities", "shared_concepts"})
"""Kinds of texts that a turn has, whatever it begins with."""
CAPTIONS = frozenset({"captions", "edits"})
"""Those that it has where captions were carried on."""


@dataclass(frozen=True)
class Carried:
    """What one turn left for the next."""

    image: str | None
    """The image retrieved first."""
    vector: Tensor
    """The query (d), of length 1."""
    captions: tuple[str, ...] = ()
    """The edited captions that did not fail."""


def fused(score: Score) -> Tensor:
    """Return the one vector a query (queries, d) of a score: what it is before any increment.

    Of two ends that is their mean's direction, of the rank variant the composed feature.
    """
    if isinstance(score, RankEnds):
        return normalise(score.composed)
    assert isinstance(score, Ends)
    return normalise(score.positive + score.negative)


def carried(
    images: Sequence[str], vector: Tensor, edits: Sequence[str | None], before: Carried | None
) -> Carried:
    """Return what a turn leaves; one whose edits all failed keeps the captions it began with."""
    kept = tuple(dict.fromkeys(text for text in edits if text))
    if not kept and before is not None:
        kept = before.captions
    return Carried(next(iter(images), None), vector, kept)


def check(method: str, state: str) -> None:
    """Raise ConfigError for a state that is none, or that a method cannot begin with.

    A vector has no captions, so methods that read captions need an image or captions; and it cannot
    stand for an image that a method looks at.
    """
    if state not in STATES:
        raise ConfigError(f"There is no state {state!r}.{nearest(state, STATES)}")
    if state in ("given", "image"):
        return
    reads = methods.reads(method)
    if others := reads - SAID - CAPTIONS:
        raise ConfigError(
            f"The method {method} reads {', '.join(sorted(others))}, which are told of an image's "
            "own captions alone: carry --state image."
        )
    if any(clue.looks for clue in methods.clues_of(method).values()):
        raise ConfigError(
            f"The method {method} looks at the image itself, which a query's vector cannot stand "
            "for: carry --state image."
        )
    if state == "query" and reads & CAPTIONS:
        raise ConfigError(
            f"The method {method} reads captions, which a query's vector has none of: carry "
            "--state image or caption."
        )
    if state == "caption" and not reads & CAPTIONS:
        raise ConfigError(f"The method {method} reads no captions: carry --state image or query.")


def possible(method: str) -> list[State]:
    """Return the states that a method can begin a turn with."""
    found = []
    for state in STATES:
        try:
            check(method, state)
        except ConfigError:
            continue
        found.append(state)
    return found
