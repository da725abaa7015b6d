"""A query's result as a notebook shows it."""

import html
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.images.files import data_url, open_image
from pipeline.printable import for_page

if TYPE_CHECKING:
    from pipeline.own.result import Result

SHOWN = 12
"""Pictures that are drawn; the rest is told by number."""
SIDE = 160
"""Pixels of their longest side."""


def html_of(result: "Result") -> str:
    """Return the first pictures with score and path, in a row that wraps; every text is escaped."""
    cells = []
    for image in result.images[:SHOWN]:
        name = _text(image.path)
        try:
            drawn = open_image(Path(image.path), result.gallery.content(image.hash))
            picture = f'<img src="{data_url(drawn, SIDE)}" alt="{name}">'
        except InputError:  # gone or changed since it was indexed
            picture = "<em>no longer there</em>"
        cells.append(
            f'<figure style="margin:0;max-width:{SIDE}px;overflow-wrap:anywhere">{picture}'
            f"<figcaption>{image.score:.4f} {name}{_more(len(image.members))}</figcaption></figure>"
        )
    more = len(result.images) - len(cells)
    told = [result.matching.told] if result.matching else []
    notes = "".join(f"<p>{_text(note)}</p>" for note in (*told, *result.notes))
    return (
        f"<p><b>{_text(result.relative_caption)}</b>, by {_text(result.settings.method)}</p>{notes}"
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(cells)}</div>'
        + (f"<p>and {more} more: <code>.frame()</code> has all.</p>" if more else "")
    )


def _more(members: int) -> str:
    return f" and {members} nearly the same" if members else ""


def _text(text: str) -> str:
    return html.escape(str(for_page(text)))
