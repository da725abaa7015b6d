"""The client at servers that take few requests at a time, or few in a time: nothing is lost."""

import asyncio
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from pipeline.config import RuntimeConfig
from pipeline.models.serving.chat import ChatClient
from pipeline.models.serving.pace import START
from pipeline.models.serving.replicas import connect
from tests.stub import Fault, Start, Stub


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off by milliseconds."""
    monkeypatch.setattr("pipeline.models.serving.chat._backoff", lambda times: 0.02 * times)


@dataclass
class Few(Stub):
    """Holds ``holds`` requests at a time and allows ``allows`` in each ``window`` seconds."""

    holds: int = 1 << 30
    allows: int = 1 << 30
    window: float = 0.5
    how: str = "503"
    """An HTTP status, or ``reset``."""
    tells: bool = False
    """Whether every answer says how many more are allowed."""
    crowded: bool = False
    """Whether it answers only once it refused one, so that it does refuse, however slow all is."""
    refused: int = 0
    taking: int = 0
    most_held: int = 0
    taken: list[float] = field(default_factory=list)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        now = time.monotonic()
        window = [then for then in self.taken if then > now - self.window]
        if self.taking >= self.holds or len(window) >= self.allows:
            self.refused += 1
            if self.how == "reset" and request.transport is not None:
                request.transport.abort()
            return web.Response(status=503 if self.how == "reset" else int(self.how))
        self.taken = [*window, now]
        self.taking += 1
        self.most_held = max(self.most_held, self.taking)
        try:
            while self.crowded and not self.refused:
                await asyncio.sleep(0.01)
            response = await super().complete(request)
        finally:
            self.taking -= 1
        if self.tells:
            left = self.allows - len(self.taken)
            response.headers["x-ratelimit-remaining-requests"] = str(left)
            response.headers["x-ratelimit-reset-requests"] = f"{1000 * self.window:.0f}ms"
        return response


def requests(count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for key in range(count):
        yield key, {"messages": [{"role": "user", "content": f"edit {key}"}], "max_tokens": 16}


def answered(client: Any, count: int) -> None:
    came = list(client.complete(requests(count)))
    assert {one.key: one.texts for one in came} == {k: (f"EDIT {k}",) for k in range(count)}


@pytest.mark.parametrize("how", ["503", "429", "529", "reset"])
@pytest.mark.parametrize("holds", [1, 4])
@pytest.mark.parametrize("fixed", [None, 64])
def test_a_server_that_lets_few_through_answers_all(
    start: Start, how: str, holds: int, fixed: int | None
) -> None:
    stub = Few(delay=0.01, holds=holds, how=how, crowded=True)
    # No refusal counts as a fault of the request, but a connection lost while there is no other.
    runtime = RuntimeConfig(retries=3 if how == "reset" else 0, concurrency=fixed)
    client = ChatClient(start(stub).url, "echo", runtime)
    answered(client, 100)
    assert stub.most_held == holds
    assert 0 < stub.refused < 300
    assert client.pace.number <= max(fixed or START, holds + 1)
    (note,) = client.notes
    assert f"refused {stub.refused} requests for the time being" in note


@pytest.mark.parametrize("how", ["429", "503"])
def test_a_server_that_allows_few_in_a_time_answers_all(start: Start, how: str) -> None:
    stub = Few(allows=20, how=how)
    answered(ChatClient(start(stub).url, "echo", RuntimeConfig(retries=0)), 125)
    assert stub.refused < 125  # the count is asserted where time is the test's own


def test_what_the_headers_allow_is_not_exceeded(start: Start) -> None:
    stub = Few(allows=20, tells=True, how="429")
    client = ChatClient(start(stub).url, "echo", RuntimeConfig(retries=0))
    answered(client, 70)
    assert stub.refused == 0
    assert client.notes == []


@dataclass
class Metered(Stub):
    """Allows ``allows`` tokens in each ``window`` seconds, and tells so as ``spelled``."""

    allows: int = 1000
    window: float = 0.5
    spelled: tuple[str, str] = ("", "")
    """The names of the headers: what remains, and when it is renewed."""
    refused: int = 0
    began: float = -math.inf
    used: int = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        now = time.monotonic()
        if now >= self.began + self.window:
            self.began, self.used = now, 0
        cost = len(await request.text()) // 4  # as servers reckon before they answer
        if self.used + cost > self.allows:
            self.refused += 1
            return web.Response(status=429)
        self.used += cost
        response = await super().complete(request)
        remains, renewed = self.spelled
        response.headers[remains] = str(self.allows - self.used)
        # Rounded up, and a little more: what is sent then must not come before it.
        response.headers[renewed] = f"{self.began + self.window - now + 0.05:.3f}"
        return response


@pytest.mark.parametrize(
    "spelled",
    [
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-renewalperiod-tokens"),
        ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
        ("ratelimitbysize-remaining", "ratelimitbysize-reset"),
    ],
)
def test_a_limit_on_tokens_is_not_exceeded(start: Start, spelled: tuple[str, str]) -> None:
    stub = Metered(spelled=spelled)
    client = ChatClient(start(stub).url, "echo", RuntimeConfig(retries=0))
    answered(client, 70)
    assert stub.refused == 0
    assert client.notes == []


def test_each_server_has_a_number_of_its_own(start: Start) -> None:
    stubs = [Few(delay=0.01, holds=2, crowded=True), Few(crowd=3)]
    runtime = RuntimeConfig(retries=0)
    answered(connect([start(stub).url for stub in stubs], "echo", runtime), 300)
    assert stubs[0].most_held == 2
    assert stubs[1].most_held > 2


def test_what_is_learnt_is_kept_from_call_to_call(start: Start) -> None:
    stub = Few(delay=0.01, holds=2, crowded=True)
    client = ChatClient(start(stub).url, "echo", RuntimeConfig(retries=0))
    answered(client, 40)
    before = stub.refused
    for _ in range(3):
        answered(client, 5)
    assert stub.refused <= before + 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_never_takes_any_ends_in_a_counted_failure(start: Start, status: int) -> None:
    server = start(Stub(plan=lambda text, tries: Fault(status)))
    client = ChatClient(server.url, "echo", RuntimeConfig(retries=0, give_up_after=0.3))
    came = list(client.complete(requests(3)))
    assert len(came) == 3
    assert all(f"HTTP {status}: told to fail, after" in (one.reason or "") for one in came)


def test_a_wait_that_no_request_has_time_for_says_so(start: Start) -> None:
    server = start(Stub(plan=lambda text, tries: Fault(429, retry_after="3600")))
    client = ChatClient(server.url, "echo", RuntimeConfig(retries=0, give_up_after=5))
    (came,) = client.complete(requests(1))
    assert "HTTP 429: told to fail and asks to wait 3,600 s, after 1 tries" in (came.reason or "")
