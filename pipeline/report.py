"""Pictures of what was retrieved."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.cache import atomic
from pipeline.images import open_image
from pipeline.records import Query, Ranking
from pipeline.run import Run

TILE = 128
GAP = 8
TEXT = 240
FRAME = (0, 150, 60)
INK = (30, 30, 30)


def contact_sheet(
    run: Run, rankings: Sequence[Ranking], file: Path, queries: int = 12, top: int = 5
) -> None:
    """Draw ``queries`` rows to a PNG: reference, relative caption, top images, truth framed."""
    chosen = _spread(list(zip(run.queries, rankings, strict=True)), queries)
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
        _paste(sheet, run.dataset.images[query.reference], GAP, y, framed=False)
        text = _wrap(run.relative_captions(query)[0], TEXT - GAP, ImageFont.load_default(15))
        draw.text((2 * GAP + TILE, y + 6), text, INK, ImageFont.load_default(15))
        truth = {*query.ground_truths, query.target}
        for place, image in enumerate(ranking.images[:top]):
            x = retrieved + place * (TILE + GAP)
            _paste(sheet, run.dataset.images[image], x, y, framed=image in truth)
    with atomic(file) as temporary:
        sheet.save(temporary, format="PNG")


def _spread(items: list[tuple[Query, Ranking]], count: int) -> list[tuple[Query, Ranking]]:
    """Return ``count`` items evenly spread over the queries, so that none is hand-picked."""
    step = max(len(items) / count, 1)
    return [items[int(i * step)] for i in range(min(count, len(items)))]


def _paste(sheet: Image.Image, file: Path, x: int, y: int, framed: bool) -> None:
    image = open_image(file)
    image.thumbnail((TILE, TILE))
    if image.width < TILE and image.height < TILE:  # show small images at full tile size
        scale = TILE / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
    sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
    outline, line = (FRAME, 5) if framed else ((200, 200, 200), 1)
    ImageDraw.Draw(sheet).rectangle((x, y, x + TILE - 1, y + TILE - 1), outline=outline, width=line)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
