"""A multimodal reranker (Qwen3-VL-Reranker and the like) behind ``/rerank`` or ``/score``.

The query is the prompt's text with its images but the candidate, the one document of a request the
candidate: so each answer is kept as it comes, and the early stop asks for no more than it needs.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.errors import InputError, ModelError
from pipeline.images.files import data_url, open_image
from pipeline.models.identity import model_identity
from pipeline.models.prompts.verify import VerifyPrompt
from pipeline.models.serving.chat import Completion
from pipeline.models.serving.endpoints import RERANK, SCORE
from pipeline.models.serving.replicas import connect
from pipeline.models.verifiers.base import Question, Verdict, VerifierKind

LEAST = 20
"""Scores, none of them a probability, after which the reranker is called useless."""


class Reranker:
    """Asks for one score a candidate: the probability that it is relevant to the query."""

    def __init__(self, config: VerifierConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self.max_pixels = runtime.max_pixels
        endpoint = {"rerank": RERANK, "score": SCORE}[config.endpoint]
        self.client = connect(config.url, config.model, runtime, endpoint=endpoint)
        self._useless: list[float] | None = []  # scores; None once one was a probability

    @property
    def notes(self) -> list[str]:
        """How often the servers refused requests, in words."""
        return self.client.notes

    def judge(self, prompt: VerifyPrompt, questions: Iterable[Question]) -> Iterator[Verdict]:
        """Yield verdicts as they come; raises ModelError if the server cannot be used.

        That is also where none of its first scores is in [0, 1]: then no verdict is yielded.
        """
        unreadable: list[Verdict] = []
        waiting: list[Verdict] = []
        for done in self.client.complete(self._requests(prompt, questions, unreadable)):
            waiting.append(self._verdict(done))
            if self._useless is None or done.reason is not None:
                yield from waiting
                waiting.clear()
        yield from waiting
        yield from unreadable

    def _verdict(self, done: Completion) -> Verdict:
        if done.reason is not None:
            return Verdict(done.key, None, done.reason, done.tokens)
        score: float = done.content
        if math.isfinite(score) and 0 <= score <= 1:
            self._useless = None
            return Verdict(done.key, score, None, done.tokens)
        if self._useless is not None:
            self._useless.append(score)
            if len(self._useless) >= LEAST:
                shown = ", ".join(f"{one:g}" for one in self._useless[:3])
                raise ModelError(
                    f"The first {LEAST} scores of {self.config.model} are no probabilities "
                    f"({shown}, …). Serve it so that scores are from 0 to 1 (vLLM: a classifier of "
                    "yes and no, without use_activation=false), then repeat the same command."
                )
        return Verdict(done.key, None, f"the score {score:g} is no probability", done.tokens)

    def _requests(
        self, prompt: VerifyPrompt, questions: Iterable[Question], unreadable: list[Verdict]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        side = self.config.longest_side
        candidate = 0 if prompt.images[0] == "candidate" else -1  # references may be several
        for question in questions:
            try:
                opened = (open_image(f, max_pixels=self.max_pixels) for f in question.images)
                parts = [_shown(data_url(image, side)) for image in opened]
            except InputError as error:
                unreadable.append(Verdict(question.key, None, str(error)))
                continue
            document = {"content": [parts.pop(candidate)]}
            text = prompt.said(question.edited_caption, question.relative_caption)
            query = {"content": [*parts, {"type": "text", "text": text}]}
            told = {"instruction": prompt.system} if prompt.system else {}
            if self.config.endpoint == "rerank":
                yield question.key, {"query": query, "documents": [document], **told}
            else:
                yield question.key, {"text_1": query, "text_2": document, **told}


def _shown(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


KIND = VerifierKind(
    load=Reranker,
    identity=lambda settings: {
        "model": f"reranker:{model_identity(settings.model)}",
        "endpoint": settings.endpoint,
    },
    served=True,
    threads=True,
    asks="query",
)
