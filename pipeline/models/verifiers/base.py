"""What verifiers share: what they are asked, what they answer, and how an answer is read."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline.config import VerifierConfig
from pipeline.models.kinds import Kind
from pipeline.models.prompts.verify import Form, VerifyPrompt
from pipeline.records import ImageFile

YES, NO = "yes", "no"


@dataclass(frozen=True)
class VerifierKind(Kind[VerifierConfig, "Verifier"]):
    """What a kind of verifier tells about itself."""

    asks: Form = "question"
    """The form of prompts that it takes; see ``VerifyPrompt.form``."""


@dataclass(frozen=True)
class Question:
    """What is asked about one candidate. ``key`` is handed back with the verdict."""

    key: int
    images: tuple[ImageFile, ...]
    """The image files, in the prompt's order; all of a query's references where it names them."""
    edited_caption: str
    relative_caption: str


@dataclass(frozen=True)
class Verdict:
    """The probability in [0, 1] that the candidate fits, or None and the reason."""

    key: int
    probability: float | None
    reason: str | None = None
    tokens: int = 0
    """Tokens that the request took, images included; 0 where the server does not tell."""


class Verifier(Protocol):
    """Answers questions about images, in whatever order is fastest."""

    def judge(self, prompt: VerifyPrompt, questions: Iterable[Question]) -> Iterator[Verdict]:
        """Yield a verdict for each question as it comes; raises ModelError if none can come.

        An image that cannot be read ends in a verdict with a reason.
        """
        ...


def probability(tokens: Mapping[str, float]) -> float | None:
    """Return p(yes) / (p(yes) + p(no)) from log-probabilities of the answer's first token.

    Tokens that differ in case, spaces or the marks that tokenizers use for them count together.
    Where a server tells of one token alone, what it leaves counts for the other answer. None where
    neither answer is among ``tokens``.
    """
    mass = {YES: 0.0, NO: 0.0}
    for token, logarithm in tokens.items():
        if (word := answer_of(token)) is not None:
            # A server may answer anything: a log-probability is at most 0, and NaN is none.
            mass[word] += 0.0 if math.isnan(logarithm) else math.exp(min(logarithm, 0.0))
    if len(tokens) == 1 and any(mass.values()):
        said, other = (YES, NO) if mass[YES] else (NO, YES)
        mass[other] = 1.0 - mass[said]
    total = mass[YES] + mass[NO]
    return mass[YES] / total if total > 0 else None


def answer_of(token: str) -> str | None:
    """Return which answer a token is, or None."""
    word = token.strip(" \t\n\u0120\u2581").casefold()  # byte-level and sentencepiece spaces
    return word if word in (YES, NO) else None
