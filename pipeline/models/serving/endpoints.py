"""What can be asked of a server: each endpoint's path, and what an answer of it holds."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import nesting
from pipeline.models.serving import dialect, responses
from pipeline.models.serving.dialect import Reply
from pipeline.models.serving.responses import ODD

IMAGE_TOKENS = 1_000
"""Tokens that an image is reckoned at: what vision models make of 500 to 900 pixels a side."""


@dataclass(frozen=True)
class Endpoint:
    """One kind of request."""

    path: str
    """Behind the server's URL."""
    parse: Callable[[bytes], Reply]
    """Returns what a response's body holds; raises ValueError where it is no answer."""
    adapts: bool = False
    """Whether a request may be worded otherwise where a server refuses a part of it."""
    advice: str = ""
    """What else may be wrong where a server does not know the path."""


def _embedding(content: bytes) -> Reply:
    """Return one vector, float32 (d), as the reply's ``content``."""
    words = "the answer was no embedding"
    try:
        parsed = nesting.loads(content)
        if isinstance(parsed, dict) and parsed.get("error"):  # some say so with HTTP 200
            words = f"the answer was an error: {dialect.complaint(content)[:300]}"
        (one,) = parsed["data"]
        vector = np.array(one["embedding"], dtype=np.float32)
        tokens = responses.count((parsed.get("usage") or {}).get("total_tokens"))
        if vector.ndim != 1 or not vector.size:
            raise ValueError("no vector")
    except ODD:
        raise ValueError(words) from None
    return Reply((), False, None, tokens, False, vector)


def _ranked(content: bytes) -> Reply:
    """Return the one document's score, a float, as the reply's ``content``."""
    return _scored(content, "results", "relevance_score")


def _paired(content: bytes) -> Reply:
    """Return the one pair's score, a float, as the reply's ``content``."""
    return _scored(content, "data", "score")


def _scored(content: bytes, listed: str, field: str) -> Reply:
    words = "the answer was no score"
    try:
        parsed = nesting.loads(content)
        if isinstance(parsed, dict) and parsed.get("error"):
            words = f"the answer was an error: {dialect.complaint(content)[:300]}"
        (one,) = parsed[listed]
        score = one[field]
        tokens = responses.count((parsed.get("usage") or {}).get("total_tokens"))
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError("no number")
    except ODD:
        raise ValueError(words) from None
    return Reply((), False, None, tokens, False, float(score))


CHAT = Endpoint("chat/completions", dialect.parse, adapts=True)
EMBEDDINGS = Endpoint(
    "embeddings", _embedding, advice=" vLLM must be started with --runner pooling."
)
"""vLLM's, for one conversation a request: the last turn's vector. A request worded otherwise would
get a vector that is wrong and does not look it, so nothing of it is ever left out."""

_POOLING = " vLLM must be started with --runner pooling, for a model that scores."
RERANK = Endpoint("rerank", _ranked, advice=_POOLING)
"""A query and its documents (vLLM, Jina, Cohere), of which one is sent a request."""
SCORE = Endpoint("score", _paired, advice=_POOLING)
"""vLLM's, for two texts or contents."""


def tokens_of(body: dict[str, Any]) -> int:
    """Return about how many tokens a request takes: prompt, images and all of its answers.

    A token is taken for three characters; an image, however it is encoded, for ``IMAGE_TOKENS``.
    """
    images, messages = 0, []
    for message in body.get("messages") or _contents(body):
        texts = message["content"]
        if isinstance(texts, list):
            texts = [part for part in texts if part.get("type") != "image_url"]
            images += len(message["content"]) - len(texts)
        messages.append({**message, "content": texts})
    answers = int(body.get("n") or 1) * int(body.get("max_tokens") or 0)
    return len(json.dumps(messages)) // 3 + images * IMAGE_TOKENS + answers


def _contents(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what stands for messages in a request to score: query and documents."""
    values = (v for value in body.values() for v in (value if isinstance(value, list) else [value]))
    return [value for value in values if isinstance(value, dict) and "content" in value]
