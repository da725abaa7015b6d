"""The token that a page asks for where others than this machine's users can reach it.

A program sends it as ``Authorization: Bearer TOKEN``. A browser is sent to ``/?token=TOKEN`` once
and keeps it in a cookie that no script reads and no other site sends.
"""

import hmac
import secrets
from typing import Any

from aiohttp import web

from pipeline.own import running
from pipeline.pages.visitors import Handler, refusal

VARIABLE = "SEIZE_TOKEN"
COOKIE = "seize_token"
OPEN = frozenset({"/healthz", "/icon.svg", running.PATH})
"""What is answered without it: nothing of the folder, or by a secret of its own."""


def new() -> str:
    """Return a token that nobody guesses: 256 bits in 43 letters."""
    return secrets.token_urlsafe(32)


def asking_for(token: str) -> Any:
    """Return the middleware that answers only requests with ``token``; HTTP's 401 to others."""

    @web.middleware
    async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN:
            return await handler(request)
        if request.path == "/" and "token" in request.query:
            return _entered(request, token)
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            given = request.cookies.get(COOKIE, "")
        if _is(given, token):
            return await handler(request)
        answer = refusal("A token is needed: open the address that the server printed.", 401)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    return known


def _entered(request: web.Request, token: str) -> web.Response:
    """Return the answer to an address with a token: a cookie, and the page without it."""
    if not _is(request.query["token"], token):
        return refusal("This token is not the server's. It may have been started anew.", 401)
    rest = {name: value for name, value in request.query.items() if name != "token"}
    answer = web.Response(status=303, headers={"Location": str(request.rel_url.with_query(rest))})
    answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
    return answer


def _is(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())
