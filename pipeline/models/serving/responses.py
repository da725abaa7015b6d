"""Reading what a server sent, whatever it is: bodies, counts, errors and names of any size.

A server may answer anything, so nothing here trusts a length, a number or a nesting.
"""

import email.utils
import re
import time
import zlib
from typing import Any

import aiohttp

from pipeline import nesting

LARGEST_BODY = 8 << 20
"""Bytes of a response that are read, unpacked; a longer one is a fault of its request."""
ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading JSON and numbers of others may raise, whatever they hold."""


class BodyError(aiohttp.ClientPayloadError):
    """A response's body that is too long, or packed so that it cannot be read."""


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return a response's body, at most ``LARGEST_BODY``; raises BodyError.

    It is unpacked here: aiohttp would unpack whatever a few bytes stand for.
    """
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > LARGEST_BODY:
            raise BodyError(f"the answer was longer than {LARGEST_BODY >> 20} MiB")
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing == "identity":
        return bytes(content)
    if packing not in ("gzip", "x-gzip", "deflate"):
        raise BodyError("the answer was packed in a way that was not asked for")
    try:
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, LARGEST_BODY + 1)
    except zlib.error:
        raise BodyError("the answer's packing was damaged") from None
    if len(unpacked) > LARGEST_BODY:
        raise BodyError(f"the answer was longer than {LARGEST_BODY >> 20} MiB")
    return unpacked


def message(content: bytes) -> str:
    """Return what an error's body says, as one line, however long; of a web page nothing."""
    text = content.decode(errors="replace")
    if text.lstrip()[:1] == "<":
        return "no message"
    try:
        parsed = nesting.loads(text)
        error = parsed.get("error", parsed)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except ODD:
        pass
    return line(text) or "no message"


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or an HTTP date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return until_date(value)
    except ODD:
        return None


def until_date(value: str) -> float:
    """Return the seconds until an HTTP date; raises one of ``ODD`` where it is none."""
    return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())


def kv_cache(metrics: str) -> int | None:
    """Return the tokens of a vLLM's KV cache from its metrics; None where they do not tell."""
    found = re.search(r"^vllm:cache_config_info\{(.*)\}", metrics, re.MULTILINE)
    labels = dict(re.findall(r'\b(\w+)="([^"]*)"', found[1])) if found else {}
    try:
        return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    except ODD:
        return None


def prefix_cache(metrics: str) -> tuple[int, int] | None:
    """Return how many tokens of prompts a vLLM looked for in its prefix cache, and found there.

    Both since it began, over all of its engines; None where its metrics do not tell.
    """
    looked, found = (
        re.findall(
            rf"^vllm:prefix_cache_{name}(?:_total)?(?:\{{.*\}})? (\S+)$", metrics, re.MULTILINE
        )
        for name in ("queries", "hits")
    )
    try:
        return (int(sum(map(float, looked))), int(sum(map(float, found)))) if looked else None
    except ODD:
        return None


def count(value: Any) -> int:
    """Return a server's count, 0 where it gives none; raises one of ``ODD`` for what is none."""
    number = int(value or 0)
    if not 0 <= number < 1 << 31:
        raise ValueError("a count that cannot be true")
    return number


def line(text: str) -> str:
    """Return ``text`` on one line."""
    return " ".join(text.split())
