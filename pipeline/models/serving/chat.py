"""A client of OpenAI-compatible chat servers (vLLM and the like): many requests, any fault.

aiohttp, not the ``openai`` package: at tens of thousands of short requests its CPU time counts.
"""

import asyncio
import functools
import itertools
import json
import math
import random
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from pipeline.config import RuntimeConfig
from pipeline.errors import ModelError
from pipeline.models.serving import dialect, limits, responses
from pipeline.models.serving.connection import URLS, Connection, PrefixCache
from pipeline.models.serving.endpoints import CHAT, Endpoint, tokens_of
from pipeline.models.serving.faults import OVERLOADED, Kind, Refused, Transient
from pipeline.models.serving.pace import MOST, START, Pace, Ticket
from pipeline.models.serving.responses import BodyError, read_body
from pipeline.run import log

BREAK_AFTER = 20
"""Requests that fail one after another, none succeeding, before the server is called broken."""
BREAK_SOON = 3
"""The same where nothing was answered for twice as long as a request may take."""
NOT_HERE = (404, 405, 501)
"""HTTP statuses of an address that answers no such requests, and never will."""
LONGEST_COMPLAINT = 10_000
"""Characters of an error's body in which is looked for what the server refuses."""


@dataclass(frozen=True)
class Completion:
    """The texts that a request got, or none and the reason."""

    key: int
    texts: tuple[str, ...]
    truncated: bool = False
    """Whether a text was cut off at ``max_tokens``."""
    reason: str | None = None
    first_token: Mapping[str, float] | None = None
    """Log-probabilities of the first text's first token, where they were asked for and given."""
    tokens: int = 0
    """Tokens of prompt and texts, as the server counts them; 0 where it does not tell."""
    content: Any = field(default=None, repr=False)  # asyncio.Runner shows what it returns, often
    """What the endpoint answers that is no text, such as a vector."""


@dataclass
class _State:
    """What the requests of one ``complete`` call share."""

    requests: Iterator[tuple[int, dict[str, Any]]]
    answered_at: float
    done: list[Completion] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    error: ModelError | None = None
    failed_in_a_row: int = 0


