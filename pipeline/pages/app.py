"""The page: a small server on one's own machine, and the rules that keep it to its gallery.

aiohttp (already the client of model servers) and a hand-written page instead of a page framework:
sliders rank again at once, every control is a plain one that keyboards and screen readers know, and
nothing is loaded from anywhere else. What a request needs travels with it, so the server keeps no
sessions; what was computed is in the cache.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import torch
from aiohttp import web

from pipeline.errors import InputError, SeizeError
from pipeline.images.files import endings
from pipeline.own import dialogue, running
from pipeline.own.checks import lacking
from pipeline.own.folder import hash_of
from pipeline.own.gallery import LONGEST_TEXT, Gallery
from pipeline.own.result import Result
from pipeline.pages import bodies, openapi, tokens
from pipeline.pages.answers import checked, chosen, result_of, until, weights_of
from pipeline.pages.bodies import FORM_BYTES, JSON_BYTES, MOST_UPLOADS, Bodies, Form, Model
from pipeline.pages.connections import BESIDE_QUERIES, Connections, Site, working
from pipeline.pages.export import MOST_EXPORTED, Exported, Exports
from pipeline.pages.images import Images
from pipeline.pages.indexing import Indexing
from pipeline.pages.owner import Owner
from pipeline.pages.questions import (
    MOST_IMAGES,
    Question,
    Texts,
    states,
)
from pipeline.pages.result import WEB
from pipeline.pages.visitors import (
    add_headers,
    answer,
    dump,
    for_visitors,
    guard,
)
from pipeline.pages.workers import Workers
from pipeline.printable import printable, printable_all
from pipeline.retrieval import methods

log = logging.getLogger("seize")

FILES = {
    "/": ("app.html", "text/html"),
    "/app.css": ("app.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/{file.name}": (file.name, "text/javascript") for file in sorted(WEB.glob("*.js"))},
}
"""The page's own files; nothing else is served from disk but images of the index."""

LISTED = 48
"""Gallery images that one request lists."""
CONNECTIONS = web.AppKey("connections", Connections)
"""The connections that an application has."""


@dataclass(frozen=True)
class Limits:
    """What one server does for its users."""

    upload: int = 20 << 20
    """Bytes of the images that are uploaded for one query."""
    pixels: int = 50_000_000
    """Pixels of an uploaded image."""
    queries: int = 4
    """Queries worked on at a time."""
    waiting: int = 100
    """Queries that may wait; further ones are told to come back."""


