"""The reference image."""

from torch import Tensor

from pipeline.retrieval.clues.base import Clues, clue
from pipeline.scoring import normalise


@clue("reference")
def reference(clues: Clues) -> Tensor:
    """Return the normalised features (queries, d); zeros where an image could not be read."""
    return normalise(clues.source.references())


@clue("reference_raw")
def reference_raw(clues: Clues) -> Tensor:
    """Return the features (queries, d) as the encoder gives them, not normalised."""
    return clues.source.references()
