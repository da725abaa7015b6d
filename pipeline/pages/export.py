"""Originals of the gallery as one ZIP file, sent as they are read: one at a time is in memory."""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline.errors import InputError, SeizeError
from pipeline.pages.visitors import BusyError, for_visitors
from pipeline.printable import printable

if TYPE_CHECKING:
    from pipeline.own.gallery import Gallery
    from pipeline.pages.workers import Workers

MOST_EXPORTED = 500
"""Images of one ZIP file."""
MOST_BYTES = 2 << 30
"""Bytes of their files."""
AT_A_TIME = 4
"""ZIP files that are sent at a time."""
NOT_IN_NAMES = re.compile(r'[<>:"|?*\\]')
"""What a file's name has on some systems only."""
DAY = (1980, 1, 1, 0, 0, 0)
"""The date of every file in a ZIP file: the same images make the same file."""


class Exported(BaseModel):
    """The images that are asked for."""

    model_config = ConfigDict(extra="forbid")

    images: list[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]] = Field(
        min_length=1, max_length=MOST_EXPORTED
    )


class Exports:
    """ZIP files of one gallery's images, a few at a time."""

    def __init__(self, gallery: "Gallery", workers: "Workers") -> None:
        self.gallery, self.workers = gallery, workers
        self._sent = 0

    async def send(self, request: web.Request, asked: Exported) -> web.StreamResponse:
        """Send the images' files as they are read.

        Raises InputError where one is gone or they are too large together, before anything is sent,
        and BusyError where too many are sent already; one that is gone later breaks the file off.
        """
        if self._sent >= AT_A_TIME:
            raise BusyError("Too many images are being saved at the moment. Try again soon.")
        self._sent += 1
        try:
            images = tuple(dict.fromkeys(asked.images))
            await self.workers.submit(lambda: check(self.gallery, images))
            response = web.StreamResponse(
                headers={
                    "Content-Type": "application/zip",
                    "Content-Disposition": 'attachment; filename="seize.zip"',
                }
            )
            await response.prepare(request)
            parts = archive(self.gallery, images)
            try:
                while part := await self.workers.submit(lambda: next(parts, b"")):
                    await response.write(part)
            except SeizeError as error:  # the file ends too soon, which whoever receives it sees
                raise ConnectionError(for_visitors(error)) from error
            await response.write_eof()
            return response
        finally:
            self._sent -= 1


def check(gallery: "Gallery", images: Sequence[str]) -> None:
    """Raise InputError where an image is gone, or all are larger than ``MOST_BYTES``."""
    total = sum(gallery.state(content_hash)[0] for content_hash in images)  # a state begins: size
    if total > MOST_BYTES:
        raise InputError(
            f"The images have {total >> 20:,} MiB, more than the {MOST_BYTES >> 20:,} of one file: "
            "select fewer."
        )


def archive(gallery: "Gallery", images: Sequence[str]) -> Iterator[bytes]:
    """Yield the parts of a ZIP file of the images, none of them empty.

    Raises InputError for an image whose file is gone or changed.
    """
    sink = _Sink()
    names = Names()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as written:
        for content_hash in images:
            content = gallery.content(content_hash)
            name = names.unique(gallery.paths[content_hash][0])
            written.writestr(zipfile.ZipInfo(name, DAY), content)
            yield sink.take()
    yield sink.take()


class Names:
    """Names of a ZIP file: below its folder on every system, and no two alike."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, path: str) -> str:
        """Return a name for ``path``, which is relative and has forward slashes."""
        plain = NOT_IN_NAMES.sub("_", printable(path).replace("\\", "_"))
        parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
        whole = PurePosixPath(*parts) if parts else PurePosixPath("image")
        name, number = whole, 1
        while str(name).casefold() in self._taken:
            number += 1
            name = whole.with_name(f"{whole.stem} ({number}){whole.suffix}")
        self._taken.add(str(name).casefold())
        return str(name)


class _Sink(io.RawIOBase):
    """Takes what is written, to be taken in turn: no file, so nothing can be written twice."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self._held += content
        return len(content)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._held)
        self._held.clear()
        return taken
