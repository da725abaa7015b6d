"""Threads beside the event loop, and how many may wait for one."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline.pages.visitors import BusyError

T = TypeVar("T")


class Workers:
    """Threads beside the event loop, so that the page answers while models work."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.threads = threads
        self.most = threads + waiting
        self.pending = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads)

    def submit(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Run ``function`` when its turn comes; raises BusyError where too many wait.

        Cancelling the future before its turn takes it out of the queue.
        """
        with self._lock:
            if self.pending >= self.most:
                raise BusyError("Too many people are asking at the moment. Try again soon.")
            self.pending += 1
        future = self._pool.submit(function)
        future.add_done_callback(lambda _: self._done())
        return asyncio.wrap_future(future)

    def _done(self) -> None:
        with self._lock:
            self.pending -= 1

    def close(self) -> None:
        """Take no more work, and forget what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)
