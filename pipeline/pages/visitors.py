"""What visitors of the page are told: which requests are answered, and no secrets of the machine.

They may be other people than whoever runs the server, so an error reaches them only where it names
no path, server or command; the log has all of it.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from pipeline.errors import (
    ConfigError,
    InputError,
    MissingStageError,
    ModelError,
    SeizeError,
    StorageError,
)
from pipeline.printable import one_line

log = logging.getLogger("seize")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""What every answer carries."""

TO_MEND: tuple[type[SeizeError], ...] = (ConfigError, InputError)
"""Errors that a visitor may have made and can mend."""

PRIVATE = re.compile(
    r"(?:^|[\s'\"`(\[<=,:])(?:~|[A-Za-z]:)?[/\\]\S"  # an absolute path
    r"|://"  # a server's address
    r"|\S/\S+\.(?:jsonl?|safetensors|ya?ml|db)\b"  # a file of the cache
    r"|\bseize [a-z]|\bDelete\b"  # a command, or work, of whoever runs the server
)

INSTEAD: dict[type[SeizeError], str] = {
    ConfigError: "The server is set up wrongly; its log says what is wrong.",
    InputError: "The server cannot use one of its files; its log says which.",
    MissingStageError: "The folder is not indexed; the server's log says what to do.",
    ModelError: "A model cannot be reached or does not work; the server's log says why.",
    StorageError: "The server cannot keep what it computed; its log says why.",
}
"""What is told in place of an error that would give away more."""

RETRY_AFTER = "5"
"""Seconds after which to come back to a server that was busy."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BusyError(SeizeError):
    """More is asked at a time than may wait."""


def for_visitors(error: SeizeError) -> str:
    """Return what a visitor may read of an error; where that is not all, log the whole of it.

    The sentence that recommends a command is left out, and with a path, an address or a command in
    the rest, a plain sentence by the kind of error stands for it.
    """
    whole = str(error)
    told = one_line(whole.partition(" Run: ")[0])
    if isinstance(error, BusyError):
        return told
    if not isinstance(error, TO_MEND) or is_private(told):
        told = next(
            (text for kind, text in INSTEAD.items() if isinstance(error, kind)),
            "The request failed; the server's log says why.",
        )
    if told != whole:
        log.warning("%s", whole)
    return told


def is_private(text: str) -> bool:
    """Return whether a text names a path, a server or a command of the machine that serves."""
    return PRIVATE.search(text) is not None


def dump(content: Any) -> bytes:
    """Return ``content`` as JSON."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def answer(content: Mapping[str, Any], status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(body=dump(content), content_type="application/json", status=status)


def refusal(text: str, status: int) -> web.Response:
    """Return an answer that says why there is no other."""
    return answer({"error": text}, status)


def guard(names: frozenset[str]) -> Any:
    """Return the middleware that turns away other sites' requests and answers errors as JSON.

    A page elsewhere can reach a server on this machine by pointing a name of its own at it (DNS
    rebinding), so Host must be an address, localhost or one of ``names``.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_own(request.headers.get("Host", ""), names):
            return refusal("This name is not served here; see --allow-host.", 403)
        if _is_of_another_site(request):
            return refusal("Requests of other sites are not answered.", 403)
        try:
            return await handler(request)
        except BusyError as error:
            busy = refusal(for_visitors(error), 503)
            busy.headers["Retry-After"] = RETRY_AFTER
            return busy
        except SeizeError as error:
            return refusal(for_visitors(error), 400)
        except web.HTTPRequestEntityTooLarge:
            return refusal("The request or its image is larger than this server takes.", 413)
        except web.HTTPException as error:
            return refusal(error.reason, error.status)
        except (ConnectionError, asyncio.CancelledError):  # the visitor has gone
            raise
        except Exception:
            log.exception("%s failed", request.path)
            return refusal("The request failed; the server's log says why.", 500)

    return guarded


def _is_own(host: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name == "localhost" or name in names


def _is_of_another_site(request: web.Request) -> bool:
    asked_by = request.headers.get("Sec-Fetch-Site", "none")
    if request.path != "/" and asked_by not in ("none", "same-origin"):
        return True
    origin = request.headers.get("Origin")
    try:
        return origin is not None and urlsplit(origin).netloc != request.headers["Host"]
    except ValueError:  # no address at all
        return True


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put ``HEADERS`` on an answer: a signal of aiohttp, sent before it goes out."""
    response.headers.update(HEADERS)
