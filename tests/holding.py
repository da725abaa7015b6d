"""`seize` that stands still after a certain write, for tests that stop it amid its work.

``python -m tests.holding WRITE COUNT ARGUMENTS…`` is ``seize ARGUMENTS…`` until it has written
COUNT times what ``WRITES`` names; there it waits to be killed, interrupted, or told to go on by
SIGUSR1. So it can neither have ended before, however fast it is, nor gone on for too long, however
late the test looks.
"""

import importlib
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SEIZE = (sys.executable, "-m", "pipeline")
WRITES = {
    "line": "pipeline.store.jsonl:RecordFile.append",
    "shard": "pipeline.store.shards:Shard.write",
    "state": "pipeline.models.training.files:Files.save",
}
"""Of a record file, its header being the first; of features; of what a training goes on from."""


def held_after(write: str, count: int) -> list[str]:
    """Return a program to which the arguments of `seize` are added."""
    return [sys.executable, "-m", "tests.holding", write, str(count)]


def kill_once(ready: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    """SIGKILL a process as soon as ``ready``: it must not have ended by itself."""
    wait_until(ready, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def wait_until(ready: Callable[[], bool], process: "subprocess.Popen[Any]") -> None:
    """Return when ``ready``, or when the process has ended."""
    while process.poll() is None and not ready():
        time.sleep(0.01)


def hold(write: str, count: int) -> None:
    """Have this process stand still where ``write`` has been done ``count`` times."""
    module, _, place = WRITES[write].partition(":")
    owner, _, name = place.partition(".")
    kind = getattr(importlib.import_module(module), owner)
    method: Callable[..., Any] = getattr(kind, name)
    calls = itertools.count(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # none that comes early is lost

    def holding(*arguments: Any) -> Any:
        result = method(*arguments)
        if next(calls) == count:
            signal.sigwaitinfo({signal.SIGUSR1})
        return result

    setattr(kind, name, holding)


if __name__ == "__main__":
    from pipeline.__main__ import main

    hold(sys.argv[1], int(sys.argv[2]))
    del sys.argv[1:3]
    main()
