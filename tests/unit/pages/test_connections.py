"""The page's bounds on connections, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from pipeline.pages import connections
from pipeline.pages.connections import Connections, Site, working

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF, REST = ASK[:8], ASK[8:]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(most: int, handler: Handler) -> AsyncIterator[Callable[..., Awaitable[Streams]]]:
    """Serve ``handler``; yield a function that connects and sends, from an address of one's own."""
    app = web.Application(middlewares=[working])
    app.add_routes([web.get("/", handler)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await Site(runner, "127.0.0.1", 0, Connections(most)).start()
        port = runner.addresses[0][1]

        async def connect(sent: bytes, address: str = "127.0.0.1") -> Streams:
            opened = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            opened[1].write(sent)
            return opened

        yield connect
    finally:
        await runner.cleanup()


async def closed(streams: Streams) -> bool:
    """Wait until the server ends a connection; False where it sends something instead."""
    try:
        return await asyncio.wait_for(streams[0].read(1), 60) == b""
    except ConnectionError:
        return True


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def answered(streams: Streams, sent: bytes = b"") -> bool:
    streams[1].write(sent)
    return (await asyncio.wait_for(streams[0].readline(), 60)).startswith(b"HTTP/1.1 200")


def test_who_waits_longest_makes_room_and_who_asks_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "GRACE", 0.05)
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response()

    async def check() -> None:
        async with serving(8, slow) as connect:
            busy = await connect(ASK)
            await asyncio.sleep(0.1)
            half = []
            for _ in range(12):
                half.append(await connect(HALF))
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
            half.append(await connect(HALF))
            for one in half[:10]:
                assert await closed(one), "four of one address, one of them at work"
            other = await connect(ASK, "127.0.0.2")
            gate.set()
            assert await answered(busy)
            assert await answered(other)
            for one in half[10:]:
                assert await answered(one, REST)

    asyncio.run(check())


def test_never_are_there_more_than_twice_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GRACE", 60.0)

    async def check() -> None:
        async with serving(4, hello) as connect:
            opened = []
            for number in range(12):
                opened.append(await connect(HALF, f"127.0.0.{2 + number % 3}"))
                await asyncio.sleep(0.01)
            for one in opened[8:]:
                assert await closed(one)
            for one in opened[:8]:
                assert await answered(one, REST)

    asyncio.run(check())


def test_no_whole_request_and_no_reading_end_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE", 0.5)
    monkeypatch.setattr(connections, "STALLED", 0.5)
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1 << 20))
        finally:
            ended.set()

    async def check() -> None:
        async with serving(8, endless) as connect:
            drip = await connect(b"GET / HTTP/1.1\r\nX: ")

            async def dripping() -> None:
                while True:
                    await asyncio.sleep(0.1)
                    drip[1].write(b"x")

            more = asyncio.create_task(dripping())
            assert await closed(drip)
            more.cancel()
            reader, _ = await connect(ASK)
            await reader.readline()  # and nothing more
            await asyncio.wait_for(ended.wait(), 60)

    asyncio.run(check())


def test_many_requests_on_one_connection_are_answered() -> None:
    async def check() -> None:
        async with serving(2, hello) as connect:
            streams = await connect(b"")
            for _ in range(50):
                assert await answered(streams, ASK)
                await streams[0].readuntil(b"hello")

    asyncio.run(check())


def test_an_answer_that_breaks_off_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """The client sees that it is not whole; a client that has gone is nothing to be told of."""

    async def breaks_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise ConnectionResetError("gone")

    async def check() -> None:
        async with serving(8, breaks_off) as connect:
            reader, _ = await connect(ASK)
            content = await asyncio.wait_for(reader.read(), 60)
            assert content.startswith(b"HTTP/1.1 200")
            assert content.endswith(b"half\r\n"), "no last chunk"

    asyncio.run(check())
    assert caplog.text == ""
