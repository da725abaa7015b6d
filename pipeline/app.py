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
import json
import logging
import signal
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import torch
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from pipeline.errors import InputError, SeizeError
from pipeline.gallery import Gallery, Result
from pipeline.images import encoded, endings, open_image
from pipeline.methods import GRIDS, METHODS, NEED_ROLES
from pipeline.page import THUMBNAIL, WEB
from pipeline.printable import printable, printable_all
from pipeline.prompts import first_problem

log = logging.getLogger("seize")

FILES = {
    "/": ("app.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/app.css": ("app.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The page's own files; nothing else is served from disk but images of the index."""

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

SIZES = {"small": THUMBNAIL, "large": 1280}
"""Pixels of the longest side of an image as it is served."""
LISTED = 48
"""Gallery images that one request lists."""
LONGEST_TEXT = 1_000
"""Characters of a caption."""
MOST_TEXTS = 512
"""Captions of one query."""
IMAGES_HELD = 64 << 20
"""Bytes of small images held in memory."""
FORM_BYTES = 1 << 16
"""Bytes that a request may have beside the image."""

T = TypeVar("T")
Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Limits:
    """What one server does for its users."""

    upload: int = 20 << 20
    """Bytes of an uploaded image."""
    pixels: int = 50_000_000
    """Pixels of an uploaded image."""
    queries: int = 4
    """Queries worked on at a time."""
    waiting: int = 100
    """Queries that may wait; further ones are told to come back."""


class Choices(BaseModel):
    """The settings of a search that the page offers."""

    model_config = ConfigDict(extra="forbid")

    method: str | None = None
    alpha_pos: FiniteFloat | None = None
    alpha_neg: FiniteFloat | None = None
    top_k: int = Field(default=24, ge=1, le=240)


class Question(Choices):
    """A query; its image is a file beside it, or ``reference``, an image of the gallery."""

    relative_caption: Text
    reference: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None


class Texts(Question):
    """A ranking by texts that were made before, or edited by hand."""

    reference: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    captions: list[Text] = Field(max_length=MOST_TEXTS)
    edited_captions: list[Text | None] = Field(max_length=MOST_TEXTS)


class BusyError(SeizeError):
    """More is asked at a time than may wait."""


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

    def __init__(self, gallery: Gallery, limits: Limits) -> None:
        self.gallery = gallery
        self.limits = limits
        self.models = Workers(limits.queries, limits.waiting)
        self.quick = Workers(2, 4 * limits.waiting)  # rankings and images never wait for models
        self._images: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        """Return what is answered."""
        served = [web.get(path, functools.partial(_file, *file)) for path, file in FILES.items()]
        return [
            *served,
            web.get("/settings", self.settings),
            web.get("/gallery", self.listing),
            web.get("/images/{hash:[0-9a-f]{64}}/{size:small|large}", self.image),
            web.post("/query", self.query),
            web.post("/rank", self.rank),
        ]

    async def settings(self, request: web.Request) -> web.Response:
        """Answer what the page has to know before the first query."""
        config = self.gallery.config
        known = {name: _weights(self.gallery, name) for name in METHODS if name not in NEED_ROLES}
        return _json(
            {
                "name": printable(self.gallery.folder.root.name),
                "images": await self.quick.submit(lambda: len(self.gallery)),
                "method": config.search.method,
                "methods": known,
                "endings": sorted(endings()),
                "max_upload": self.limits.upload,
                "longest_text": LONGEST_TEXT,
            }
        )

    async def listing(self, request: web.Request) -> web.Response:
        """Answer a part of the gallery's images: ``start``, and ``name`` that paths contain."""
        try:
            start = max(0, int(request.query.get("start", "0")))
        except ValueError:
            raise InputError("start must be a number.") from None
        wanted = request.query.get("name", "").casefold()

        def chosen() -> dict[str, Any]:
            images = [
                {"hash": content_hash, "path": printable(paths[0])}
                for content_hash, paths in self.gallery.paths.items()
                if any(wanted in path.casefold() for path in paths)
            ]
            return {"total": len(images), "images": images[start : start + LISTED]}

        return _json(await self.quick.submit(chosen))

    async def image(self, request: web.Request) -> web.Response:
        """Answer an image of the index, drawn anew as JPEG, if its file is still what was indexed.

        The name is a hash of the content, so nothing but these bytes can ever be served.
        """
        content_hash, size = request.match_info["hash"], request.match_info["size"]
        body = self._images.get((content_hash, size))
        if body is None:
            try:
                body = await self.quick.submit(lambda: self._small(content_hash, size))
            except InputError as error:
                return _json({"error": str(error)}, status=404)
            self._hold((content_hash, size), body)
        caching = {"Cache-Control": "private, max-age=31536000, immutable"}
        return web.Response(body=body, content_type="image/jpeg", headers=caching)

    def _small(self, content_hash: str, size: str) -> bytes:
        content = self.gallery.content(content_hash)
        limit = self.gallery.config.runtime.max_pixels
        image = open_image(Path("the image"), content, max_pixels=limit)
        return encoded(image, SIZES[size], quality=85)

    def _hold(self, key: tuple[str, str], body: bytes) -> None:
        if key[1] == "small":
            self._images[key] = body
            while sum(map(len, self._images.values())) > IMAGES_HELD:
                self._images.popitem(last=False)

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Answer a query (a form) line by line: its steps as JSON objects, then result or error."""
        form = await request.post()
        upload = form.get("image")
        fields = {name: value for name, value in form.items() if name != "image"}
        question = _parse(Question, fields)
        gallery = _chosen(self.gallery, question)
        if not isinstance(upload, web.FileField) and question.reference is None:
            raise InputError("Choose a reference image: upload one or pick one of the gallery.")
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[str]()

        def tell(step: str) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, step)

        def work() -> Result:
            if isinstance(upload, web.FileField):
                name, content = upload.filename, upload.file.read()
            else:
                name, content = "the image", self.gallery.content(question.reference or "")
            pixels = self.limits.pixels
            return gallery.search(content, question.relative_caption, name, tell, pixels)

        job = self.models.submit(work)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)

        async def send(content: dict[str, Any]) -> None:
            await response.write(_dump(content) + b"\n")

        try:
            ahead = self.models.pending - self.models.threads
            if ahead > 0:
                await send({"step": "wait", "ahead": ahead})
            async for step in _until(job, steps):
                await send({"step": step})
            await send({"result": _result(await job)})
        except SeizeError as error:
            await send({"error": str(error)})
        except Exception:
            log.exception("A query failed")
            await send({"error": "The query failed; the server's log says why."})
        finally:
            job.cancel()  # where the user has gone, it leaves the queue
        return response

    async def rank(self, request: web.Request) -> web.Response:
        """Answer a ranking by given texts (JSON): sliders, another method, edits by hand."""
        try:
            asked = _parse(Texts, await request.json())
        except ValueError:
            raise InputError("The request must be JSON.") from None
        gallery = _chosen(self.gallery, asked)
        ranked = await self.quick.submit(
            lambda: gallery.rank(
                asked.reference, asked.relative_caption, asked.captions, asked.edited_captions
            )
        )
        return _json(_result(ranked))

    async def life(self, app: web.Application) -> AsyncIterator[None]:
        """Load the models while the first user reads the page; end the threads with the server."""
        # Queries share the cores: more threads would wait for each other, spinning.
        torch.set_num_threads(max(1, torch.get_num_threads() // self.limits.queries))
        preload = self.models.submit(self.gallery.preload)
        preload.add_done_callback(_said)
        yield
        preload.cancel()
        self.models.close()
        self.quick.close()


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
    return gallery.with_search(
        method=choices.method,
        alpha_pos=choices.alpha_pos,
        alpha_neg=choices.alpha_neg,
        top_k=choices.top_k,
    )


def _weights(gallery: Gallery, method: str) -> dict[str, float] | None:
    """Return a method's α⁺ and α⁻ and how far their sliders go; None where it has none."""
    grid = GRIDS.get(method, {})
    if "rank_positive" in grid:
        reach = {"max_pos": 1e-5, "max_neg": 1e-5, "step": 1e-7}
    elif "positive" in grid:
        reach = {"max_pos": 1.0, "max_neg": 3.0, "step": 0.01}
    else:
        return None
    weights = gallery.with_search(method=method).increment
    return {"alpha_pos": weights.positive, "alpha_neg": weights.negative} | reach


def _result(result: Result) -> dict[str, Any]:
    content = result.as_json()
    del content["gallery"]  # a path of this machine
    for field in ("images", "notes"):  # other texts are edited on the page and come back
        content[field] = printable_all(content[field])
    return content


Model = TypeVar("Model", bound=BaseModel)


def _parse(kind: type[Model], content: Any) -> Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(first_problem(error)) from None


def _dump(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def _json(content: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=_dump(content), content_type="application/json", status=status)


async def _file(name: str, kind: str, request: web.Request) -> web.Response:
    return web.Response(
        text=(WEB / name).read_text(encoding="utf-8"),
        content_type=kind,
        headers={"Cache-Control": "no-cache"},
    )


def _guard(names: frozenset[str]) -> Any:
    """Return the middleware that turns away other sites' requests and answers errors as JSON.

    A page elsewhere can reach a server on this machine by pointing a name of its own at it (DNS
    rebinding), so Host must be an address, localhost or one of ``names``.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_own(request.headers.get("Host", ""), names):
            return _json({"error": "This name is not served here; see --allow-host."}, status=403)
        origin = request.headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != request.headers["Host"]
        asked_by = request.headers.get("Sec-Fetch-Site", "none")
        if foreign or (request.path != "/" and asked_by not in ("none", "same-origin")):
            return _json({"error": "Requests of other sites are not answered."}, status=403)
        try:
            return await handler(request)
        except BusyError as error:
            return _json({"error": str(error)}, status=503)
        except SeizeError as error:
            return _json({"error": str(error)}, status=400)
        except web.HTTPRequestEntityTooLarge:
            return _json({"error": "The image is larger than this server takes."}, status=413)
        except web.HTTPException as error:
            return _json({"error": error.reason}, status=error.status)
        except Exception:
            log.exception("%s failed", request.path)
            return _json({"error": "The request failed; the server's log says why."}, status=500)

    return guard


def _is_own(host: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name == "localhost" or name in names


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def make_app(
    gallery: Gallery, limits: Limits | None = None, names: frozenset[str] = frozenset()
) -> web.Application:
    """Return the page on ``gallery``; ``names`` are host names it may be asked by."""
    limits = limits or Limits()
    app = web.Application(middlewares=[_guard(names)], client_max_size=limits.upload + FORM_BYTES)
    page = App(gallery, limits)
    app.add_routes(page.routes())
    app.on_response_prepare.append(_add_headers)
    app.cleanup_ctx.append(page.life)
    return app


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
        site = web.TCPSite(runner, host, port)
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
