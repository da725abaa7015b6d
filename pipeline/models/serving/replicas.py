"""Requests spread over several servers of one model: each takes the next one when it has room."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any

from pipeline.config import RuntimeConfig
from pipeline.errors import ModelError
from pipeline.models.serving.chat import ChatClient, Completion, in_turn
from pipeline.models.serving.dialect import Manner
from pipeline.models.serving.endpoints import CHAT, Endpoint
from pipeline.run import log

Request = tuple[int, dict[str, Any]]


def connect(
    url: str | Sequence[str],
    model: str,
    runtime: RuntimeConfig,
    manner: Manner | None = None,
    endpoint: Endpoint = CHAT,
) -> "ChatClient | Replicas":
    """Return a client of the server at ``url``, or of all of them where there are several."""
    urls = [url] if isinstance(url, str) else list(dict.fromkeys(url))
    clients = [ChatClient(each, model, runtime, manner, endpoint) for each in urls]
    return clients[0] if len(clients) == 1 else Replicas(clients)


class Replicas:
    """Servers that answer alike, each with its own number in flight. Safe to use from threads.

    Each takes requests as its answers come, so a quicker one takes more. One that is gone is left
    out until the next call, which tries all again, and the others take what it had in flight.
    """

    def __init__(self, clients: Sequence[ChatClient]) -> None:
        self.clients = tuple(clients)
        self._gone: set[str] = set()  # their URLs, so that each is told once

    @property
    def notes(self) -> list[str]:
        """What there is to say of each server, in words."""
        return [note for client in self.clients for note in client.notes]

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield a completion for each request as ``ChatClient.complete`` does.

        Raises ModelError, the last server's, when none is left; what arrived was yielded before.
        """
        yield from in_turn(self._batches(_Shared(iter(requests), list(self.clients))))

    async def _batches(self, shared: "_Shared") -> AsyncGenerator[list[Completion], None]:
        while not shared.finished:  # again where a server went when the others had ended
            arrived: asyncio.Queue[list[Completion] | None] = asyncio.Queue()
            serving = [asyncio.create_task(self._serve(c, shared, arrived)) for c in shared.clients]
            try:
                for _ in serving:
                    while (batch := await arrived.get()) is not None:
                        yield batch
                for task in serving:
                    task.result()
            finally:
                for task in serving:
                    task.cancel()
                await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(
        self,
        client: ChatClient,
        shared: "_Shared",
        arrived: "asyncio.Queue[list[Completion] | None]",
    ) -> None:
        """Let one server take requests until there are none; leave it out where it fails."""
        taken: dict[int, Request] = {}
        batches = client.batches(shared.hand_out(taken))
        try:
            async for batch in batches:
                for completion in batch:
                    del taken[completion.key]
                arrived.put_nowait(batch)
        except ModelError as error:
            shared.clients.remove(client)
            if not shared.clients:
                raise
            self._tell(client, error, len(shared.clients))
            shared.returned.extend(taken.values())
        else:
            self._gone.discard(client.url)
        finally:
            await batches.aclose()
            arrived.put_nowait(None)

    def _tell(self, client: ChatClient, error: ModelError, left: int) -> None:
        """Say that a server is gone, once until it is back."""
        if client.url not in self._gone:
            self._gone.add(client.url)
            log.warning(
                "Goes on without the server at %s, with %d left: %s", client.url, left, error
            )


class _Shared:
    """What one call's servers share: requests, first those that one gave back by going away."""

    def __init__(self, requests: Iterator[Request], clients: list[ChatClient]) -> None:
        self.clients = clients
        self.requests = requests
        self.returned: deque[Request] = deque()
        self._next = next(requests, None)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to take."""
        return self._next is None and not self.returned

    def hand_out(self, taken: dict[int, Request]) -> Iterator[Request]:
        """Yield requests, noting in ``taken`` what one server has by key."""
        while request := self._take():
            taken[request[0]] = request
            yield request

    def _take(self) -> Request | None:
        if self.returned:
            return self.returned.popleft()
        request, self._next = self._next, next(self.requests, None)
        return request
