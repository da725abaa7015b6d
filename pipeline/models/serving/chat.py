"""A client of OpenAI-compatible chat servers (vLLM and the like): many requests, any fault.

aiohttp, not the ``openai`` package: at tens of thousands of short requests its CPU time counts.
"""

import asyncio
import base64
import json
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import aiohttp
import tenacity

from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.masking import hide, without_credentials
from pipeline.models.serving import dialect, responses
from pipeline.models.serving.endpoints import CHAT, Endpoint, tokens_of
from pipeline.models.serving.responses import ODD, BodyError, line, read_body
from pipeline.run import log

BREAK_AFTER = 20
"""Requests that fail one after another, none succeeding, before the server is called broken."""
NOT_HERE = (404, 405, 501)
"""HTTP statuses of an address that answers no such requests, and never will."""
CHECK_TIMEOUT = 10.0
"""Seconds in which a server that is there lists its models."""
FALLBACK_CONCURRENCY = 64
"""Requests in flight at a server that does not tell how many it can take."""
URLS = "--llm-url, --captioner-url, --verifier-url, --clip-url"
"""The options that name a server; a client does not know which one it serves."""
MOST_CONCURRENCY = 256
"""vLLM's own default for how many sequences it runs at a time."""
LONGEST_MESSAGE = 300
"""Characters of a server's error that are shown."""
LONGEST_COMPLAINT = 10_000
"""Characters of an error's body in which is looked for what the server refuses."""
LONGEST_SECRET = 10_000
"""Characters beyond those shown that are looked through for secrets which reach into them."""
LONGEST_NAME = 100
"""Characters of a served model's name that are shown."""
NAMED = 5
"""Models that an error names of those which a server serves."""


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


class Transient(Exception):
    """A fault worth another try; ``after`` is how many seconds the server asks to wait."""

    def __init__(self, message: str, after: float | None = None, busy: bool = False) -> None:
        super().__init__(message)
        self.after = after
        self.busy = busy  # HTTP 429: tried again until the total limit, however often


@dataclass
class _State:
    """What the requests of one ``complete`` call share."""

    requests: Iterator[tuple[int, dict[str, Any]]]
    done: list[Completion] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    error: ModelError | None = None
    failed_in_a_row: int = 0


