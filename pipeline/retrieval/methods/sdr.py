"""SDR-CIR: a query anchored in the reference image, less what the edit adds to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pipeline.retrieval.methods.base import Clues, Section, method, same, weight
from pipeline.retrieval.methods.increment import INCREMENT, NEEDS, Increment, incremented
from pipeline.retrieval.scoring import Score

if TYPE_CHECKING:
    from torch import Tensor


class Sdr(Section):
    """SDR-CIR's weights: of the reference image (α), and of the surplus taken off (β)."""

    name: ClassVar[str] = "sdr"
    by_dataset: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "circo": {"anchor": 0.15, "debias": 0.35},
        "cirr": {"anchor": 0.05, "debias": 0.5},
        "fashioniq": {"anchor": 0.2, "debias": 0.4},
    }
    """As published (arXiv 2602.04451); a folder of one's own and other benchmarks take CIRCO's."""

    anchor: float = weight(0.15, "weight of the reference image", [0, 0.05, 0.1, 0.15, 0.2, 0.3])
    debias: float = weight(0.35, "weight of the surplus", [0, 0.2, 0.35, 0.5, 0.75])


def anchored(clues: Clues, weights: Sdr) -> Tensor:
    """Return the composed feature anchored in the reference image (queries, d)."""
    composed, reference = clues.vectors("composed"), clues.vectors("reference")
    return (1 - weights.anchor) * composed + weights.anchor * reference


def debiased(clues: Clues, weights: Sdr) -> Tensor:
    """Return SDR-CIR's query (queries, d)."""
    surplus = clues.vectors("composed") - clues.vectors("relative")
    return (1 + weights.debias) * anchored(clues, weights) - weights.debias * surplus


@method("sdr", ("composed", "reference", "relative"), (Sdr,))
def sdr(clues: Clues, weights: Sdr) -> Score:
    """The composed feature anchored in the reference image, less what the edit adds to the
    relative caption: (1 + β)·q·x − β(a·x − m·x), q = (1 − α)a + α·r (SDR-CIR, arXiv 2602.04451).
    """
    return same(debiased(clues, weights))


@method(
    "seize+image",
    (*NEEDS, "reference"),
    (Sdr, Increment),
    grid={"anchor": [0, 0.05, 0.1, 0.15, 0.2, 0.3], **INCREMENT},
)
def seize_image(clues: Clues, weights: Sdr, increment: Increment) -> Score:
    """SEIZE's increment on a composed feature anchored in the reference image."""
    return incremented(clues, increment, anchored(clues, weights))


@method(
    "seize+sdr",
    (*NEEDS, "reference", "relative"),
    (Sdr, Increment),
    grid={"anchor": [0, 0.05, 0.15, 0.2], "debias": [0, 0.2, 0.35, 0.5], **INCREMENT},
)
def seize_sdr(clues: Clues, weights: Sdr, increment: Increment) -> Score:
    """SEIZE's increment on SDR-CIR's query."""
    return incremented(clues, increment, debiased(clues, weights))