class ChatClient:
    """One model behind one server; see ``Connection`` for its address and key.

    ``concurrency`` None: as many requests in flight as fit a vLLM's KV cache; at other servers the
    number is found by asking. Safe to use from threads, which share it.
    """

    def __init__(
        self,
        url: str,
        model: str,
        runtime: RuntimeConfig,
        manner: dialect.Manner | None = None,
        endpoint: Endpoint = CHAT,
    ) -> None:
        self.connection = Connection(url, model, runtime, endpoint.advice)
        self.url = self.connection.url
        self.dialect = dialect.Dialect(self.url, manner or dialect.Manner())
        self.model = model
        self.runtime = runtime
        self.endpoint = endpoint
        self.pace = Pace(lambda times: _backoff(times), runtime.give_up_after)
        self._paced = False
        self._refusal = ""
        self._heard_at = -math.inf
        self._prefixes = PrefixCache(self.connection)

    @property
    def notes(self) -> list[str]:
        """How often the server refused, and what it had in its prefix cache, in words."""
        if not self.pace.refusals:
            return self._prefixes.notes
        refused = (
            f"The server at {self.url} refused {self.pace.refusals:,} requests for the time being, "
            f"the last so: {self._refusal}. They were asked again, in the end {self.pace.number:,} "
            "at a time."
        )
        return [refused, *self._prefixes.notes]

    def check(self) -> None:
        """Raise ModelError if the server is not there, refuses the key or serves another model."""

        async def ask() -> None:
            async with self.connection.session() as session:
                await self.connection.check(session)

        asyncio.run(ask())

    def complete(self, requests: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Completion]:
        """Yield a completion for each (key, request body) as it comes; bodies are read lazily.

        A fault of one request ends in a completion with a reason. Raises ModelError when the
        server is gone, refuses the key, does not serve the model, or fails at everything;
        stopping early (Ctrl-C) cancels what is in flight, and what was yielded is the caller's.
        """
        yield from in_turn(self.batches(iter(requests)))

    async def batches(
        self, requests: Iterator[tuple[int, dict[str, Any]]]
    ) -> AsyncGenerator[list[Completion], None]:
        """Yield what has arrived since the last time, at least one completion; see ``complete``."""
        first = next(requests, None)
        if first is None:
            return
        timeout = aiohttp.ClientTimeout(total=self.runtime.timeout)
        async with self.connection.session(timeout=timeout) as session:
            await self.connection.check(session)
            self._set_pace(await self._prefixes.begin(session), first[1])
            state = _State(itertools.chain([first], requests), self.pace.clock())
            asking = asyncio.create_task(self._ask_all(session, state))
            asking.add_done_callback(lambda _: state.wake.set())
            try:
                while True:
                    state.wake.clear()
                    if state.done:  # before any error: what arrived is the caller's
                        batch, state.done = state.done, []
                        yield batch
                    elif state.error:
                        raise state.error
                    elif asking.done():
                        break
                    else:
                        await state.wake.wait()
                asking.result()  # raises what no fault of a server explains
                await self._prefixes.end(session)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    async def _ask_all(self, session: aiohttp.ClientSession, state: _State) -> None:
        """Take requests as there is room for them until there are none, or one ended it for all."""
        working: set[asyncio.Task[None]] = set()
        ended = asyncio.Event()

        def done(ticket: Ticket, work: asyncio.Task[None]) -> None:
            self.pace.leave(ticket)  # it may have been cancelled before it began
            if not work.cancelled() and work.exception() is None:
                working.discard(work)
            ended.set()

        try:
            while state.error is None:
                if len(working) >= self.pace.number:  # those that wait for another try count, too
                    ended.clear()
                    await ended.wait()
                    continue
                ticket = await self.pace.enter()
                request = None
                try:
                    request = next(state.requests, None)
                finally:
                    if request is None:
                        self.pace.leave(ticket)
                if request is None:
                    break
                work = asyncio.create_task(self._work(session, state, request, ticket))
                working.add(work)
                work.add_done_callback(functools.partial(done, ticket))
            await asyncio.gather(*working)
        finally:
            for work in working:
                work.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _work(
        self,
        session: aiohttp.ClientSession,
        state: _State,
        request: tuple[int, dict[str, Any]],
        ticket: Ticket,
    ) -> None:
        try:
            completion = await self._ask(session, *request, ticket)
        except ModelError as error:
            state.error = state.error or error.with_traceback(None)
            state.wake.set()
            return
        state.done.append(completion)
        state.wake.set()
        if completion.reason is None:
            state.failed_in_a_row, state.answered_at = 0, self.pace.clock()
            return
        state.failed_in_a_row += 1
        silent = self.pace.clock() - state.answered_at > 2 * self.runtime.give_up_after
        most = BREAK_SOON if silent else BREAK_AFTER
        if state.failed_in_a_row >= most and state.error is None:
            state.error = ModelError(
                f"The server at {self.url} failed at {state.failed_in_a_row} requests in a "
                f"row, the last: {completion.reason}. Answers so far are kept; mend the server "
                "or the request, then repeat the same command with --retry-failed."
            )

    async def _ask(
        self, session: aiohttp.ClientSession, key: int, body: dict[str, Any], ticket: Ticket
    ) -> Completion:
        thinks = False
        while True:  # again in the words that this server takes
            roomy = thinks or self.dialect.thinks
            sent = self.dialect.body(body, roomy)
            data = json.dumps({"model": self.model, **sent}).encode()
            try:
                reply = await self._persist(session, data, ticket)
            except Transient as fault:
                await self.connection.check(session)  # raises if it is the server, not this request
                return Completion(key, (), reason=str(fault))
            except Refused as refusal:
                adapts = self.endpoint.adapts
                if not (adapts and self.dialect.learns(body, sent, roomy, refusal.complaint)):
                    return Completion(key, (), reason=str(refusal))
            else:
                thinks = self.dialect.needs_room(reply, roomy)
                if not thinks:
                    texts, truncated, first_token, tokens, _, content = reply
                    return Completion(key, texts, truncated, None, first_token, tokens, content)
            ticket = await self.pace.enter()

    async def _persist(
        self, session: aiohttp.ClientSession, data: bytes, ticket: Ticket
    ) -> dialect.Reply:
        """Send a request until it is answered; raises the last Transient, which says how often.

        Only what may be the request's own fault counts against ``runtime.retries``.
        """
        end = self.pace.clock() + self.runtime.give_up_after
        tries = faults = excused = 0
        while True:
            tries += 1
            try:
                return await self._send(session, data, ticket, excused > 0)
            except Transient as fault:
                last = fault.with_traceback(None)  # which would hold this frame, in a circle
            pause = last.after or 0.0
            if last.excused(excused, self.pace.known):
                excused += 1
                again = _backoff(excused - 1) if excused > 1 and last.crowded else 0.0
                pause, wait = again, max(again, pause, self.pace.rest())
            else:
                faults += 1
                pause = wait = max(pause, _backoff(faults))
            left = end - self.pace.clock()
            if faults <= self.runtime.retries and wait <= left:
                try:
                    async with asyncio.timeout(left):
                        await asyncio.sleep(pause)
                        ticket = await self.pace.enter()
                    continue
                except TimeoutError:
                    pass
            asked = ""
            if last.after is not None and last.after > left:
                asked = f" and asks to wait {last.after:,.0f} s"
            raise Transient(f"{last}{asked}, after {tries} tries", last.kind)

    async def _send(
        self, session: aiohttp.ClientSession, data: bytes, ticket: Ticket, again: bool
    ) -> dialect.Reply:
        """Send a request once, and learn from what becomes of it how many the server takes."""
        ticket.at = self.pace.clock()
        try:
            reply = await self._once(session, data)
            self.pace.answered(ticket)
            return reply
        except Transient as fault:
            if fault.kind == "late" and not self.pace.known and self._heard_at < ticket.at:
                await self.connection.check(session)  # raises if it is not there any more
                raise self.connection.hangs(self.runtime.timeout) from None
            if fault.kind != "other":
                self._tell(fault)
                rests = fault.kind in ("limited", "refused")
                fault.crowded = self.pace.refused(ticket, fault.after, rests, again)
            raise
        finally:
            self.pace.leave(ticket)

    async def _once(self, session: aiohttp.ClientSession, data: bytes) -> dialect.Reply:
        try:
            address = f"{self.url}/{self.endpoint.path}"
            async with session.post(address, data=data, allow_redirects=False) as response:
                content = await read_body(response)
        except TimeoutError:
            raise Transient(f"no answer within {self.runtime.timeout:g} s", "late") from None
        except BodyError as error:
            raise Transient(str(error)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A body that was cut short is this request's fault.
            cut = isinstance(error, aiohttp.ClientPayloadError | ValueError)
            kind: Kind = "other" if cut else "lost"
            raise Transient(f"connection lost ({type(error).__name__})", kind) from None
        self._heard_at = self.pace.clock()
        allowed = limits.allowances(response.headers)
        self.pace.told(allowed, tokens_of(json.loads(data)) if allowed else 1)
        if response.status != 200:
            raise await self._fault(session, response, content)
        try:
            return self.endpoint.parse(content)
        except ValueError as error:
            raise Transient(self.connection.shown(str(error))) from None

    async def _fault(
        self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse, content: bytes
    ) -> Exception:
        """Return the exception that a response other than 200 stands for."""
        status, shown = response.status, self.connection.shown
        said = f"HTTP {status}: {shown(responses.message(content))}"
        complaint = shown(dialect.complaint(content), LONGEST_COMPLAINT)
        if dialect.out_of_money(status, complaint):
            return ModelError(
                f"The server at {self.url} answers no more: {said}. What was answered is kept; "
                "settle this with whoever runs it, then repeat the same command."
            )
        if 300 <= status < 400:
            return self.connection.sent_on(response)
        if status in (401, 403):
            return self.connection.wants_key()
        if status in NOT_HERE:
            await self.connection.check(session)  # raises if the model is not served
            return ModelError(
                f"{self.url}/{self.endpoint.path}: {said}. Is the address right ({URLS})?"
                f"{self.endpoint.advice}"
            )
        if status >= 500 and dialect.refuses_system(complaint):
            return Refused(said, complaint)
        if status in (408, 409, 425, 429) or status >= 500:
            after = responses.retry_after(response.headers.get("Retry-After"))
            limited = status == 429 or (status in OVERLOADED and after is not None)
            kind: Kind = "refused" if status in OVERLOADED else "other"
            return Transient(said, "limited" if limited else kind, after)
        return Refused(said, complaint)

    def _tell(self, fault: Transient) -> None:
        """Say once that the server refuses."""
        if not self._refusal:
            log.info(
                "The server at %s takes fewer requests at a time, or in a time, than it is sent "
                "(%s). They are asked again, as many as it takes.",
                self.url,
                fault,
            )
        self._refusal = str(fault)

    def _set_pace(self, metrics: str, body: dict[str, Any]) -> None:
        """Choose the number in flight: at a vLLM how many like ``body`` its cache holds."""
        if self._paced:
            return
        self._paced = True
        number = self.runtime.concurrency
        if number is None:
            capacity = responses.kv_cache(metrics)
            if capacity is None:
                said = "Begins with %d requests in flight at %s, and finds out how many it takes"
                log.info(f"{said} (--concurrency N: at most N).", START, self.url)
                return
            number = min(max(capacity // max(tokens_of(body), 1), 8), MOST)
            said = "Keeps %d requests in flight at %s (--concurrency changes it)."
            log.info(said, number, self.url)
        self.pace.keep(number)


def _backoff(times: int) -> float:
    """Return the seconds to wait before another try, after so many; with jitter."""
    return min(0.5 * 2.0 ** (times - 1), 30.0) + random.uniform(0, 1)


def in_turn(batches: AsyncGenerator[list[Completion], None]) -> Iterator[Completion]:
    """Yield completions as their batches come; whoever stops early cancels what is in flight."""
    with asyncio.Runner() as runner:
        try:
            while True:
                try:
                    batch = runner.run(batches.asend(None))
                except StopAsyncIteration:
                    return
                yield from batch
        finally:
            runner.run(batches.aclose())
