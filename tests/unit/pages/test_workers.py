"""The queue in front of the models."""

import asyncio
import threading

import pytest

from pipeline.pages.visitors import BusyError
from pipeline.pages.workers import Workers


def test_who_leaves_the_queue_and_who_finds_it_full() -> None:
    async def check() -> None:
        workers, gate = Workers(threads=1, waiting=1), threading.Event()
        ran: list[str] = []
        first = workers.submit(lambda: gate.wait(60))
        second = workers.submit(lambda: ran.append("second"))
        with pytest.raises(BusyError, match="Try again soon"):
            workers.submit(lambda: ran.append("third"))
        second.cancel()
        await asyncio.sleep(0)  # the event loop passes it on
        gate.set()
        assert await first
        fourth = workers.submit(lambda: ran.append("fourth"))
        await fourth
        assert ran == ["fourth"]
        workers.close()

    asyncio.run(check())
