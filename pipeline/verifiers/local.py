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
from pipeline.images import open_image
from pipeline.llms import IN_PROCESS
from pipeline.loading import check_template, failed, pretrained, tame_transformers
from pipeline.verifiers import NO, YES, Question, Verdict, answer_of
from pipeline.verifiers.prompts import VerifyPrompt


class LocalVerifier:
    """Batched with left padding; one forward pass gives the first token's probabilities."""

    def __init__(self, config: VerifierConfig, runtime: RuntimeConfig) -> None:
        name = config.model.removeprefix(IN_PROCESS)
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
        self.model = model.to(self.device).eval()
        words = {YES: [], NO: []}  # type: dict[str, list[int]]
        for token, number in self.processor.tokenizer.get_vocab().items():
            if (word := answer_of(token)) is not None:
                words[word].append(number)
        if not (words[YES] and words[NO]):
            raise ModelError(f"The verifier {name} has no tokens for yes and no.")
        self.words = words

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
        placeholders = [{"type": "image"}] * len(prompt.images)
        texts = self.processor.apply_chat_template(
            [
                prompt.messages(placeholders, q.edited_caption, q.relative_caption)
                for q in questions
            ],
            add_generation_prompt=True,
            tokenize=False,
        )
        inputs = self.processor(
            images=images, text=texts, padding=True, add_special_tokens=False, return_tensors="pt"
        ).to(self.device, self.dtype)
        logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        yes, no = (logits[:, self.words[word]].logsumexp(dim=1) for word in (YES, NO))
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        for question, fits, tokens in zip(
            questions, torch.sigmoid(yes - no).tolist(), lengths, strict=True
        ):
            if math.isfinite(fits):
                yield Verdict(question.key, fits, tokens=tokens + 1)
            else:
                yield Verdict(question.key, None, "the model's answer is NaN", tokens + 1)
