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
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from aiohttp import web

from pipeline.errors import InputError, SeizeError
from pipeline.images.files import encoded, endings, open_image
from pipeline.own import dialogue, running
from pipeline.own.checks import lacking
from pipeline.own.folder import State, hash_of
from pipeline.own.gallery import LONGEST_TEXT, Gallery
from pipeline.own.result import Result
from pipeline.pages import bodies, openapi, tokens
from pipeline.pages.bodies import FORM_BYTES, JSON_BYTES, MOST_UPLOADS, Bodies, Form, Model
from pipeline.pages.connections import BESIDE_QUERIES, Connections, Site, working
from pipeline.pages.export import MOST_EXPORTED, Exported, Exports
from pipeline.pages.indexing import Indexing
from pipeline.pages.owner import Owner
from pipeline.pages.questions import (
    MOST_IMAGES,
    Choices,
    Question,
    Texts,
    states,
    vector_in,
)
from pipeline.pages.result import THUMBNAIL, WEB
from pipeline.pages.visitors import (
    BusyError,
    add_headers,
    answer,
    dump,
    for_visitors,
    guard,
    is_private,
    refusal,
)
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

SIZES = {"small": THUMBNAIL, "large": 1280}
"""Pixels of the longest side of an image as it is served."""
LISTED = 48
"""Gallery images that one request lists."""
IMAGES_HELD = 64 << 20
"""Bytes of small images held in memory."""

CONNECTIONS = web.AppKey("connections", Connections)
"""The connections that an application has."""

T = TypeVar("T")


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


class Workers:
    """Threads beside the event loop, so that the page answers while models work."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.threads = threads
        self.most = threads + waiting
        self.pending = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads)

    def submit(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Run ``function`` when its turn comes; raises BusyError where too many wait.

        Cancelling the future before its turn takes it out of the queue.
        """
        with self._lock:
            if self.pending >= self.most:
                raise BusyError("Too many people are asking at the moment. Try again soon.")
            self.pending += 1
        future = self._pool.submit(function)
        future.add_done_callback(lambda _: self._done())
        return asyncio.wrap_future(future)

    def _done(self) -> None:
        with self._lock:
            self.pending -= 1

    def close(self) -> None:
        """Take no more work, and forget what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)


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
        self._images: OrderedDict[str, tuple[State, bytes]] = OrderedDict()
        """Small images by hash, and what their files were when they were read."""
        self._images_lock = threading.Lock()

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
            web.get("/images/{hash:[0-9a-f]{64}}/{size:small|large}", self.image),
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
                "weights": _weights(self.gallery, name),
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

        def chosen() -> dict[str, Any]:
            images = [
                {"hash": content_hash, "path": printable(paths[0])}
                for content_hash, paths in self.gallery.paths.items()
                if only in (None, content_hash) and any(wanted in p.casefold() for p in paths)
            ]
            return {"total": len(images), "images": images[start : start + LISTED]}

        return answer(await self.light.submit(chosen))

    async def fields(self, request: web.Request) -> web.Response:
        """Answer what conditions can be about: fields with their kinds and values."""
        self._check_index()
        listed = await self.texts.submit(self.gallery.fields)
        return answer({"fields": printable_all(listed)})

    async def image(self, request: web.Request) -> web.Response:
        """Answer an image of the index, drawn anew as JPEG, if its file is still what was indexed.

        The name is a hash of the content, so nothing but these bytes can ever be served.
        """
        content_hash, size = request.match_info["hash"], request.match_info["size"]
        try:
            body = await self.quick.submit(lambda: self._drawn(content_hash, size))
        except InputError as error:
            return refusal(for_visitors(error), 404)
        caching = {"Cache-Control": "private, max-age=31536000, immutable"}
        return web.Response(body=body, content_type="image/jpeg", headers=caching)

    def _drawn(self, content_hash: str, size: str) -> bytes:
        """Return an image from memory, where its file still is what was read, or read it."""
        state = self.gallery.state(content_hash)
        with self._images_lock:
            held, body = self._images.get(content_hash, ((), b""))
        if size == "small" and held == state:
            return body
        content = self.gallery.content(content_hash)
        limit = self.gallery.config.runtime.max_pixels
        image = open_image(Path("the image"), content, max_pixels=limit)
        body = encoded(image, SIZES[size], quality=85)
        if size == "small":
            self._hold(content_hash, state, body)
        return body

    def _hold(self, content_hash: str, state: State, body: bytes) -> None:
        with self._images_lock:
            self._images[content_hash] = state, body
            while sum(len(body) for _, body in self._images.values()) > IMAGES_HELD:
                self._images.popitem(last=False)

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Answer a query (a form) line by line: its steps as JSON objects, then result or error."""
        with self.bodies.hold(request, self.limits.upload + FORM_BYTES):
            async with self.bodies.arriving():
                form = await bodies.read_form(request, self.limits.upload)
            return await self._search(request, form)

    async def _search(self, request: web.Request, form: Form) -> web.StreamResponse:
        question = _asked(bodies.parse(Question, form.fields), bool(form.images))
        self._check_index()
        gallery = _chosen(self.gallery, question)
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
            async for step in _until(job, steps):
                await send({"step": step})
            await send({"result": _result(await job, question.start) | {"uploads": uploads}})
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
        asked = _asked(await self._json(request, Texts))
        gallery = _chosen(self.gallery, asked)
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
        return answer(_result(ranked, asked.start))

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


