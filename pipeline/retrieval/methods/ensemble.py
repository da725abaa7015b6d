"""Absolute similarity alone: of all edited captions, and of the first."""

from pipeline.retrieval.methods.base import Clues, method, same
from pipeline.retrieval.scoring import Score


@method("mean-ensemble", ("composed",))
def mean_ensemble(clues: Clues) -> Score:
    """Absolute similarity of the mean of all edited captions, without the increment."""
    return same(clues.vectors("composed"))


@method("cirevl", ("first_edit",))
def cirevl(clues: Clues) -> Score:
    """One caption and its edit only (CIReVL, ICLR 2024)."""
    return same(clues.vectors("first_edit"))
