"""A vision-language model run in process by transformers, for machines with no server."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipeline.config import RuntimeConfig, VerifierConfig, resolve_device, resolve_precision
from pipeline.errors import InputError, ModelError
from pipeline.images.files import open_image
from pipeline.models.answers import closing, open_thought
from pipeline.models.loading import check_template, failed, pretrained
from pipeline.models.prompts.verify import VerifyPrompt
from pipeline.models.quiet import tame_transformers
from pipeline.models.template import ChatTemplate
from pipeline.models.verifiers.base import NO, YES, Question, Verdict, answer_of

LIKELY = 20
"""The most likely first tokens, among which yes or no must be, as with a server."""


class LocalVerifier:
    """Batched with left padding; one forward pass gives the first token's probabilities.

    A model that would think first is asked as if it had thought nothing.
    """

    def __init__(self, config: VerifierConfig, runtime: RuntimeConfig) -> None:
        name = config.model
        self.config = config
        self.device = resolve_device(runtime.device)
        self.dtype = getattr(torch, resolve_precision(config.precision, self.device))
        self.batch = runtime.verify_batch
        self.max_pixels = runtime.max_pixels
        tame_transformers()
        try:
            self.processor: Any = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            model: Any = pretrained(AutoModelForImageTextToText, name, dtype=self.dtype)
        except Exception as error:
            advice = (
                "Check the name and the network, or use a server with --verifier NAME "
                "--verifier-url URL."
            )
            raise failed(f"The verifier {name}", error, advice) from error
        question = [{"type": "image"}, {"type": "text", "text": "a"}]
        check_template(self.processor, f"The verifier {name}", question)
        self.processor.tokenizer.padding_side = "left"
        self.template = ChatTemplate(self.processor, name)
        self.model = model.to(self.device).eval()
        words = {YES: [], NO: []}  # type: dict[str, list[int]]
        for token, number in self.processor.tokenizer.get_vocab().items():
            if (word := answer_of(token)) is not None:
                words[word].append(number)
        if not (words[YES] and words[NO]):
            raise ModelError(f"The verifier {name} has no tokens for yes and no.")
        self.words = words
        self.ending = ""

    def judge(self, prompt: VerifyPrompt, questions: Iterable[Question]) -> Iterator[Verdict]:
        """Yield verdicts batch by batch; those of one batch come together."""
        waiting = iter(questions)
        while batch := list(islice(waiting, self.batch)):
            good, images = [], []
            for question in batch:
                try:
                    images.append([self._open(file) for file in question.images])
                    good.append(question)
                except InputError as error:
                    yield Verdict(question.key, None, str(error))
            if good:
                yield from self._judge(prompt, good, images)

    def _open(self, file: Any) -> Image.Image:
        image = open_image(file, max_pixels=self.max_pixels)
        image.thumbnail((self.config.longest_side,) * 2)
        return image

    @torch.inference_mode()
    def _judge(
        self, prompt: VerifyPrompt, questions: list[Question], images: list[list[Image.Image]]
    ) -> Iterator[Verdict]:
        texts = [
            self.template.render(
                prompt.messages(
                    [{"type": "image"}] * len(q.images), q.edited_caption, q.relative_caption
                )
            )
            for q in questions
        ]
        logits, lengths = self._first_logits(images, texts)
        first = self._decoded(int(logits[0].argmax()))
        if not self.ending and (mark := open_thought(first)):
            self.ending = f"{mark}\n\n{closing(mark)}\n\n"  # a thought of nothing, from now on
            logits, lengths = self._first_logits(images, texts)
        yes, no = (logits[:, self.words[word]].logsumexp(dim=1) for word in (YES, NO))
        likely = logits.topk(min(LIKELY, logits.shape[1]), dim=1).indices
        words = torch.tensor([*self.words[YES], *self.words[NO]], device=likely.device)
        answered = torch.isin(likely, words).any(dim=1).tolist()
        for row, (question, fits) in enumerate(
            zip(questions, torch.sigmoid(yes - no).tolist(), strict=True)
        ):
            reason = None
            if not math.isfinite(fits):
                reason = "the model's answer is NaN"
            elif not answered[row]:
                said = self._decoded(int(likely[row, 0]))
                reason = f"the answer began with {said!r}, neither yes nor no"
            yield Verdict(question.key, None if reason else fits, reason, lengths[row] + 1)

    def _first_logits(
        self, images: list[list[Image.Image]], texts: list[str]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the first tokens' logits (rows, vocabulary), and how long the prompts are."""
        inputs = self.processor(
            images=images,
            text=[text + self.ending for text in texts],
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        ).to(self.device, self.dtype)
        logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        return logits, inputs["attention_mask"].sum(dim=1).tolist()

    def _decoded(self, token: int) -> str:
        text: str = self.processor.tokenizer.decode([token])
        return text