class App:
    """The page's requests."""

    def __init__(self, gallery: Gallery, limits: Limits, indexing: Indexing | None = None) -> None:
        self.gallery = gallery
        self.indexing = indexing
        self.limits = limits
        self.models = Workers(limits.queries, limits.waiting)
        # None of these waits for a model, nor the first two for texts:
        backlog = BESIDE_QUERIES + 4 * limits.waiting
        self.light = Workers(1, backlog)  # what is in memory
        self.quick = Workers(2, backlog)  # images, and rankings by texts that are known
        self.texts = Workers(1, limits.waiting)  # rankings by new texts, which CLIP has to read
        self.bodies = Bodies()
        self.exports = Exports(gallery, self.quick)
        self.images = Images(gallery, self.quick)

    def routes(self) -> list[web.RouteDef]:
        """Return what is answered."""
        served = [web.get(path, functools.partial(_file, *file)) for path, file in FILES.items()]
        return [
            *served,
            web.get("/healthz", self.health),
            web.get("/openapi.json", self.described),
            web.get("/docs", self.documented),
            web.get("/settings", self.settings),
            web.get("/gallery", self.listing),
            web.get("/fields", self.fields),
            web.get("/images/{hash:[0-9a-f]{64}}/{size:small|large}", self.images.answer),
            web.post("/query", self.query),
            web.post("/rank", self.rank),
            web.post("/export", self.export),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """Answer that the server is there, and how many images can be searched."""
        count = await self.light.submit(lambda: len(self.gallery) if self.gallery.is_indexed else 0)
        return answer({"ok": True, "images": count})

    async def described(self, request: web.Request) -> web.Response:
        """Answer what can be asked, as OpenAPI has it."""
        return answer(openapi.description(Question, Texts, Exported))

    async def documented(self, request: web.Request) -> web.Response:
        """Answer the same as a page."""
        text = openapi.page(openapi.description(Question, Texts, Exported))
        return web.Response(text=text, content_type="text/html")

    async def settings(self, request: web.Request) -> web.Response:
        """Answer what the page has to know before the first query."""
        config = self.gallery.config
        known = {
            name: {
                "about": methods.find(name).summary,
                "weights": weights_of(self.gallery, name),
                "states": states(name),
            }
            for name in methods.selection("all", lacking(config))
        }
        return answer(
            {
                "name": printable(self.gallery.folder.root.name),
                "images": await self.light.submit(self._count),
                "indexing": self.indexing and self.indexing.as_json(),
                "method": config.search.method,
                "group_at": config.own.group_at,
                "methods": known,
                "endings": sorted(endings()),
                "max_upload": self.limits.upload,
                "longest_text": LONGEST_TEXT,
                "most_images": MOST_IMAGES,
                "most_exported": MOST_EXPORTED,
                "most_uploads": MOST_UPLOADS,
            }
        )

    def _count(self) -> int:
        soon = self.indexing is not None and not self.gallery.is_indexed
        return 0 if soon else len(self.gallery)

    def _check_index(self) -> None:
        """Raise InputError where there is nothing to search in yet."""
        if self.indexing is not None and not self.gallery.is_indexed:
            told = self.indexing.as_json()
            raise InputError(
                (told and told["error"])
                or "The folder is being indexed. The first images can be searched in a moment."
            )

    async def listing(self, request: web.Request) -> web.Response:
        """Answer a part of the gallery's images: ``start``, and ``name`` that paths contain.

        ``hash`` asks for one image alone.
        """
        try:
            start = max(0, int(request.query.get("start", "0")))
        except ValueError:
            raise InputError("start must be a number.") from None
        wanted = request.query.get("name", "").casefold()
        only = request.query.get("hash")

        self._check_index()

        def found() -> dict[str, Any]:
            images = [
                {"hash": content_hash, "path": printable(paths[0])}
                for content_hash, paths in self.gallery.paths.items()
                if only in (None, content_hash) and any(wanted in p.casefold() for p in paths)
            ]
            return {"total": len(images), "images": images[start : start + LISTED]}

        return answer(await self.light.submit(found))

    async def fields(self, request: web.Request) -> web.Response:
        """Answer what conditions can be about: fields with their kinds and values."""
        self._check_index()
        listed = await self.texts.submit(self.gallery.fields)
        return answer({"fields": printable_all(listed)})

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Answer a query (a form) line by line: its steps as JSON objects, then result or error."""
        with self.bodies.hold(request, self.limits.upload + FORM_BYTES):
            async with self.bodies.arriving():
                form = await bodies.read_form(request, self.limits.upload)
            return await self._search(request, form)

    async def _search(self, request: web.Request, form: Form) -> web.StreamResponse:
        question = checked(bodies.parse(Question, form.fields), bool(form.images))
        self._check_index()
        gallery = chosen(self.gallery, question)
        uploads = await self.light.submit(lambda: [hash_of(one.content) for one in form.images])
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[str]()

        def tell(step: str) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        left = question.left(gallery.config.search.method)

        def work() -> Result:
            if left is not None:
                return dialogue.go_on(
                    *(gallery, question.references, question.relative_caption, left),
                    *(question.state, question.unwanted, tell),
                )
            own = [question.reference] if question.reference else []
            contents = [
                *map(self.gallery.content, own),
                *(upload.content for upload in form.images),
                *map(self.gallery.content, question.more),
            ]
            names = [
                *("the image" for _ in own),
                *(upload.name for upload in form.images),
                *("a further image" for _ in question.more),
            ]
            pixels: int | None = None  # an image of the gallery may have what the index takes
            by = "runtime.max_pixels"
            if form.images:
                pixels, by = self.limits.pixels, "--max-pixels"
            text, unwanted = question.relative_caption, question.unwanted
            return gallery.search(contents, text, names, tell, pixels, by, unwanted)

        job = self.models.submit(work)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})

        async def send(content: dict[str, Any]) -> None:
            await response.write(dump(content) + b"\n")

        try:
            await response.prepare(request)
            ahead = self.models.pending - self.models.threads
            if ahead > 0:
                await send({"step": "wait", "ahead": ahead})
            async for step in until(job, steps):
                await send({"step": step})
            await send({"result": result_of(await job, question.start) | {"uploads": uploads}})
        except SeizeError as error:
            await send({"error": for_visitors(error)})
        except ConnectionError:  # the user has gone
            raise
        except Exception:
            log.exception("A query failed")
            await send({"error": "The query failed; the server's log says why."})
        finally:
            job.cancel()  # where the user has gone, it leaves the queue
        return response

    async def rank(self, request: web.Request) -> web.Response:
        """Answer a ranking by given texts (JSON): sliders, another method, edits by hand."""
        asked = checked(await self._json(request, Texts))
        gallery = chosen(self.gallery, asked)
        texts = [asked.relative_caption, asked.unlike, *asked.captions, *asked.edited_captions]
        left = asked.left(gallery.config.search.method)
        workers = self.quick if gallery.knows(text for text in texts if text) else self.texts
        ranked = await workers.submit(
            lambda: gallery.rank(
                asked.references,
                asked.relative_caption,
                asked.captions,
                asked.edited_captions,
                unwanted=asked.unwanted,
                vector=None if left is None else left.vector,
            )
        )
        return answer(result_of(ranked, asked.start))

    async def export(self, request: web.Request) -> web.StreamResponse:
        """Answer the originals of images (JSON: their hashes) as one ZIP file."""
        self._check_index()
        return await self.exports.send(request, await self._json(request, Exported))

    async def _json(self, request: web.Request, kind: type[Model]) -> Model:
        with self.bodies.hold(request, JSON_BYTES):
            async with self.bodies.arriving():
                body = await bodies.read(request, JSON_BYTES)
            return await self.light.submit(lambda: bodies.parse_json(kind, body))

    async def life(self, app: web.Application) -> AsyncIterator[None]:
        """Load the models while the first user reads the page; end the threads with the server."""
        # Queries share the cores: more threads would wait for each other, spinning.
        torch.set_num_threads(max(1, torch.get_num_threads() // self.limits.queries))
        preload = None
        if self.gallery.is_indexed:
            preload = self.models.submit(self.gallery.preload)
            preload.add_done_callback(_said)
        yield
        if preload is not None:
            preload.cancel()
        for workers in (self.models, self.light, self.quick, self.texts):
            workers.close()


def _said(preload: "asyncio.Future[None]") -> None:
    if not preload.cancelled() and (error := preload.exception()) is not None:
        log.warning("%s", error)


async def _file(name: str, kind: str, request: web.Request) -> web.Response:
    return web.Response(
        text=(WEB / name).read_text(encoding="utf-8"),
        content_type=kind,
        headers={"Cache-Control": "no-cache"},
    )


def make_app(
    gallery: Gallery,
    limits: Limits | None = None,
    names: frozenset[str] = frozenset(),
    indexing: Indexing | None = None,
    token: str | None = None,
    secret: str | None = None,
) -> web.Application:
    """Return the page on ``gallery``; ``names`` are host names it may be asked by.

    ``indexing`` is what brings its index up to date meanwhile, if anything; without ``token``, if
    there is one, nothing of the folder is answered. Who knows ``secret`` is the page's own user.
    """
    limits = limits or Limits()
    asked: list[Any] = [] if token is None else [tokens.asking_for(token)]
    app = web.Application(middlewares=[working, guard(names), *asked])
    app[CONNECTIONS] = Connections(2 * (limits.queries + limits.waiting + BESIDE_QUERIES))
    page = App(gallery, limits, indexing)
    app.add_routes(page.routes())
    if secret is not None:
        app.router.add_post(running.PATH, Owner(gallery, page.models, secret).ask)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(page.life)
    return app


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens at ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(app: web.Application, host: str, port: int, ready: Callable[[str], Any]) -> None:
    """Serve until Ctrl-C or cancelled; ``ready`` is given the page's address. Raises InputError for
    a port that is taken or an address that is not this machine's.

    Queries that wait for a model are left behind in their threads: see ``ending.leave``.
    """
    stopped = asyncio.Event()
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; threads
        # A second Ctrl-C, while it ends, is the same: it would otherwise end in a traceback.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = Site(runner, host, port, app[CONNECTIONS])
        try:
            await site.start()
        except OSError as error:
            raise InputError(
                f"Cannot listen at {host} port {port}: {error.strerror}. Give another --port or "
                "--host."
            ) from None
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{bound}/")
        await stopped.wait()
    finally:
        await runner.cleanup()
