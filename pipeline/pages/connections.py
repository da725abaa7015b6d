"""The page's connections: how long one may idle or stall, and how many there may be.

aiohttp closes a connection that has sent no whole request within its keep-alive timeout, however
slowly more of it arrives, but takes any number of connections, until the system gives no more.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from pipeline.pages.visitors import HEADERS, Handler, log, refusal

IDLE = 15.0
"""Seconds that a connection may be without a whole request."""
STALLED = 30.0
"""Seconds that a client may take nothing of an answer."""
LINGERING = 3.0
"""Seconds in which the rest of a refused request is read, so that the client sees the refusal."""
GRACE = 1.0
"""Seconds that a connection has to send a request, however many there are."""
BESIDE_QUERIES = 96
"""Connections of one address beside those that its queries may hold."""


class Connection(web.RequestHandler):
    """One connection; its errors in HTTP are answered like all others."""

    __slots__ = ("_address", "_all", "_stalled", "working")

    def __init__(self, server: web.Server, all_: "Connections", **options: Any) -> None:
        super().__init__(server, **options)
        self._all = all_
        self._address = ""
        self._stalled: asyncio.TimerHandle | None = None
        self.working = 0
        """Requests that are being answered."""

    @property
    def address(self) -> str:
        """Where the other end is."""
        return self._address

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Mark the connection while a request of it is answered."""
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1
            self._all.answered(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, where there is room."""
        self._address = (transport.get_extra_info("peername") or ("",))[0]
        super().connection_made(transport)
        self._all.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room."""
        self._all.discard(self)
        self._stop_clock()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that takes no more of its answer, but not for ever."""
        super().pause_writing()
        self._stalled = asyncio.get_running_loop().call_later(STALLED, self._abort)

    def resume_writing(self) -> None:
        """Go on: it takes more."""
        self._stop_clock()
        super().resume_writing()

    def _stop_clock(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _abort(self) -> None:
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or what failed outside the page's own rules."""
        if status >= 500 and not isinstance(exc, ConnectionError):  # that is a client that has gone
            log.error("A request failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("The answer is under way already.")
        answer = refusal("The request failed." if status >= 500 else "This is no HTTP.", status)
        answer.headers.update(HEADERS)
        answer.force_close()
        return answer


class Connections:
    """All connections: about ``most`` at a time, and half as many of one address.

    Where there are more, those that have waited longest without a request make room, so that
    whoever asks something is heard beside any number that do not. None that came within ``GRACE``
    is closed for that, until there are twice as many as there may be.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: dict[Connection, float] = {}  # with when it came, or was last answered
        self._by_address: Counter[str] = Counter()

    def add(self, new: Connection) -> None:
        """Count a new connection; close others, or this one, where there are too many."""
        now = asyncio.get_running_loop().time()
        self._open[new] = now
        self._by_address[new.address] += 1
        waiting = [
            one for one, since in self._open.items() if not one.working and since < now - GRACE
        ]
        for one in waiting:
            same = one.address == new.address
            if len(self._open) > self.most or (same and self._of(new) > self.most // 2):
                self._close(one)
        if len(self._open) > 2 * self.most or self._of(new) > self.most:
            self._close(new)

    def answered(self, connection: Connection) -> None:
        """Note that a connection begins to wait for its next request."""
        if self._open.pop(connection, None) is not None:
            self._open[connection] = asyncio.get_running_loop().time()

    def discard(self, gone: Connection) -> None:
        """Count a connection no more."""
        if self._open.pop(gone, None) is not None:
            self._by_address[gone.address] -= 1
            if not self._by_address[gone.address]:
                del self._by_address[gone.address]

    def _of(self, connection: Connection) -> int:
        return self._by_address[connection.address]

    def _close(self, chosen: Connection) -> None:
        self.discard(chosen)
        chosen.force_close()


@web.middleware
async def working(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Mark the connection of a request while that is answered."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    with connection.at_work():
        return await handler(request)


class Site(web.BaseSite):
    """Listens at an address for the page of ``runner``, and counts its connections."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, connections: Connections
    ) -> None:
        super().__init__(runner)
        self._host, self._port, self._connections = host, port, connections

    @property
    def name(self) -> str:
        """The address."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; raises OSError where that is not possible."""
        await super().start()
        loop, server = asyncio.get_running_loop(), self._runner.server
        if server is None:
            raise RuntimeError("the runner is not set up")

        def connection() -> Connection:
            return Connection(
                server,
                self._connections,
                loop=loop,
                access_log=None,
                auto_decompress=False,
                keepalive_timeout=IDLE,
                lingering_time=LINGERING,
            )

        self._server = await loop.create_server(
            connection, self._host, self._port, backlog=self._backlog
        )
