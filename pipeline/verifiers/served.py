"""A vision-language model (Qwen-VL and the like) behind an OpenAI-compatible server as verifier."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.errors import InputError
from pipeline.images import data_url, open_image
from pipeline.replicas import connect
from pipeline.verifiers import Question, Verdict, probability
from pipeline.verifiers.prompts import VerifyPrompt

TOP_LOGPROBS = 20
"""The most likely first tokens that are asked for: as many as servers give."""


class ServedVerifier:
    """Asks for one token, whose alternatives come with their log-probabilities."""

    def __init__(self, config: VerifierConfig, runtime: RuntimeConfig) -> None:
        self.config = config
        self.max_pixels = runtime.max_pixels
        self.client = connect(config.url, config.model, runtime)

    def judge(self, prompt: VerifyPrompt, questions: Iterable[Question]) -> Iterator[Verdict]:
        """Yield verdicts as they come; raises ModelError if the server cannot be used."""
        unreadable: list[Verdict] = []
        for done in self.client.complete(self._requests(prompt, questions, unreadable)):
            if done.first_token is None:
                reason = done.reason or "the server gave no log-probabilities"
                yield Verdict(done.key, None, reason, done.tokens)
                continue
            fits = probability(done.first_token)
            wrong = None
            if fits is None:
                said = max(done.first_token, key=done.first_token.__getitem__, default="")
                wrong = f"the answer began with {said!r}, neither yes nor no"
            yield Verdict(done.key, fits, wrong, done.tokens)
        yield from unreadable

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
            yield question.key, body
