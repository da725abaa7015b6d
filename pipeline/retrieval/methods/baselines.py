"""Baselines that need neither captioner nor LLM."""

from pipeline.retrieval.methods.base import Clues, method, same
from pipeline.retrieval.scoring import Score, normalise


@method("image", ("reference",))
def image(clues: Clues) -> Score:
    """The reference image alone."""
    return same(clues.vectors("reference"))


@method("text", ("relative",))
def text(clues: Clues) -> Score:
    """The relative caption alone."""
    return same(clues.vectors("relative"))


@method("image+text", ("reference", "relative"))
def image_and_text(clues: Clues) -> Score:
    """The mean of reference image and relative caption."""
    return same(normalise(clues.vectors("reference") + clues.vectors("relative")))
