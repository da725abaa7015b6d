"""A vision-language model (Qwen-VL and the like) behind an OpenAI-compatible server as verifier."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.errors import InputError, ModelError
from pipeline.images.files import data_url, open_image
from pipeline.models.answers import CUT_OFF, without_thoughts
from pipeline.models.identity import model_identity
from pipeline.models.kinds import Kind
from pipeline.models.prompts.verify import VerifyPrompt
from pipeline.models.serving.chat import Completion
from pipeline.models.serving.dialect import Manner
from pipeline.models.serving.replicas import connect
from pipeline.models.verifiers.base import Question, Verdict, Verifier, probability

TOP_LOGPROBS = 20
"""The most likely first tokens that are asked for: as many as servers give."""
LEAST = 20
"""Answers, none of them yes or no, after which the verifier is called useless."""


class ServedVerifier:
    """Asks for one token, whose alternatives come with their log-probabilities.

    A model that thinks is told not to; where it does all the same, the first token behind its
    thought counts.
    """

    def __init__(self, config: VerifierConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self.max_pixels = runtime.max_pixels
        self.manner = Manner()
        self.client = connect(config.url, config.model, runtime, self.manner)
        self._useless: list[str] | None = []  # why; None once an answer was yes or no

    @property
    def notes(self) -> list[str]:
        """What the servers do not take, and how often they refused, in words."""
        return [*self.manner.notes, *self.client.notes]

    def judge(self, prompt: VerifyPrompt, questions: Iterable[Question]) -> Iterator[Verdict]:
        """Yield verdicts as they come; raises ModelError if the server cannot be used.

        That is also where it gives no log-probabilities, or where none of its first answers is yes
        or no: then no verdict is yielded.
        """
        unreadable: list[Verdict] = []
        waiting: list[Verdict] = []
        for done in self.client.complete(self._requests(prompt, questions, unreadable)):
            verdict = self._verdict(done)
            if self._useless is None:
                yield from waiting
                waiting.clear()
                yield verdict
            else:
                waiting.append(verdict)
        yield from waiting
        yield from unreadable

    def _verdict(self, done: Completion) -> Verdict:
        if done.reason is not None:
            return Verdict(done.key, None, done.reason, done.tokens)
        if done.first_token is None and self._useless is not None:
            raise ModelError(
                f"{self.config.model} gives no log-probabilities of its answer's first token, "
                "which verifying needs. Serve it with vLLM or another server that gives them "
                "(logprobs, top_logprobs), or choose another --verifier; then repeat the same "
                "command."
            )
        fits = probability(done.first_token or {})
        if fits is not None:
            self._useless = None
            return Verdict(done.key, fits, None, done.tokens)
        wrong = _what_is_wrong(done)
        if self._useless is not None:
            self._useless.append(wrong)
            if len(self._useless) >= LEAST:
                shown = "; ".join(list(dict.fromkeys(self._useless))[:3])
                raise ModelError(
                    f"None of the first {LEAST} answers of {self.config.model} is yes or no, nor "
                    f"has one among its likely first tokens: {shown}. Choose another --question "
                    "or --verifier, or switch the model's thinking off at its server; then repeat "
                    "the same command."
                )
        return Verdict(done.key, None, wrong, done.tokens)

    def _requests(
        self, prompt: VerifyPrompt, questions: Iterable[Question], unreadable: list[Verdict]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        side = self.config.longest_side
        for question in questions:
            try:
                opened = (open_image(f, max_pixels=self.max_pixels) for f in question.images)
                urls = [data_url(image, side) for image in opened]
            except InputError as error:
                unreadable.append(Verdict(question.key, None, str(error)))
                continue
            parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            messages = prompt.messages(parts, question.edited_caption, question.relative_caption)
            body = {
                "messages": messages,
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": True,
                "top_logprobs": TOP_LOGPROBS,
            }
            yield question.key, body | self.manner.parameters


def _what_is_wrong(done: Completion) -> str:
    if done.first_token:
        said = max(done.first_token, key=done.first_token.__getitem__)
        return f"the answer began with {said!r}, neither yes nor no"
    if done.first_token is None:
        return "the server gave no log-probabilities"
    cut_off = without_thoughts(done.texts[0]) is None
    return CUT_OFF if cut_off else "the server gave no log-probabilities behind the thought"


KIND: Kind[VerifierConfig, Verifier] = Kind(
    load=ServedVerifier,
    identity=lambda settings: {"model": model_identity(settings.model)},
    served=True,
    threads=True,
)
