"""A chat model run in process by transformers, for machines with no server."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import LlmConfig, RuntimeConfig, resolve_device, resolve_precision
from pipeline.models.answers import cut, is_mark, muses, open_thought, without_thoughts
from pipeline.models.llms.base import Answer, Request
from pipeline.models.loading import check_template, failed, pretrained
from pipeline.models.quiet import tame_transformers
from pipeline.models.sampling import Sampler, uniform_numbers
from pipeline.models.template import ChatTemplate

WINDOW = 64
"""Batches that are read at a time, to put requests of similar length into one batch."""


class LocalLlm:
    """Batched generation with left padding; requests of similar length share a batch."""

    def __init__(self, config: LlmConfig, runtime: RuntimeConfig) -> None:
        name = config.model
        self.device = resolve_device(runtime.device)
        self.batch = runtime.edit_batch
        dtype = getattr(torch, resolve_precision(config.precision, self.device))
        tame_transformers()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                name, padding_side="left", trust_remote_code=False
            )
            model: Any = pretrained(AutoModelForCausalLM, name, dtype=dtype)
        except Exception as error:
            advice = (
                "Check the name and the network, or use a server with --llm NAME --llm-url URL."
            )
            raise failed(f"The LLM {name}", error, advice) from error
        check_template(self.tokenizer, f"The LLM {name}")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.template = ChatTemplate(self.tokenizer, name, config.thinking)
        self.thinks = config.thinking
        self.room = config.thinking_tokens
        self.dropped = self.dropped_of(self.tokenizer)
        self.model = model.to(self.device).eval()

    @staticmethod
    def dropped_of(tokenizer: Any) -> list[int]:
        """Return the special tokens that are no part of an answer: all but marks of thoughts."""
        special = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
        return [number for token, number in special if not is_mark(token)]

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yield answers batch by batch; those of one batch come together.

        An answer depends on its request alone, but for the rounding of a batch's arithmetic: where
        two tokens are as good as equally likely, another ``edit_batch`` may take the other one.
        """
        waiting = iter(requests)
        while window := list(islice(waiting, WINDOW * self.batch)):
            yield from self._answer(window)

    def _answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
        prompts = [self.template.render(request.messages) for request in requests]
        order = sorted(
            range(len(requests)), key=lambda i: (_settings(requests[i]), len(prompts[i]))
        )
        for _, group in groupby(order, key=lambda i: _settings(requests[i])):
            alike = list(group)
            for start in range(0, len(alike), self.batch):
                batch = [(prompts[i], requests[i]) for i in alike[start : start + self.batch]]
                yield from self._answer_batch(batch)

    def _answer_batch(self, batch: Sequence[tuple[str, Request]]) -> Iterator[Answer]:
        """Yield a batch's answers; a thought that is cut off is given room, from then on."""
        roomy, again = self.thinks, []
        for asked, (text, ended) in zip(batch, self._generate(batch, roomy), strict=True):
            cut_off = without_thoughts(text) is None
            if not roomy and (cut_off or (not ended and muses(text))):
                again.append(asked)
                self.thinks = self.thinks or cut_off
            else:
                yield _answer(asked[1], text, ended)
        for asked, (text, ended) in zip(again, self._generate(again, True), strict=True):
            yield _answer(asked[1], text, ended)

    @torch.inference_mode()
    def _generate(
        self, batch: Sequence[tuple[str, Request]], roomy: bool
    ) -> list[tuple[str, bool]]:
        """Return each prompt's answer, and whether the model ended it by itself."""
        if not batch:
            return []
        prompts, requests = zip(*batch, strict=True)
        steps = requests[0].max_tokens + (self.room if roomy else 0)
        inputs = self.tokenizer(
            list(prompts), return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self.device)
        inputs.pop("token_type_ids", None)
        sampling: dict[str, Any] = {"do_sample": False}
        if (temperature := requests[0].temperature) > 0:
            numbers = [uniform_numbers(r.seed, p, steps) for p, r in batch]
            sampler = Sampler(np.stack(numbers), temperature)
            sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
            sampling["logits_processor"] = [sampler]
        tokens = self.model.generate(
            **inputs,
            **sampling,
            max_new_tokens=steps,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=new.device)
        ended = torch.isin(new, ends).any(dim=1).tolist()
        # Decoding would drop the marks of thoughts as well, where they are special tokens.
        kept = ~torch.isin(new, torch.tensor([*self.dropped, *ends.tolist()], device=new.device))
        texts = self.tokenizer.batch_decode(
            [row[keep].tolist() for row, keep in zip(new, kept, strict=True)],
            skip_special_tokens=False,
        )
        begun = [open_thought(prompt) for prompt in prompts]
        return [(a + b, c) for a, b, c in zip(begun, texts, ended, strict=True)]


def _answer(request: Request, text: str, ended: bool) -> Answer:
    said = cut(text, request.stop)
    return Answer(request.key, said, truncated=not ended and said == text)


def _settings(request: Request) -> tuple[float, int]:
    return request.temperature, request.max_tokens
