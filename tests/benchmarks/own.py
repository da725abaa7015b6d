"""How long a query of one's own images takes by method, models loaded, on the demo's models.

``make bench ARGS=own``. Every query has another reference image and another text, so that nothing
comes from the cache: the median tells what a person waits for. Index and models are loaded before.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline import config
from pipeline.demo import world
from pipeline.demo.evaluate import held_out_scenes
from pipeline.own.gallery import Gallery
from tests.benchmarks.report import Size, table

METHODS = ("image+text", "lincir", "seize")
QUERIES = {"small": 12, "full": 60}
GALLERY = 500
TEXTS = ("has a dark background", "has one more star", "is striped", "make the circles blue")


def tables(size: Size) -> Iterator[str]:
    """Yield the table: milliseconds a query, elapsed and of the processor."""
    count = QUERIES[size]
    scenes = held_out_scenes(GALLERY + len(METHODS) * count, seed=4)
    with tempfile.TemporaryDirectory() as name:
        photos, others = Path(name) / "photos", Path(name) / "others"
        for place, scene in enumerate(scenes):
            folder = photos if place < GALLERY else others
            folder.mkdir(exist_ok=True)
            world.render(scene, place).save(folder / f"{place:05}.png")
        first = Gallery(photos, config.load("demo"), Path(name) / "cache")
        first.index()
        first.preload()
        pictures = iter(sorted(others.iterdir()))
        rows = []
        for method in METHODS:
            gallery = first.with_search(method=method)
            gallery.query(photos / "00000.png", TEXTS[0])  # whatever is loaded at first
            elapsed, busy = [], []
            for number in range(count):
                picture = next(pictures)
                start, start_busy = time.perf_counter(), time.process_time()
                gallery.query(picture, f"{TEXTS[number % len(TEXTS)]}, variant {number}")
                busy.append(1000 * (time.process_time() - start_busy))
                elapsed.append(1000 * (time.perf_counter() - start))
            row = f"{statistics.median(elapsed):.0f}", f"{statistics.median(busy):.0f}"
            rows.append((f"`{method}`", *row))
    header = ("method", "median, ms", "of the processor, ms")
    yield table(f"{count} queries of new images in a folder of {GALLERY}:", header, rows)
