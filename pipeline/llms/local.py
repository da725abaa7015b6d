"""A chat model run in process by transformers, for machines with no server."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.config import LlmConfig, RuntimeConfig, resolve_device, resolve_precision
from pipeline.llms import IN_PROCESS, Answer, Request
from pipeline.loading import check_template, failed, pretrained, tame_transformers

WINDOW = 64
"""Batches that are read at a time, to put requests of similar length into one batch."""


class LocalLlm:
    """Batched generation with left padding; requests of similar length share a batch."""

    def __init__(self, config: LlmConfig, runtime: RuntimeConfig) -> None:
        name = config.model.removeprefix(IN_PROCESS)
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
        self.model = model.to(self.device).eval()

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yield answers batch by batch; those of one batch come together."""
        waiting = iter(requests)
        while window := list(islice(waiting, WINDOW * self.batch)):
            yield from self._answer(window)

    def _answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
        prompts = [
            self.tokenizer.apply_chat_template(
                request.messages, add_generation_prompt=True, tokenize=False
            )
            for request in requests
        ]
        order = sorted(
            range(len(requests)), key=lambda i: (_settings(requests[i]), len(prompts[i]))
        )
        for _, group in groupby(order, key=lambda i: _settings(requests[i])):
            alike = list(group)
            for start in range(0, len(alike), self.batch):
                batch = alike[start : start + self.batch]
                texts = self._generate([prompts[i] for i in batch], requests[batch[0]])
                for i, (text, ended) in zip(batch, texts, strict=True):
                    cut = _cut(text, requests[i].stop)
                    truncated = not ended and cut == text
                    yield Answer(requests[i].key, cut, truncated=truncated)

    @torch.inference_mode()
    def _generate(self, prompts: list[str], like: Request) -> list[tuple[str, bool]]:
        """Return each prompt's answer, and whether the model ended it by itself."""
        inputs = self.tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self.device)
        inputs.pop("token_type_ids", None)
        sampling: dict[str, Any] = {"do_sample": False}
        if like.temperature > 0:
            torch.manual_seed(like.seed)
            sampling = {"do_sample": True, "temperature": like.temperature, "top_k": 0}
        tokens = self.model.generate(
            **inputs,
            **sampling,
            max_new_tokens=like.max_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=new.device)
        ended = torch.isin(new, ends).any(dim=1).tolist()
        return list(zip(texts, ended, strict=True))


def _settings(request: Request) -> tuple[float, int, int]:
    return request.temperature, request.seed, request.max_tokens


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