class ChatClient:
    """One model behind one server. The key comes from the environment and never leaves requests.

    A user and password in ``url`` take the key's place, and ``self.url`` is without them.
    ``concurrency`` None chooses from the server: as many requests as fit a vLLM's KV cache.
    Raises ConfigError for a key that no request can carry.
    """

    def __init__(
        self,
        url: str,
        model: str,
        runtime: RuntimeConfig,
        manner: dialect.Manner | None = None,
        endpoint: Endpoint = CHAT,
    ) -> None:
        self.url, credentials = without_credentials(url.rstrip("/"))
        self.dialect = dialect.Dialect(self.url, manner or dialect.Manner())
        self.model = model
        self.runtime = runtime
        self.endpoint = endpoint
        self._authorization, self._secrets = _authorization(credentials, runtime.api_key_variable)

    def _session(self, **options: Any) -> aiohttp.ClientSession:
        """Return a session for requests to the server; proxies of the environment are not used."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        return aiohttp.ClientSession(headers=headers, auto_decompress=False, **options)

    def check(self) -> None:
        """Raise ModelError if the server is not there, refuses the key or serves another model."""

        async def ask() -> None:
            async with self._session() as session:
                await self._check(session)

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
        connector = aiohttp.TCPConnector(limit=0)
        async with self._session(timeout=timeout, connector=connector) as session:
            await self._check(session)
            count = self.runtime.concurrency or await self._fitting(session, first[1])
            state = _State(_chain(first, requests))
            workers = [asyncio.create_task(self._work(session, state)) for _ in range(count)]
            for worker in workers:
                worker.add_done_callback(lambda _: state.wake.set())
            try:
                while True:
                    state.wake.clear()
                    if state.done:  # before any error: what arrived is the caller's
                        batch, state.done = state.done, []
                        yield batch
                    elif state.error:
                        raise state.error
                    elif all(worker.done() for worker in workers):
                        break
                    else:
                        await state.wake.wait()
                for worker in workers:
                    worker.result()  # raises what no fault of a server explains
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, session: aiohttp.ClientSession, state: _State) -> None:
        """Take requests one by one until there are none left, or one ended it for all."""
        while state.error is None:
            request = next(state.requests, None)
            if request is None:
                return
            try:
                completion = await self._ask(session, *request)
            except ModelError as error:
                state.error = state.error or error
                state.wake.set()
                return
            state.failed_in_a_row = state.failed_in_a_row + 1 if completion.reason else 0
            state.done.append(completion)
            state.wake.set()
            if state.failed_in_a_row >= BREAK_AFTER and state.error is None:
                state.error = ModelError(
                    f"The server at {self.url} failed at {state.failed_in_a_row} requests in a "
                    f"row, the last: {completion.reason}. Answers so far are kept; mend the server "
                    "or the request, then repeat the same command with --retry-failed."
                )

    async def _ask(
        self, session: aiohttp.ClientSession, key: int, body: dict[str, Any]
    ) -> Completion:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            wait=_wait,
            stop=tenacity.stop_any(
                _TriedEnough(self.runtime.retries),
                tenacity.stop_before_delay(self.runtime.give_up_after),
            ),
            reraise=True,
        )
        thinks = False
        while True:  # again in the words that this server takes
            roomy = thinks or self.dialect.thinks
            sent = self.dialect.body(body, roomy)
            data = json.dumps({"model": self.model, **sent}).encode()
            try:
                reply: dialect.Reply = await retrying(self._once, session, data)
            except Transient as fault:
                await self._check(session)  # raises if it is the server, not this request
                tries = retrying.statistics["attempt_number"]
                return Completion(key, (), reason=f"{fault}, after {tries} tries")
            except _Refused as refusal:
                adapts = self.endpoint.adapts
                if not (adapts and self.dialect.learns(body, sent, roomy, refusal.complaint)):
                    return Completion(key, (), reason=str(refusal))
                continue
            thinks = self.dialect.needs_room(reply, roomy)
            if not thinks:
                texts, truncated, first_token, tokens, _, content = reply
                return Completion(key, texts, truncated, None, first_token, tokens, content)

    async def _once(self, session: aiohttp.ClientSession, data: bytes) -> dialect.Reply:
        try:
            address = f"{self.url}/{self.endpoint.path}"
            async with session.post(address, data=data, allow_redirects=False) as response:
                content = await read_body(response)
        except TimeoutError:
            raise Transient(f"no answer within {self.runtime.timeout:g} s") from None
        except BodyError as error:
            raise Transient(str(error)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Transient(f"connection lost ({type(error).__name__})") from None
        if response.status != 200:
            raise await self._fault(session, response, content)
        try:
            return self.endpoint.parse(content)
        except ValueError as error:
            raise Transient(self._shown(str(error))) from None

    async def _fault(
        self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse, content: bytes
    ) -> Exception:
        """Return the exception that a response other than 200 stands for."""
        status = response.status
        said = f"HTTP {status}: {self._shown(responses.message(content))}"
        complaint = self._shown(dialect.complaint(content), LONGEST_COMPLAINT)
        if dialect.out_of_money(status, complaint):
            return ModelError(
                f"The server at {self.url} answers no more: {said}. What was answered is kept; "
                "settle this with whoever runs it, then repeat the same command."
            )
        if 300 <= status < 400:
            return self._sent_on(response)
        if status in (401, 403):
            return self._wants_key()
        if status in NOT_HERE:
            await self._check(session)  # raises if the model is not served
            return ModelError(
                f"{self.url}/{self.endpoint.path}: {said}. Is the address right ({URLS})?"
                f"{self.endpoint.advice}"
            )
        if status >= 500 and dialect.refuses_system(complaint):
            return _Refused(said, complaint)
        if status in (408, 409, 425, 429) or status >= 500:
            after = responses.retry_after(response.headers.get("Retry-After"))
            return Transient(said, after, busy=status == 429)
        return _Refused(said, complaint)

    def _shown(self, text: str, length: int = LONGEST_MESSAGE) -> str:
        """Return the beginning of what a server said, without the secrets that it was sent.

        They are masked before anything is cut: a part of one would be no secret to ``replace``.
        """
        return hide(line(text[: length + LONGEST_SECRET]), self._secrets)[:length]

    def _sent_on(self, response: aiohttp.ClientResponse) -> ModelError:
        where = self._shown(response.headers.get("Location", ""))
        return ModelError(
            f"The server at {self.url} sends requests on to {where or 'elsewhere'} (HTTP "
            f"{response.status}). That is not followed: captions, images and the key would go "
            f"there. If it is the right one, give its address ({URLS})."
        )

    def _wants_key(self) -> ModelError:
        variable = self.runtime.api_key_variable
        return ModelError(
            f"The server at {self.url} refuses the key: set {variable} to one that it takes."
        )

    async def _check(self, session: aiohttp.ClientSession) -> None:
        """Raise ModelError if the server is not there or does not serve the model."""
        limit = aiohttp.ClientTimeout(total=CHECK_TIMEOUT)
        try:
            address = f"{self.url}/models"
            async with session.get(address, timeout=limit, allow_redirects=False) as response:
                content = await read_body(response)
        except BodyError:
            return  # as of those that do not list their models
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise ModelError(
                f"There is no server at {self.url}, or it stopped answering "
                f"({type(error).__name__}). What was answered is kept. Start it (`seize serve-llm "
                f"{self.model}`, or `vllm serve`) or give the address of one that runs ({URLS}); "
                f"then repeat the same command.{self.endpoint.advice}"
            ) from None
        if response.status in (401, 403):
            raise self._wants_key()
        if 300 <= response.status < 400:
            raise self._sent_on(response)
        try:
            served = [str(model["id"]) for model in json.loads(content)["data"]]
        except ODD:
            return  # some servers do not list their models
        if self.model not in served:
            named = ", ".join(self._shown(name, LONGEST_NAME) for name in served[:NAMED])
            more = f" and {len(served) - NAMED:,} more" if len(served) > NAMED else ""
            raise ModelError(
                f"The server at {self.url} does not serve {self.model!r}. It serves: "
                f"{named or 'nothing'}{more}. Name one that it serves, or give the address of "
                f"another server ({URLS})."
            )

    async def _fitting(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> int:
        """Return how many requests like ``body`` a vLLM's KV cache holds; else a fixed number."""
        try:
            address = f"{self.url.removesuffix('/v1')}/metrics"
            async with session.get(address, allow_redirects=False) as response:
                metrics = (await read_body(response)).decode(errors="replace")
        except (aiohttp.ClientError, OSError, ValueError):
            metrics = ""
        capacity = responses.kv_cache(metrics)
        count = FALLBACK_CONCURRENCY
        if capacity is not None:
            count = min(max(capacity // max(tokens_of(body), 1), 8), MOST_CONCURRENCY)
        log.info("Keeps %d requests in flight at %s (--concurrency changes it).", count, self.url)
        return count


def _authorization(credentials: str, variable: str) -> tuple[str | None, list[str]]:
    """Return the Authorization header, None without any, and what of it must never be shown.

    Raises ConfigError for a key that cannot be in a header.
    """
    if credentials:
        said = unquote(credentials)
        encoded = base64.b64encode(said.encode()).decode()
        return f"Basic {encoded}", [credentials, said, encoded, said.partition(":")[2]]
    key = os.environ.get(variable, "").strip()  # a file with Windows' line ends leaves \r
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"The key in {variable} holds a line break or another character that a request cannot "
            "carry. Set it again, to the key alone."
        )
    return (f"Bearer {key}", [key]) if key else (None, [])


class _TriedEnough(tenacity.stop.stop_base):
    """Stop after some retries, unless the server only says that it is busy."""

    def __init__(self, retries: int) -> None:
        self.retries = retries

    def __call__(self, state: tenacity.RetryCallState) -> bool:
        fault = state.outcome.exception() if state.outcome else None
        busy = isinstance(fault, Transient) and fault.busy
        return not busy and state.attempt_number > self.retries


class _Refused(Exception):
    """The server will never answer this request (HTTP 400 and the like)."""

    def __init__(self, message: str, complaint: str) -> None:
        super().__init__(message)
        self.complaint = complaint  # all that it says about it


def _chain(
    first: tuple[int, dict[str, Any]], rest: Iterator[tuple[int, dict[str, Any]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    yield first
    yield from rest


_backoff = tenacity.wait_exponential_jitter(multiplier=0.5, max=30, jitter=1)


def _wait(state: tenacity.RetryCallState) -> float:
    """Back off with jitter, and at least as long as the server asks."""
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.after if isinstance(fault, Transient) and fault.after else 0.0
    return max(asked, float(_backoff(state)))


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
