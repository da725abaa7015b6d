"""Limits on requests and on tokens that a server tells in the headers of its answers."""

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pipeline.models.serving.responses import ODD, until_date


class Allowance(NamedTuple):
    """What headers say about one limit."""

    remaining: int | None = None
    """How many more requests, or tokens, until it is renewed; None where they do not tell."""
    seconds: float | None = None
    """In how many seconds it is renewed."""


def allowances(headers: Mapping[str, str]) -> dict[str, Allowance]:
    """Return what headers tell of each limit, by its name: ``requests``, ``input-tokens``, ….

    In the spellings that servers use, each with its ``Reset`` (or Azure's ``RenewalPeriod``):
    ``X-RateLimit-Remaining-Requests`` and ``-Tokens`` (OpenAI, Azure, Groq), the same for each
    ``-Minute`` or ``-Day`` (Cerebras), ``Anthropic-RateLimit-Input-Tokens-Remaining``,
    ``RateLimitBySize-Remaining`` (tokens, Mistral), ``X-TokenLimit-Remaining`` (Together),
    ``X-RateLimit-Remaining`` (GitHub), ``X-Rate-Limit-Remaining``, ``RateLimit-Remaining`` and
    ``RateLimit`` (IETF's drafts).
    """
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        if match := _HEADER.fullmatch(name):
            family = _FAMILIES[match["family"].lower().replace("-", "")]
            limit = (match["before"] or match["behind"] or family).lower()
            found.setdefault(limit, {})[match["field"].lower()] = value
        elif name.lower() == "ratelimit":  # limit=9, remaining=3, reset=5; or "default";r=3;t=5
            said = {_SHORT.get(k, k): v for k, v in _LISTED.findall(value.lower())}
            found.setdefault("requests", {}).update(said)
    return {name: _allowance(fields) for name, fields in found.items()}


_FAMILIES = {"ratelimit": "requests", "ratelimitbysize": "tokens", "tokenlimit": "tokens"}
_WHAT = r"(?:req|requests|(?:input-|output-)?tokens)(?:-[a-z0-9]+)?"
_HEADER = re.compile(
    rf"(?:x-|anthropic-)?(?P<family>rate-?limit(?:bysize)?|tokenlimit)-(?:(?P<before>{_WHAT})-)?"
    rf"(?P<field>remaining|reset|renewalperiod)(?:-(?P<behind>{_WHAT}))?",
    re.IGNORECASE,
)
_LISTED = re.compile(r"\b(r|t|remaining|reset)\s*=\s*(\d+)")
_SHORT = {"r": "remaining", "t": "reset"}
_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[dhms])")
_DATES = 1e9
"""Numbers from here on are no seconds to wait but seconds since 1970, or a thousandth of them."""


def _allowance(fields: dict[str, str]) -> Allowance:
    remaining = re.match(r"\s*(\d{1,12})(?!\d)", fields.get("remaining", ""))
    renewed = fields.get("reset", fields.get("renewalperiod", ""))
    return Allowance(int(remaining[1]) if remaining else None, _until(renewed))


def _until(value: str) -> float | None:
    """Return the seconds until a limit is renewed: a length (``6m0s``), a number, or a date."""
    said = value.strip().lower()
    try:
        if re.fullmatch(f"(?:{_LENGTH.pattern})+", said):
            return sum(float(number) * _UNITS[unit] for number, unit in _LENGTH.findall(said))
        if re.fullmatch(r"\d{1,15}(?:\.\d{1,9})?", said):
            number = float(said)
            if number >= _DATES:
                number = number / (1000 if number >= 100 * _DATES else 1) - time.time()
            return max(0.0, number)
        if re.fullmatch(r"\d{4}-.*", said):
            return max(0.0, datetime.fromisoformat(value.strip()).timestamp() - time.time())
        return until_date(value)
    except ODD:
        return None


class Limits:
    """What may still be sent, by what the last answer told; ``longest`` is in seconds.

    A limit that is renewed later than that is not waited for, and neither is one whose time is not
    told.
    """

    def __init__(self, longest: float = math.inf) -> None:
        self._longest = longest
        self._left: list[tuple[int, float]] = []  # requests, and when there are more
        self._sent = 0  # requests since that was told
        self._tokens = 0.0

    def told(
        self, allowed: Mapping[str, Allowance], others: int, now: float, tokens: int = 1
    ) -> None:
        """Learn from an answer while ``others`` are in flight, which may or may not be counted yet.

        ``tokens``: how many a request like the one that was answered takes. The largest of the last
        requests stands for those to come.
        """
        self._tokens = max(tokens, 0.99 * self._tokens, 1)
        self._left, self._sent = [], 0
        for name, (remaining, seconds) in allowed.items():
            if remaining is not None and seconds is not None and seconds <= self._longest:
                each = self._tokens if "tokens" in name else 1
                self._left.append((int(remaining // each) - others, now + seconds))

    def send(self) -> None:
        """Count a request."""
        self._sent += 1

    def until(self, now: float, in_flight: int) -> float:
        """Return when a request may be sent; never where one in flight must be answered first."""
        spent = [renewed for left, renewed in self._left if left <= self._sent]
        if in_flight and any(renewed <= now for renewed in spent):
            return math.inf  # one answer tells how many more are allowed from now on
        return max(spent, default=-math.inf)
