"""LLMs: chat models that answer prompts. One file a kind."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.models.loading import LOADING, hub

IN_PROCESS = "transformers:"


@dataclass(frozen=True)
class Request:
    """One chat to answer. ``key`` is handed back with the answer."""

    key: int
    messages: list[dict[str, str]]
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    seed: int
    schema: dict[str, Any] | None = None
    """JSON schema that a server's decoding is held to; in process it is the prompt's alone."""


@dataclass(frozen=True)
class Answer:
    """The text for the request of ``key``, or None and the reason."""

    key: int
    text: str | None
    reason: str | None = None
    truncated: bool = False
    """Whether the text was cut off at the request's ``max_tokens``."""


class Llm(Protocol):
    """Answers chats, in whatever order is fastest."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yield an answer for each request as it comes; raises ModelError if none can come.

        ``requests`` is read as they are needed, so that any number takes steady memory.
        """
        ...


def load(config: LlmConfig, runtime: RuntimeConfig) -> Llm:
    """Load the LLM that ``config`` names, once a process; raises ModelError."""
    with LOADING:
        return _load(config.model_dump_json(), runtime.model_dump_json())


@functools.lru_cache(maxsize=1)
def _load(config: str, runtime: str) -> Llm:
    from pipeline.models.llms.local import LocalLlm
    from pipeline.models.llms.served import ServedLlm

    llm = LlmConfig.model_validate_json(config)
    kind = LocalLlm if llm.model.startswith(IN_PROCESS) else ServedLlm
    with nullcontext() if kind is ServedLlm else hub(llm.model.removeprefix(IN_PROCESS)):
        return kind(llm, RuntimeConfig.model_validate_json(runtime))
