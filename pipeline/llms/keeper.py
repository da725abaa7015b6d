"""Runs a command and ends it, with every process it started, when its own standard input closes.

``python -m pipeline.llms.keeper GRACE COMMAND …``: the parent holds the other end of that pipe, so
the command is stopped however the parent ends, ``kill -9`` included. Its processes are asked to end
and killed after GRACE seconds.
"""

import os
import signal
import subprocess
import sys
import threading

import psutil


def stop(process: "subprocess.Popen[bytes]", grace: float) -> None:
    """Ask the process to end, then kill what is left of it and of all it started."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
    except psutil.NoSuchProcess:
        return
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=grace)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=grace)


def main() -> int:
    """Run the command of the arguments; return its exit code."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the closing pipe is the signal
        signal.signal(ignored, lambda *_: None)  # SIG_IGN would be inherited by the command
    stopping = threading.Event()
    process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)

    def wait_for_parent() -> None:
        while os.read(0, 1024):
            pass
        stopping.set()
        stop(process, float(sys.argv[1]))

    thread = threading.Thread(target=wait_for_parent, daemon=True)
    thread.start()
    code = process.wait()
    if stopping.is_set():
        thread.join()  # what the command started may outlive it
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())  # without waiting for the thread that still reads
