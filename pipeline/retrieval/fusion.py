"""How a verifier's probabilities change a ranking, and which candidates it must look at.

Two fusions, each a function of an image's scaled score and its probability; images are sorted by
what it gives, and the order of the search decides ties. An image without a probability, verified in
vain or not at all, is undecided.

- ``confidence``: an image that the verifier accepts (probability of at least ``accept``) comes
  before all others, one that it rejects (below ``reject``) after all others. So the verifier ranks
  where it is confident, and the score where it is not.
- ``average``: a weighted mean of probability and score, undecided counting as 0.5.
"""

from collections.abc import Callable, Mapping, Sequence

Probabilities = Mapping[str, float | None]
"""By image, in [0, 1]; None where the verifier gave none."""
Scores = Mapping[str, float]
"""By image, as ``scaled`` returns them."""
Fusion = Callable[[float, float | None], float]
"""Joins a scaled score and a probability; it never falls where one of them rises."""


def confidence(accept: float, reject: float) -> Fusion:
    """Return the fusion that trusts the verifier where it is confident."""

    def joined(score: float, probability: float | None) -> float:
        if probability is None:
            return 0.0
        return 1.0 if probability >= accept else -1.0 if probability < reject else 0.0

    return joined


def average(weight: float) -> Fusion:
    """Return the fusion that gives the probability a fixed weight in [0, 1]."""

    def joined(score: float, probability: float | None) -> float:
        return (1 - weight) * score + weight * (0.5 if probability is None else probability)

    return joined


def scaled(images: Sequence[str], scores: Sequence[float], candidates: int) -> dict[str, float]:
    """Return falling scores so that the first image's is 1 and the last candidate's 0.

    Images behind the candidates get scores below 0, on the same scale.
    """
    if not images:
        return {}
    high, low = scores[0], scores[min(candidates, len(scores)) - 1]
    return {
        image: (score - low) / (high - low) if high > low else float(score >= low)
        for image, score in zip(images, scores, strict=True)
    }


def fuse(
    images: Sequence[str], scores: Scores, probabilities: Probabilities, fusion: Fusion
) -> list[str]:
    """Return ``images``, best first by score, sorted by the fusion."""
    return sorted(images, key=lambda image: -fusion(scores[image], probabilities.get(image)))


def walk(
    candidates: Sequence[str],
    scores: Scores,
    known: Probabilities,
    fusion: Fusion,
    settled: int | None,
) -> tuple[list[str], list[str]]:
    """Return the candidates that count, and those still to be verified before more can be said.

    They are verified in the order of their scores. Once ``settled`` of them stay ahead of the next
    even if the verifier is sure of that one, no later one can enter the first ``settled`` places,
    and the rest does not count, known or not; None lets all count. Every one of the second list is
    needed whatever the others' answers are: no request is ever wasted.
    """
    counting: list[str] = []
    wanted: list[str] = []
    for image in candidates:
        best = fusion(scores[image], 1.0)
        ahead = sum(fusion(scores[other], known[other]) >= best for other in counting)
        if settled is not None and ahead + len(wanted) >= settled:
            break
        (counting if image in known else wanted).append(image)
    return counting, wanted
