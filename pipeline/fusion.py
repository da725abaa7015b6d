"""How a verifier's probabilities change a ranking, and which candidates it must look at.

The rule: an image that the verifier accepts (probability of at least ``accept``) comes before all
others, one that it rejects (below ``reject``) after all others, and within each of these three
groups the order of the search stays. So the verifier ranks where it is confident and the score
where it is not; an image that was not verified is undecided.
"""

from collections.abc import Mapping, Sequence

Probabilities = Mapping[str, float | None]
"""By image, in [0, 1]; None where the verifier gave none."""


def fuse(
    images: Sequence[str], probabilities: Probabilities, accept: float, reject: float
) -> list[str]:
    """Return ``images``, best first by score, in the order of the rule above."""

    def group(image: str) -> int:
        probability = probabilities.get(image)
        if probability is None:
            return 1
        return 0 if probability >= accept else 2 if probability < reject else 1

    return sorted(images, key=group)  # which keeps the order within a group


def walk(
    candidates: Sequence[str], known: Probabilities, accept: float, settled: int | None
) -> tuple[list[str], list[str]]:
    """Return the candidates that count, and those still to be verified before more can be said.

    They are verified in the order of their scores. Under the rule an accepted image stays behind
    those accepted before it, so once ``settled`` are accepted no later one can enter the first
    ``settled`` places, and the rest does not count, known or not; None lets all count. Every one of
    the second list is needed whatever the others' answers are: no request is ever wasted.
    """
    counting: list[str] = []
    wanted: list[str] = []
    accepted = 0
    for image in candidates:
        if settled is not None and accepted + len(wanted) >= settled:
            break
        if image in known:
            counting.append(image)
            probability = known[image]
            accepted += probability is not None and probability >= accept
        else:
            wanted.append(image)
    return counting, wanted
