"""A page that runs on a folder answers `seize query` too: its models are loaded already.

`seize app` leaves a file in the folder's cache, which its user alone can read, that says where it
listens and holds a secret; who knows that is the same user, and may name files of this machine.
The file's name has a fingerprint of the settings, so that a page with other ones is not asked. No
library that is slow to import is needed to ask.
"""

import contextlib
import http.client
import json
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from pipeline import errors
from pipeline.config import Config
from pipeline.errors import SeizeError
from pipeline.own.quick import Named
from pipeline.own.settings import cache_name
from pipeline.run import log
from pipeline.store.files import UNFINISHED
from pipeline.store.identity import fingerprint

PATH = "/ask"
"""What the page answers it at."""
TAKEN_WITHIN = 2.0
"""Seconds in which a page must take a connection."""
SILENT = 15.0
"""Seconds without a line of the answer after which a page is taken for stuck."""
APART = 60.0
"""Seconds by which two tellings of when a process began may differ: the system reckons it back from
the clock, which may be set meanwhile."""
BEAT = 3.0
"""Seconds between empty lines that a page sends while it works."""


class Asked(BaseModel):
    """A query as the command line has it, every file by its absolute path."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = []
    relative_caption: str = ""
    unlike: list[str] = []
    """Texts of what is not wanted."""
    unlike_images: list[str] = []
    where: list[str] = []
    """Conditions that the images meet."""
    attributes: str | None = None
    """A CSV in place of the folder's own."""
    search: dict[str, Any] = {}
    """Settings of the search that are not the defaults."""
    own: dict[str, Any] = {}
    """How results are shown."""
    fields: list[str] = []
    """The fields that options name."""
    alpha_pos: FiniteFloat | None = None
    alpha_neg: FiniteFloat | None = None


class Page(BaseModel):
    """What the file says of a page that runs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    address: str
    secret: str
    machine: str
    pid: int
    started: float
    """Seconds since the epoch: another process may get the number of one that ended."""

    @property
    def runs(self) -> bool:
        """Whether the process is there, on this machine."""
        try:
            started = psutil.Process(self.pid).create_time()
        except psutil.Error:
            return False
        return self.machine == socket.gethostname() and abs(started - self.started) < APART


def asked(
    named: Named,
    images: list[Path],
    relative_caption: str,
    unlike: list[str | Path],
    where: Sequence[str] = (),
    attributes: Path | None = None,
) -> Asked:
    """Return a query of the command line."""
    search = named.config.search.model_dump(mode="json", exclude_unset=True)
    return Asked(
        images=[os.path.abspath(image) for image in images],
        relative_caption=relative_caption,
        unlike=[one for one in unlike if isinstance(one, str)],
        unlike_images=[os.path.abspath(one) for one in unlike if isinstance(one, Path)],
        where=list(where),
        attributes=None if attributes is None else os.path.abspath(attributes),
        search=_absolute(search),
        own=named.config.own.model_dump(mode="json"),
        fields=list(named.fields),
        alpha_pos=named.alpha_pos,
        alpha_neg=named.alpha_neg,
    )


def place(folder: Path, config: Config, cache: Path) -> Path:
    """Return the file of a page on ``folder`` with these settings, whatever those of a query.

    ``config`` is as it was named, before ``quick.settle``.
    """
    identity = fingerprint(_absolute(config.model_dump(mode="json", exclude={"search", "own"})))
    return cache / cache_name(folder.resolve()) / f"app-{identity}.json"


def _absolute(content: Any) -> Any:
    """Return settings with the files that they name by absolute paths: a page may run elsewhere."""
    if isinstance(content, dict):
        return {key: _absolute(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_absolute(value) for value in content]
    if isinstance(content, str) and ("/" in content or "." in content):  # no method has either
        kind, colon, path = content.rpartition(":")
        if path not in ("", ".", "..") and os.path.exists(path):
            return f"{kind}{colon}{os.path.abspath(path)}"
    return content


@contextlib.contextmanager
def announced(file: Path, address: str, secret: str) -> Iterator[None]:
    """Say in ``file`` that a page listens at ``address``, until the end of the ``with``.

    Where it cannot be written, as in a cache that may only be read, nobody is told.
    """
    page = Page(
        address=address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:"),
        secret=secret,
        machine=socket.gethostname(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
    )
    try:
        _write(file, page.model_dump_json())
    except OSError as error:
        log.info("seize query cannot ask this page: %s: %s.", file, error.strerror)
    try:
        yield
    finally:
        if read(file) == page:  # else another page has taken its place
            with contextlib.suppress(OSError):
                file.unlink()


def _write(file: Path, text: str) -> None:
    """Write a file that nobody else can read, not even while it is written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(file)


def read(file: Path) -> Page | None:
    """Return the page that a file tells of; None where there is no such file, it is damaged, or
    it is another user's, who would be told what is searched for.
    """
    try:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_uid != os.getuid():
                return None
            return Page.model_validate_json(stream.read())
    except (OSError, ValidationError):
        return None


def ask(file: Path, question: Asked) -> dict[str, Any] | None:
    """Return what the page that ``file`` tells of answers; None where none runs, or answers.

    Why one that runs does not answer is logged. Raises the error that the query ends in.
    """
    page = read(file)
    if page is None or not page.runs:
        return None
    try:
        answer = _answer(page, question)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = str(error) or type(error).__name__
        log.info("The page at %s does not answer (%s); asked here instead.", page.address, why)
        return None
    if "error" in answer:
        kind = getattr(errors, str(answer.get("kind")), SeizeError)
        raise kind(answer["error"])
    log.info("Answered by the page that runs at %s (--no-app asks here).", page.address)
    found: dict[str, Any] = answer["result"]
    return found


def _answer(page: Page, question: Asked) -> dict[str, Any]:
    """Return the last line of the page's answer; raises ValueError for one that is none."""
    parts = urlsplit(page.address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TAKEN_WITHIN)
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.settimeout(SILENT)
        headers = {
            "Authorization": f"Bearer {page.secret}",
            "Content-Type": "application/json",
            "Host": "localhost",
        }
        connection.request("POST", PATH, question.model_dump_json().encode(), headers)
        response = connection.getresponse()
        lines = [line for line in response if line.strip()]
    answer = json.loads(lines[-1]) if lines else {}
    if response.status != 200:
        told = answer.get("error") if isinstance(answer, dict) else None
        raise ValueError(told or f"HTTP status {response.status}")
    if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
        raise ValueError("the answer broke off")
    return answer
