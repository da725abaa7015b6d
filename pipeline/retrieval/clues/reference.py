"""The reference image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.retrieval.clues.base import Clues, clue
from pipeline.retrieval.scoring import normalise

if TYPE_CHECKING:
    from torch import Tensor


@clue("reference")
def reference(clues: Clues) -> Tensor:
    """Return the normalised features (queries, d); zeros where an image could not be read."""
    return normalise(clues.source.references())


@clue("reference_raw")
def reference_raw(clues: Clues) -> Tensor:
    """Return the features (queries, d) as the encoder gives them, not normalised."""
    return clues.source.references()
