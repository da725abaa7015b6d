"""Images of the index as the page shows them: drawn anew, and small ones held in memory."""

import threading
from collections import OrderedDict
from pathlib import Path

from aiohttp import web

from pipeline.errors import InputError
from pipeline.images.files import encoded, open_image
from pipeline.own.folder import State
from pipeline.own.gallery import Gallery
from pipeline.pages.result import THUMBNAIL
from pipeline.pages.visitors import for_visitors, refusal
from pipeline.pages.workers import Workers

SIZES = {"small": THUMBNAIL, "large": 1280}
"""Pixels of the longest side of an image as it is served."""
IMAGES_HELD = 64 << 20
"""Bytes of small images held in memory."""


class Images:
    """Answers images of one gallery; ``workers`` read and draw them."""

    def __init__(self, gallery: Gallery, workers: Workers) -> None:
        self._gallery, self._workers = gallery, workers
        self._held: OrderedDict[str, tuple[State, bytes]] = OrderedDict()
        """Small images by hash, and what their files were when they were read."""
        self._lock = threading.Lock()

    async def answer(self, request: web.Request) -> web.Response:
        """Answer an image of the index, drawn anew as JPEG, if its file is still what was indexed.

        The name is a hash of the content, so nothing but these bytes can ever be served.
        """
        content_hash, size = request.match_info["hash"], request.match_info["size"]
        try:
            body = await self._workers.submit(lambda: self.drawn(content_hash, size))
        except InputError as error:
            return refusal(for_visitors(error), 404)
        caching = {"Cache-Control": "private, max-age=31536000, immutable"}
        return web.Response(body=body, content_type="image/jpeg", headers=caching)

    def drawn(self, content_hash: str, size: str) -> bytes:
        """Return an image from memory, where its file still is what was read, or read it."""
        state = self._gallery.state(content_hash)
        with self._lock:
            held, body = self._held.get(content_hash, ((), b""))
        if size == "small" and held == state:
            return body
        content = self._gallery.content(content_hash)
        limit = self._gallery.config.runtime.max_pixels
        image = open_image(Path("the image"), content, max_pixels=limit)
        body = encoded(image, SIZES[size], quality=85)
        if size == "small":
            self._hold(content_hash, state, body)
        return body

    def _hold(self, content_hash: str, state: State, body: bytes) -> None:
        with self._lock:
            self._held[content_hash] = state, body
            while sum(len(body) for _, body in self._held.values()) > IMAGES_HELD:
                self._held.popitem(last=False)
