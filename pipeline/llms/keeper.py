"""Runs a command and ends it, with every process it started, when its own standard input closes.

``python -m pipeline.llms.keeper COMMAND …``: the parent holds the other end of that pipe, so the
command is stopped however the parent ends, ``kill -9`` included.
"""

import signal
import subprocess
import sys
import threading

import psutil

GRACE = 15.0
"""Seconds between asking processes to end and killing them."""


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the process to end, then kill what is left of it and of all it started."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
    except psutil.NoSuchProcess:
        return
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=GRACE)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=GRACE)


def main() -> int:
    """Run the command of the arguments; return its exit code."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the closing pipe is the signal
        signal.signal(ignored, signal.SIG_IGN)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        stop(process)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
