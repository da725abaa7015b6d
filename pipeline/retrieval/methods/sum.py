"""The sum of raw features, as joint embedders trained for it are used."""

from pipeline.retrieval.methods.base import Clues, method, same
from pipeline.retrieval.scoring import Score, normalise


@method("sum", ("reference_raw", "relative_raw"))
def raw_sum(clues: Clues) -> Score:
    """The sum of reference image and relative caption, neither normalised before (BGE-VL)."""
    return same(normalise(clues.vectors("reference_raw") + clues.vectors("relative_raw")))
