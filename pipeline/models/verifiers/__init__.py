"""Verifiers: vision-language models that say whether a candidate fits. One file a kind."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.models import identity
from pipeline.models.llms import IN_PROCESS
from pipeline.models.loading import LOADING, hub
from pipeline.models.prompts import verify as prompts
from pipeline.models.prompts.edit import variables_of
from pipeline.models.prompts.verify import VerifyPrompt
from pipeline.store.jsonl import RecordFile

YES, NO = "yes", "no"


@dataclass(frozen=True)
class Question:
    """What is asked about one candidate. ``key`` is handed back with the verdict."""

    key: int
    images: tuple[Path, ...]
    """The image files, in the prompt's order."""
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


def header(config: VerifierConfig) -> dict[str, Any]:
    """Return everything about the verifier that changes its verdicts."""
    in_process = config.model.startswith(IN_PROCESS)
    model = identity.model_identity(config.model.removeprefix(IN_PROCESS))
    prompt = prompts.load(config.prompt)
    content = {
        "stage": "verify",
        "model": IN_PROCESS + model if in_process else model,
        "prompt": prompt.model_dump(),
        "longest_side": config.longest_side,
    }
    if variables_of(prompt.system):
        content["system_is_template"] = True  # it was sent as it stands before
    if in_process:
        content["thinking"] = False  # a model's thought was taken for its answer before
        content["precision"] = config.precision
    return content


def settle(config: VerifierConfig, runtime: RuntimeConfig, records: RecordFile) -> VerifierConfig:
    """Return the verifier that goes on with ``records`` in the precision they were begun in."""
    if not config.model.startswith(IN_PROCESS):
        return config
    begun = identity.begun_records(records.file)
    settled, told = identity.settle(config, runtime, begun)
    records.header = records.header | told
    return settled


def load(config: VerifierConfig, runtime: RuntimeConfig) -> Verifier:
    """Load the verifier that ``config`` names, once a process; raises ModelError."""
    with LOADING:
        return _load(config.model_dump_json(), runtime.model_dump_json())


@functools.lru_cache(maxsize=1)
def _load(config: str, runtime: str) -> Verifier:
    from pipeline.models.verifiers.local import LocalVerifier
    from pipeline.models.verifiers.served import ServedVerifier

    settings = VerifierConfig.model_validate_json(config)
    kind = LocalVerifier if settings.model.startswith(IN_PROCESS) else ServedVerifier
    with nullcontext() if kind is ServedVerifier else hub(settings.model.removeprefix(IN_PROCESS)):
        return kind(settings, RuntimeConfig.model_validate_json(runtime))
