"""How large the report of 800 queries is, and how fast it is written and opens in Chromium.

``python -m tests.benchmarks.report_page``: a data set in CIRCO's layout with as many queries as its
test split, and annotations as of its val split, whose rankings, captions, edits and features are
synthetic. Its pictures are 640 x 480 JPEGs with edges, texture and noise, whose thumbnails weigh
some percent more than those of the photographs that scikit-image and scikit-learn ship. Ten images
a query, all of them distinct to the report, drawn from fewer files.
"""

import json
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import Browser, sync_playwright

from pipeline import config, datasets
from pipeline.pages import report
from pipeline.records import Ranking
from pipeline.run import Run
from pipeline.stages import caption, edit, embed, search, texts
from pipeline.store.features import write_features
from pipeline.store.jsonl import write_records
from tests.browser import launch, watch

WORDS = (
    "a the man woman dog table street beach with and holding white brown old small large red in of "
    "on near two three people standing sitting grass wooden bicycle window kitchen train sky"
)
CAPTIONS = 15
WIDTH = 64


def picture(rng: np.random.Generator) -> Image.Image:
    """Return a picture of 640 x 480: a gradient, soft shapes with edges, texture, and noise."""
    corners = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((640, 480), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(25):
        x, y = rng.integers(-60, 640), rng.integers(-60, 480)
        w, h = rng.integers(8, 200, 2)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(1))
    rough = np.asarray(image, dtype=np.float32)
    coarse = rng.normal(0, 6, (120, 160, 1)).repeat(4, axis=0).repeat(4, axis=1)
    rough = rough + coarse + rng.normal(0, 6, rough.shape)
    return Image.fromarray(rough.clip(0, 255).astype(np.uint8))


def sentence(rng: np.random.Generator, length: int) -> str:
    """Return ``length`` words."""
    return " ".join(rng.choice(WORDS.split(), length))


def make_run(folder: Path, queries: int, distinct: int) -> Run:
    """Write the data set and every file of the cache that the report reads."""
    rng = np.random.default_rng(0)
    images = queries * 11
    circo = folder / "CIRCO"
    pictures = circo / "COCO2017_unlabeled" / "unlabeled2017"
    pictures.mkdir(parents=True)
    for number in range(distinct):
        picture(rng).save(pictures / f"{number:012d}.jpg", quality=90)
    listing = [{"id": i, "file_name": f"{i % distinct:012d}.jpg"} for i in range(images)]
    _write(
        circo / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": listing}
    )
    entries = [
        {
            "id": i, "reference_img_id": i, "relative_caption": sentence(rng, 11),
            "shared_concept": sentence(rng, 3), "target_img_id": queries + 10 * i,
            "gt_img_ids": [queries + 10 * i, queries + 10 * i + 7],
            "semantic_aspects": ["addition", "negation", "viewpoint"][: 1 + i % 3],
        }
        for i in range(queries)
    ]  # fmt: skip
    _write(circo / "annotations/val.json", entries)
    run = Run(
        datasets.load("circo", "val", folder), config.load("demo"), folder / "cache", folder / "out"
    )
    captions = {image: [sentence(rng, 12) for _ in range(CAPTIONS)] for image in run.references}
    records = caption.record_file(run)
    write_records(
        records.file, records.header, [{"image": i, "captions": c} for i, c in captions.items()]
    )
    by_query = {query.id: captions[query.reference] for query in run.queries}
    edits = [
        pair.record() | {"edited_caption": sentence(rng, 14)} for pair in edit.pairs(run, by_query)
    ]
    write_records(edit.record_file(run).file, edit.header(run), edits)
    write_features(embed.image_file(run), list(run.dataset.images), _unit(rng, images), {})
    distinct = texts.embedded(run)
    write_features(embed.text_file(run), distinct, _unit(rng, len(distinct)), {})
    for name in ("seize", "mean-ensemble"):
        one = run.with_method(name)
        rankings = [
            Ranking(
                query.id,
                tuple(str(queries + 10 * i + int(place)) for place in rng.permutation(10)),
                tuple(np.linspace(0.4, 0.3, 10).tolist()),
            )
            for i, query in enumerate(run.queries)
        ]
        output = search.ranking_file(one)
        write_records(output.file, output.header, map(asdict, rankings))
    return run


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, WIDTH)).astype(np.float32)
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def opening(browser: Browser, file: Path) -> tuple[float, float, Sequence[str]]:
    """Return seconds until the first query's pictures are on screen, seconds to sort by score and
    paint, and what the console said."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    seen = watch(page)
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.locator(".query img").first.wait_for()
    page.evaluate("""() => Promise.all([...document.querySelectorAll(".query img")].slice(0, 11)
        .map((image) => image.decode()))""")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    opened = time.perf_counter() - start
    start = time.perf_counter()
    page.locator("#sort").select_option("score of the first image")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    sorted_in = time.perf_counter() - start
    page.close()
    return opened, sorted_in, seen.errors


@click.command()
@click.option("--queries", default=800, show_default=True)
@click.option("--distinct", default=1000, show_default=True, help="picture files that are made")
@click.option("--rounds", default=5, show_default=True, help="times that each page is opened")
def main(queries: int, distinct: int, rounds: int) -> None:
    """Print size, time to write, and time to open."""
    click.echo(f"{platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        run = make_run(folder, queries, distinct)
        weights = [file.stat().st_size for file in (folder / "CIRCO").rglob("*.jpg")]
        click.echo(
            f"{len(weights)} pictures of {sum(weights) / len(weights) / 1000:.0f} kB on average"
        )
        browser = launch(playwright)
        for label, other in (("one ranking", None), ("--compare", "mean-ensemble")):
            file = folder / f"{label}.html"
            start = time.perf_counter()
            written = report.report(run, file, report.Options(other=other, outputs=folder))
            seconds = time.perf_counter() - start
            times = [opening(browser, file) for _ in range(rounds)]
            opened, ordered = ([one[i] for one in times] for i in (0, 1))
            click.echo(
                f"{label}: {written.queries} queries, {written.images} images, "
                f"{written.bytes / 1e6:.2f} MB, thumbnails of {written.side} pixels, written in "
                f"{seconds:.0f} s; opens in {min(opened):.2f} to {max(opened):.2f} s; sorted in "
                f"{min(ordered):.2f} s; console: {times[0][2] or 'silent'}"
            )
        browser.close()


if __name__ == "__main__":
    main()
