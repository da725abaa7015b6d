"""What a running page answers `seize query` of its own user, see ``pipeline.own.running``.

Whoever knows the secret of the file in the cache is who runs the page, so paths are taken and
errors told as the command line does; visitors, with or without their token, get nothing here.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import ValidationError

from pipeline.config import SearchConfig
from pipeline.errors import SeizeError
from pipeline.own import checks, running
from pipeline.own.gallery import Gallery
from pipeline.own.quick import Named
from pipeline.own.result import shown
from pipeline.own.running import Asked
from pipeline.pages import bodies
from pipeline.pages.visitors import dump, log, refusal

if TYPE_CHECKING:
    from pipeline.pages.workers import Workers

Job = Callable[[], dict[str, Any]]


class Owner:
    """Answers the queries of the page's own user; ``workers`` search."""

    def __init__(self, gallery: Gallery, workers: "Workers", secret: str) -> None:
        self._gallery = gallery
        self._workers = workers
        self._secret = secret

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """Answer with the result or an error in the last line; empty ones until it is there."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(errors="replace"), self._secret.encode()):
            return refusal("This is not the secret of the page that runs here.", 401)
        question = bodies.parse_json(Asked, await bodies.read(request, bodies.JSON_BYTES))
        if not self._gallery.is_indexed:
            return refusal("the folder is being indexed", 409)
        job = self._workers.submit(lambda: self._answered(question))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            await response.prepare(request)
            async for line in _beats(job):
                await response.write(line)
        finally:
            job.cancel()  # where nobody waits any more, it leaves the queue
        return response

    def _answered(self, question: Asked) -> dict[str, Any]:
        """Return the last line; what is no error of seize's own is logged."""
        try:
            return {"result": shown(self._result(question))}
        except SeizeError as error:
            return {"kind": type(error).__name__, "error": str(error)}
        except Exception:
            log.exception("A query failed")
            return {"kind": "SeizeError", "error": "The query failed; the page's log says why."}

    def _result(self, question: Asked) -> Any:
        try:
            search = SearchConfig.model_validate(question.search)
        except ValidationError as error:  # of another version than this page
            raise SeizeError(f"The page that runs cannot search so ({error}): --no-app.") from None
        config = self._gallery.config.model_copy(update={"search": search})
        named = Named(config, tuple(question.fields), question.alpha_pos, question.alpha_neg)
        settings, note = named.settled()
        checks.query(self._gallery.folder.root, settings)
        away: list[str | Path] = [*question.unlike, *map(Path, question.unlike_images)]
        table = None if question.attributes is None else Path(question.attributes)
        gallery = self._gallery.with_search(settings.search).with_attributes(table)
        gallery = gallery.grouped(question.own.get("group_at")).where(*question.where)
        gallery.folder = replace(gallery.folder, told=note)
        images = [Path(image) for image in question.images]
        return gallery.query(images or None, question.relative_caption, unlike=away)


async def _beats(job: "asyncio.Future[dict[str, Any]]") -> AsyncIterator[bytes]:
    """Yield empty lines while the job is under way, then its answer."""
    while True:
        done, _ = await asyncio.wait({job}, timeout=running.BEAT)
        if done:
            yield dump(job.result()) + b"\n"
            return
        yield b"\n"
