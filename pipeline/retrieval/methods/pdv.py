"""PDV: reference image and caption, moved along the edit's direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipeline.retrieval.methods.base import Clues, Section, method, same, weight
from pipeline.retrieval.methods.increment import INCREMENT, NEEDS, Increment, incremented
from pipeline.retrieval.scoring import Score, normalise

if TYPE_CHECKING:
    from torch import Tensor


class Pdv(Section):
    """PDV's weight of the text side (β), and its steps along the edit's direction (α_I, α_T)."""

    name: ClassVar[str] = "pdv"

    blend: float = weight(0.75, "weight of the text side", [0, 0.1, 0.2, 0.3, 0.4, 0.55, 0.75, 1])
    image: float = weight(1.4, "steps from the image", [0.6, 1, 1.4, 2])
    text: float = weight(1.4, "steps from the caption", [1, 1.4])


def moved(clues: Clues, weights: Pdv) -> Tensor:
    """Return PDV's query (queries, d)."""
    content = clues.vectors("content")
    direction = clues.vectors("composed") - content
    image = clues.vectors("reference") + weights.image * direction
    text = content + weights.text * direction
    return normalise((1 - weights.blend) * image + weights.blend * text)


@method("pdv", (*NEEDS, "reference"), (Pdv,))
def pdv(clues: Clues, weights: Pdv) -> Score:
    """Reference image and caption, both moved along the edit's direction a − b, fused.

    PDV-F (Tursun et al., WACV 2026, arXiv 2502.07215).
    """
    return same(moved(clues, weights))


@method(
    "seize+pdv",
    (*NEEDS, "reference"),
    (Pdv, Increment),
    grid={"blend": [0.1, 0.2, 0.3, 0.4, 0.55, 0.75], **INCREMENT},
)
def seize_pdv(clues: Clues, weights: Pdv, increment: Increment) -> Score:
    """SEIZE's increment on PDV's query."""
    return incremented(clues, increment, moved(clues, weights))
