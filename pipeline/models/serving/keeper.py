"""Runs a command and ends it, with every process it started, when its own standard input closes.

``python -m pipeline.models.serving.keeper GRACE COMMAND …``: the parent holds the other end of that
pipe, so the command is stopped however the parent ends, ``kill -9`` included. Its processes are
asked to end and killed after GRACE seconds. What it leaves behind when it ends by itself is killed
at once: a vLLM whose API server dies leaves an engine that holds the GPU.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import psutil

SET_PARENT_DEATH_SIGNAL = 1
SET_CHILD_SUBREAPER = 36
"""Of Linux's prctl(2); other systems do without."""

POLL = 0.2
"""Seconds between looks at the command."""
ROUNDS = 10
"""How often what is left is killed, where it does not go."""


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process where the system is Linux; else do nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(process: int | None = None) -> list[psutil.Process]:
    """Return all processes that one (this one by default) started, and what those started."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.Error:
        return []


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill those that still run, and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def main() -> int:
    """Run the command of the arguments; return its exit code."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the closing pipe is the signal
        signal.signal(ignored, lambda *_: None)  # SIG_IGN would be inherited by the command
    # What the command's processes leave behind becomes this process's children, wherever they are.
    prctl(SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        # Where this process is killed, nobody else would end the command.
        preexec_fn=lambda: prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM),
    )
    stopping = threading.Event()
    threading.Thread(target=_wait_for_parent, args=(stopping,), daemon=True).start()
    while process.poll() is None and not stopping.wait(POLL):
        pass
    if stopping.is_set():
        process.terminate()  # the command ends its own processes, if it can
        psutil.wait_procs(descendants(), timeout=grace)
    for _ in range(ROUNDS):  # what is being killed may still start others
        if not (left := descendants()):
            break
        kill(left)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _wait_for_parent(stopping: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    stopping.set()


if __name__ == "__main__":
    os._exit(main())  # without waiting for the thread that still reads
