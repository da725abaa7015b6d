"""Reading what requests send: bounded in size, number and time, and nothing but UTF-8.

aiohttp would decode a body by any codec of Python that the request names (``punycode`` takes
quadratic time), unpack what is compressed, and collect uploads in the folder for temporary files.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, web
from pydantic import BaseModel, ValidationError

from pipeline.errors import InputError
from pipeline.pages.visitors import BusyError
from pipeline.printable import one_line
from pipeline.yamls import first_problem

FORM_BYTES = 1 << 16
"""Bytes that a form may have beside its images."""
JSON_BYTES = 4 << 20
"""Bytes of a JSON body."""
JSON_STRUCTURE = 1 << 16
"""Bytes of it that are not within strings: brackets, commas, numbers, spaces."""
MOST_FIELDS = 16
"""Fields of a form."""
MOST_ITEMS = 512
"""Items of a list in a JSON body."""
RECEIVED_WITHIN = 120.0
"""Seconds that a body may take to arrive."""
RECEIVED = 32
"""Bodies that may arrive at a time."""
HELD = 256 << 20
"""Bytes of bodies held in memory at a time."""
MOST_UPLOADS = 8
"""Images of a form."""
LONGEST_NAME = 100
"""Characters kept of an upload's name."""

STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string of JSON, at the end of a cut body too: so it is found in linear time."""
UTF_8 = ("utf-8", "utf8", "us-ascii")
AS_IT_IS = ("binary", "8bit", "7bit")
"""Transfer encodings that change no byte."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Upload:
    """A file that a form holds."""

    name: str
    """What errors call it: its file name, shortened and printable."""
    content: bytes


@dataclass
class Form:
    """A form's fields by name, and its images."""

    fields: dict[str, str] = field(default_factory=dict)
    images: list[Upload] = field(default_factory=list)


class Bodies:
    """How many bodies arrive at a time, and how many bytes of them are held."""

    def __init__(self, most_bytes: int = HELD, most: int = RECEIVED) -> None:
        self.most_bytes, self.most = most_bytes, most
        self._bytes = self._arriving = 0

    @contextlib.contextmanager
    def hold(self, request: web.Request, most: int) -> Iterator[None]:
        """Reserve memory for a request's body of at most ``most`` bytes.

        Raises HTTPRequestEntityTooLarge where it says that it is larger, and BusyError where too
        much is held already.
        """
        size = request.content_length
        if size is not None and size > most:
            raise web.HTTPRequestEntityTooLarge(most)
        size = most if size is None else size
        if self._bytes and self._bytes + size > self.most_bytes:
            raise BusyError(
                "Too many images are being searched with at the moment. Try again soon."
            )
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    @contextlib.asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """Allow a body some time to arrive; raises BusyError where too many do, or HTTP's 408."""
        if self._arriving >= self.most:
            raise BusyError("Too many people are sending at the moment. Try again soon.")
        self._arriving += 1
        try:
            async with asyncio.timeout(RECEIVED_WITHIN):
                yield
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason="The request took too long to arrive.") from None
        finally:
            self._arriving -= 1


def check_encoding(headers: Mapping[str, str], charset: str | None) -> None:
    """Raise HTTPUnsupportedMediaType for anything but plain bytes and UTF-8."""
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise web.HTTPUnsupportedMediaType(reason="Send the request without Content-Encoding.")
    if charset is not None and charset.strip().lower() not in UTF_8:
        raise web.HTTPUnsupportedMediaType(reason="Send the request in UTF-8.")


async def read(request: web.Request, most: int) -> bytes:
    """Return a request's body of at most ``most`` bytes."""
    check_encoding(request.headers, request.charset)
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > most:
            raise web.HTTPRequestEntityTooLarge(most)
    return bytes(body)


