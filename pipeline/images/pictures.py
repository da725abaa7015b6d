"""Pictures of what was retrieved: contact sheets, and thumbnails that fit a number of bytes."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import InputError
from pipeline.images.files import open_image
from pipeline.printable import printable
from pipeline.records import ImageFile, Query, Ranking
from pipeline.run import Run, progress

Item = TypeVar("Item")

TILE = 128
GAP = 8
TEXT = 240
LONGEST_TEXT = 400
"""Characters of a relative caption that are drawn."""
FRAME = (0, 150, 60)
INK = (30, 30, 30)

SIZES = (
    (192, 80),
    (160, 75),
    (144, 70),
    (128, 65),
    (112, 60),
    (104, 55),
    (96, 50),
    (88, 45),
    (80, 40),
    (64, 30),
)
"""Longest side in pixels and WebP quality of thumbnails, from the best to the smallest."""

SAMPLE = 48
"""Images encoded to choose a size before all are."""


def contact_sheet(
    run: Run, rankings: Sequence[Ranking], queries: int = 12, top: int = 5
) -> Image.Image:
    """Draw up to ``queries`` rows: reference image, relative caption, top images, truth framed.

    The rows are evenly spread over ``rankings``, so that none is hand-picked. A notebook shows the
    image that is returned. Raises InputError for a ranking of a query that the run does not have.
    """
    chosen = [(_query(run, ranking), ranking) for ranking in spread(rankings, queries)]
    width = GAP + TILE + GAP + TEXT + top * (TILE + GAP) + GAP
    height = 40 + len(chosen) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    title = ImageFont.load_default(16)
    draw.text((GAP, 10), "reference", INK, title)
    draw.text((2 * GAP + TILE, 10), "relative caption", INK, title)
    retrieved = 2 * GAP + TILE + TEXT
    draw.text((retrieved, 10), f"top {top} of {run.name} (ground truth framed)", INK, title)
    for number, (query, ranking) in enumerate(chosen):
        y = 40 + number * (TILE + GAP)
        _paste_all(sheet, run, query.references, GAP, y)
        text = _wrap(run.relative_captions(query)[0], TEXT - GAP, ImageFont.load_default(15))
        draw.text((2 * GAP + TILE, y + 6), text, INK, ImageFont.load_default(15))
        for place, image in enumerate(ranking.images[:top]):
            x = retrieved + place * (TILE + GAP)
            _paste(sheet, run, image, x, y, framed=image in query.relevant)
    return sheet


def _query(run: Run, ranking: Ranking) -> Query:
    for query in run.queries:
        if query.id == ranking.query:
            return query
    raise InputError(f"Query {ranking.query} is not in {run.name}.")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return up to ``count`` items evenly spread over all of them, in their order."""
    step = max(len(items) / count, 1)
    return [items[int(i * step)] for i in range(min(count, len(items)))]


def _paste_all(sheet: Image.Image, run: Run, names: Sequence[str], x: int, y: int) -> None:
    """Paste a query's reference images, several as smaller tiles in the place of one."""
    across = math.ceil(math.sqrt(len(names)))
    side = TILE // across
    for number, name in enumerate(names):
        row, column = divmod(number, across)
        _paste(sheet, run, name, x + column * side, y + row * side, framed=False, side=side)


def _paste(
    sheet: Image.Image, run: Run, name: str, x: int, y: int, framed: bool, side: int = TILE
) -> None:
    limit = run.config.runtime.max_pixels
    image = open_image(run.dataset.images[name], at_least=side, max_pixels=limit)
    image.thumbnail((side, side))
    if image.width < side and image.height < side:  # show small images at full tile size
        scale = side / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
    sheet.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
    outline, line = (FRAME, 5) if framed else ((200, 200, 200), 1)
    ImageDraw.Draw(sheet).rectangle((x, y, x + side - 1, y + side - 1), outline=outline, width=line)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in printable(text[:LONGEST_TEXT]).split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


@dataclass(frozen=True)
class Thumbnails:
    """Small copies of images, all of one size and quality."""

    side: int
    """The longest side in pixels; smaller images keep their own size."""
    files: dict[str, bytes]
    """Image id to a WebP file's content."""
    failed: dict[str, str]
    """Image id to the reason why it could not be read."""


def thumbnails(
    images: Mapping[str, ImageFile], budget: int, max_pixels: int | None = None
) -> Thumbnails:
    """Return thumbnails of ``images``, as large and good as fit into ``budget`` bytes together.

    The size is chosen from a sample, so the sum may miss the budget by some percent; the smallest
    size is taken where none fits.
    """
    sample = []
    for file in spread(list(images.values()), SAMPLE):
        with suppress(InputError):
            sample.append(open_image(file, at_least=SIZES[0][0], max_pixels=max_pixels))
    side, quality = SIZES[-1]
    for side, quality in SIZES:
        mean = sum(len(_encode(image, side, quality)) for image in sample) / max(len(sample), 1)
        if mean * len(images) <= budget:
            break
    files: dict[str, bytes] = {}
    failed: dict[str, str] = {}

    def make(item: tuple[str, ImageFile]) -> None:
        name, file = item
        try:
            image = open_image(file, at_least=side, max_pixels=max_pixels)
            files[name] = _encode(image, side, quality)
        except InputError as error:
            failed[name] = str(error)

    with (
        progress(len(images), 0, "image", "thumbnails") as bar,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        for _ in threads.map(make, images.items()):
            bar.update()
    return Thumbnails(side, files, failed)


def _encode(image: Image.Image, side: int, quality: int) -> bytes:
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=quality)
    return buffer.getvalue()


def show(run: Run, ranking: Ranking, top: int = 10) -> Image.Image:
    """Return a picture of a ranking's query and its ``top`` images, which a notebook shows."""
    return contact_sheet(run, [ranking], top=top)