async def _until(job: "asyncio.Future[Any]", steps: "asyncio.Queue[str]") -> AsyncIterator[str]:
    """Yield the steps that are told until the job is done."""
    while not job.done() or not steps.empty():
        step = asyncio.ensure_future(steps.get())
        try:
            await asyncio.wait({job, step}, return_when=asyncio.FIRST_COMPLETED)
            if step.done():
                yield step.result()
        finally:
            step.cancel()


def _chosen(gallery: Gallery, choices: Choices) -> Gallery:
    """Return the gallery as it is asked for; raises ConditionError for what is no condition."""
    if lines := [line for line in choices.where.splitlines() if line.strip()]:
        gallery = gallery.where(*lines)
    if not choices.group:
        gallery = gallery.grouped(None)
    return gallery.with_search(
        method=choices.method,
        alpha_pos=choices.alpha_pos,
        alpha_neg=choices.alpha_neg,
        top_k=choices.start + choices.top_k,
    )


def _weights(gallery: Gallery, method: str) -> dict[str, float] | None:
    """Return a method's α⁺ and α⁻ and how far their sliders go; None where it has none."""
    weights = gallery.with_search(method=method).increment
    if weights is None:
        return None
    if weights.name == "rank_increment":
        reach = {"max_pos": 1e-5, "max_neg": 1e-5, "step": 1e-7}
    else:
        reach = {"max_pos": 1.0, "max_neg": 3.0, "step": 0.01}
    return {"alpha_pos": weights.positive, "alpha_neg": weights.negative} | reach


def _result(result: Result, start: int) -> dict[str, Any]:
    """Return what is sent of a result: its images from place ``start`` on, and no path of here."""
    content = replace(result, images=result.images[start:]).as_json() | vector_in(result)
    del content["gallery"]  # a path of this machine
    if (paths := result.gallery.paths.get(result.reference)) is not None:
        content["path"] = paths[0]
    for field in {
        "images",
        "notes",
        "path",
    } & content.keys():  # other texts are edited on the page and come back
        content[field] = printable_all(content[field])
    content["notes"] = [_note(note) for note in content["notes"]]
    return content


def _note(text: str) -> str:
    """Return what a visitor may read of a note, which may hold an error's text."""
    if not is_private(text):
        return text
    log.warning("%s", text)
    return "A model failed on a part of this; the server's log says why."


Asked = TypeVar("Asked", bound=Question)


def _asked(question: Asked, has_image: bool = False) -> Asked:
    """Return the question; raises InputError where it asks nothing."""
    if not has_image and question.reference is None and not question.relative_caption.strip():
        raise InputError("There is nothing to search by: give an image, a text, or both.")
    if has_image and question.state != "image":
        raise InputError("A turn that goes on from a query begins with no image: send none.")
    return question


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
