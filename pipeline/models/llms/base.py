"""What LLMs share: what they are asked and what they answer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


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
