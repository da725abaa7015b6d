"""A query's result as one HTML file that needs no other."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.errors import InputError
from pipeline.images.files import data_url, open_image
from pipeline.printable import for_page
from pipeline.store.files import write_text

if TYPE_CHECKING:
    from pipeline.own.result import Result

WEB = Path(__file__).resolve().parent / "web"
"""The page's own files: templates, script, style."""

THUMBNAIL = 320
"""Pixels of an image's longest side on a page."""

_environment = Environment(
    loader=FileSystemLoader(WEB),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    finalize=for_page,
)


def result_page(result: "Result") -> str:
    """Return the page: reference image, ranking with scores, captions and edits, all escaped."""

    gallery = result.gallery

    def shown(path: str, read: Callable[[], bytes]) -> str | None:
        try:
            image = open_image(Path(path), read(), max_pixels=gallery.config.runtime.max_pixels)
            return data_url(image, THUMBNAIL)
        except InputError:  # gone or changed since it was indexed
            return None

    def reference(place: int) -> bytes:
        if result.contents:
            return result.contents[place]
        return gallery.content(result.references[place])

    references = [
        shown("", functools.partial(reference, place)) for place in range(len(result.references))
    ]
    images = [
        (image, shown(image.path, functools.partial(gallery.content, image.hash)))
        for image in result.images
    ]
    count = max(len(result.captions), 1)
    return _environment.get_template("result.html").render(
        result=result,
        references=references,
        images=images,
        texts=[(result.captions[i % count], text) for i, text in enumerate(result.edited_captions)],
        alphas=result.increment,
    )


def write_page(result: "Result", file: Path | str) -> None:
    """Write a result, its images small, as one HTML file that needs no other."""
    write_text(Path(file), result_page(result))
