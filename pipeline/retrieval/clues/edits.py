"""The edited captions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.retrieval.clues.base import Clues, clue, good
from pipeline.retrieval.scoring import normalise

if TYPE_CHECKING:
    from torch import Tensor

READS = ("captions", "edits", "relative_captions")


@clue("composed", reads=READS)
def composed(clues: Clues) -> Tensor:
    """Return the composed feature (queries, d): the mean of the edited captions (section 3.3).

    Without edits the relative caption stands for it.
    """
    import torch

    source = clues.source
    pairs = zip(source.texts("edits"), source.texts("relative_captions"), strict=True)
    return torch.stack(
        [clues.mean(source.embed(good(edits) or good(relative))) for edits, relative in pairs]
    )


def _edited(clues: Clues) -> Iterator[tuple[list[str], list[str], list[int]]]:
    """Yield each query's captions, its edits that did not fail, and the caption of each edit."""
    source = clues.source
    for captions, edits in zip(source.texts("captions"), source.texts("edits"), strict=True):
        places = [i % len(captions) for i, text in enumerate(edits) if text is not None]
        yield good(captions), good(edits), places


@clue("first_edit", reads=READS)
def first_edit(clues: Clues) -> Tensor:
    """Return the feature (queries, d) of the edit of the first caption that has one."""
    import torch

    source, found = clues.source, []
    for (_, edits, places), relative in zip(
        _edited(clues), source.texts("relative_captions"), strict=True
    ):
        first = [text for text, place in zip(edits, places, strict=True) if place == places[0]]
        found.append(clues.mean(source.embed(first or good(relative))))
    return torch.stack(found)


@clue("edits", reads=READS)
def edits(clues: Clues) -> list[Tensor]:
    """Return, for each query, its edited captions' normalised features one by one (edits, d)."""
    return [normalise(clues.source.embed(made)) for _, made, _ in _edited(clues)]


@clue("differences", needs=("edits",), reads=READS)
def differences(clues: Clues) -> list[Tensor]:
    """Return, for each query and edit, the caption's normalised feature less the edit's (edits, d).

    Its inner product with an image is how much the edit takes away from the image's similarity.
    """
    before = [
        normalise(clues.source.embed(captions))[places] for captions, _, places in _edited(clues)
    ]
    return [b - a for b, a in zip(before, clues.lists("edits"), strict=True)]