async def read_form(request: web.Request, most_image: int) -> Form:
    """Return a form (multipart, or fields alone as in a URL); its images have ``most_image``.

    Raises InputError for what is no form, HTTPRequestEntityTooLarge for what is too large.
    """
    try:
        if request.content_type == "multipart/form-data":
            return await _multipart(request, most_image)
        if request.content_type == "application/x-www-form-urlencoded":
            text = (await read(request, FORM_BYTES)).decode()
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
            return Form(dict(pairs))
    except (InputError, web.HTTPException, OSError):  # of the connection, or out of time
        raise
    except Exception:  # whatever a parser makes of bytes from elsewhere
        raise InputError("The request is no form that can be read.") from None
    raise InputError("The request must be a form.")


async def _multipart(request: web.Request, most_image: int) -> Form:
    check_encoding(request.headers, request.charset)
    form, reader = Form(), await request.multipart()
    left, left_images = FORM_BYTES, most_image
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise InputError("A form's fields have names, and no forms inside.")
        if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in AS_IT_IS:
            raise web.HTTPUnsupportedMediaType(reason="Send the form's fields as they are.")
        check_encoding(part.headers, part.get_charset(default="utf-8"))
        if part.name in form.fields or len(form.fields) >= MOST_FIELDS:
            raise InputError("The form has too many fields, or one of them twice.")
        if part.name != "image":
            content = await _part(request, part, left, most_image)
            left -= len(content)
            form.fields[part.name] = content.decode()
        elif len(form.images) >= MOST_UPLOADS:
            raise InputError(f"The form has more than {MOST_UPLOADS} images: send fewer.")
        else:
            content = await _part(request, part, left_images, most_image)
            left_images -= len(content)
            if content or part.filename:  # a browser sends an empty one where none was chosen
                form.images.append(Upload(file_name(part.filename or ""), content))
    return form


async def _part(request: web.Request, part: BodyPartReader, most: int, most_image: int) -> bytes:
    content = bytearray()
    while not part.at_eof():
        content += await part.read_chunk(1 << 16)
        # What surrounds the fields counts too, where the request does not tell its length.
        if len(content) > most or request.content.total_bytes > most_image + FORM_BYTES:
            raise web.HTTPRequestEntityTooLarge(most)
    return bytes(content)


def file_name(given: str) -> str:
    """Return an upload's name for messages: without folders or what steers a terminal or text."""
    last = one_line(given.replace("\\", "/").rpartition("/")[2].replace("\t", " ")).strip()
    if len(last) > LONGEST_NAME:
        last = f"{last[: LONGEST_NAME // 2]}…{last[-LONGEST_NAME // 2 :]}"
    return last or "the image"


def parse_json(kind: type[Model], body: bytes) -> Model:
    """Return a JSON body as what it must be; raises InputError.

    Reading JSON lets no other thread work, and millions of small items take seconds, so what has
    more of them than any good request is refused before.
    """
    if len(STRING.sub(b"", body)) > JSON_STRUCTURE:
        raise InputError("The request has more items, or longer numbers, than are allowed.")
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise InputError("The request must be JSON.") from None
    return parse(kind, content)


def parse(kind: type[Model], content: Any) -> Model:
    """Return fields as what they must be; raises InputError naming the first that is wrong.

    Shape and sizes are checked first, or pydantic would collect an error for every key and item.
    """
    if not isinstance(content, dict):
        raise InputError("The request must be a JSON object.")
    unknown = next((name for name in content if name not in kind.model_fields), None)
    if unknown is not None:
        raise InputError(f"There is no field {one_line(unknown[:LONGEST_NAME])!r}.")
    for name, value in content.items():
        if isinstance(value, list | dict) and len(value) > MOST_ITEMS:
            raise InputError(
                f"{name} has {len(value):,} items, more than the {MOST_ITEMS} allowed."
            )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(_told(error)) from None


def _told(error: ValidationError) -> str:
    """Return the first problem in words that need no knowledge of pydantic."""
    problem = error.errors(include_input=True)[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "string_too_long":
        size, most = len(problem["input"]), problem["ctx"]["max_length"]
        return f"{name} has {size:,} characters, more than the {most:,} allowed: shorten it."
    if problem["type"] == "missing":
        return f"The request lacks {name}."
    return first_problem(error)
