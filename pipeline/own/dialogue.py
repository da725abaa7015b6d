"""The next turn of a dialogue about one's own images, for `seize.load` and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.own.unwanted import NOTHING, Unwanted
from pipeline.retrieval import turns
from pipeline.retrieval.turns import Carried, State

if TYPE_CHECKING:
    from pipeline.own.gallery import Gallery
    from pipeline.own.result import Result


def go_on(
    gallery: Gallery,
    references: Sequence[str],
    relative_caption: str,
    left: Carried,
    state: State,
    unwanted: Unwanted = NOTHING,
    tell: Callable[[str], Any] = lambda step: None,
) -> Result:
    """Return the turn that begins with the query's vector, or the edited captions, of one before.

    ``references`` are hashes of what the dialogue began with, which is not retrieved. Edits are
    asked for here; ``tell`` hears each step. Raises ConfigError for a state that the gallery's
    method cannot begin with, InputError for a vector of another encoder.
    """
    turns.check(gallery.config.search.method, state)
    captions = list(left.captions) if state == "caption" else []
    edits: list[str | None] = []
    if captions and relative_caption.strip():
        tell("edit")
        edits = gallery.edit(captions, relative_caption)
    tell("search")
    return gallery.rank(
        references, relative_caption, captions, edits, unwanted=unwanted, vector=left.vector
    )
