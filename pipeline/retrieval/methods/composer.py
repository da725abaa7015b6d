"""Trained composers: one vector a query, and SEIZE's increment on it."""

from pipeline.retrieval.methods.base import Clues, method, same
from pipeline.retrieval.methods.increment import INCREMENT, NEEDS, Increment, incremented
from pipeline.retrieval.methods.pdv import Pdv
from pipeline.retrieval.scoring import Score, normalise


@method("composer", ("composer",))
def composer(clues: Clues) -> Score:
    """What a trained head makes of reference image and relative caption.

    The checkpoint names the head: sum, gated (CDD-ICM), combiner (SCOT, CLIP4Cir), two-hop (MTST)
    or entities (FineCIR), re-implemented. Needs neither captioner nor LLM.
    """
    return same(clues.vectors("composer"))


@method("seize+composer", (*NEEDS, "composer"), (Increment,), grid=INCREMENT)
def seize_composer(clues: Clues, increment: Increment) -> Score:
    """SEIZE's increment on a trained composer's query."""
    return incremented(clues, increment, clues.vectors("composer"))


@method(
    "pdv+composer",
    (*NEEDS, "composer"),
    (Pdv,),
    grid={"blend": [0, 0.1, 0.3, 0.55, 0.75, 1], "text": [0.6, 1, 1.4]},
)
def pdv_composer(clues: Clues, weights: Pdv) -> Score:
    """A trained composer's query in the place of PDV's image side, beside its text side.

    The composer has moved the image already, so that no step along the edit is taken from it.
    """
    content = clues.vectors("content")
    text = content + weights.text * (clues.vectors("composed") - content)
    return same(normalise((1 - weights.blend) * clues.vectors("composer") + weights.blend * text))
