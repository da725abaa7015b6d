"""How fast the search is at CIRCO's size, against the two bare matrix products A·Gᵀ and B·Gᵀ.

``make bench ARGS=search``: ratios measured in one run, best of some rounds. The gallery is
synthetic: clustered unit vectors; composed features lie near a gallery image, content features near
the composed ones, as captions and edits do.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, RankEnds, Score, increment_ends, normalise
from pipeline.store.features import FeatureFile, write_features
from tests.benchmarks.report import Size, extra_memory, table

Array = NDArray[np.float32]


class ArrayGallery:
    """A gallery in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape: tuple[int, int] = array.shape

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start`` to ``stop``."""
        return self.array[start:stop]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the given rows."""
        return self.array[rows]


def data(queries: int, images: int, width: int) -> tuple[Array, Array, Array]:
    """Return composed and content features (queries, width) and a gallery (images, width)."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(500, width)).astype(np.float32)
    gallery = centres[rng.integers(500, size=images)] + rng.normal(size=(images, width)) * 1.0
    composed = gallery[rng.integers(images, size=queries)] + rng.normal(size=(queries, width))
    content = composed + rng.normal(size=(queries, width)) * 1.0

    def unit(rows: NDArray[Any]) -> Array:
        scaled: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return scaled

    return unit(composed), unit(content), unit(gallery)


def released(a: torch.Tensor, b: torch.Tensor, g: torch.Tensor, k: int) -> torch.Tensor:
    """Rank as SEIZE's released code does: both matrices, clamps on copies, a full sort."""
    after, before = a @ g.T, b @ g.T
    change = after - before
    score = after + 0.13 * change.clone().clamp(min=0) + 2.1 * change.clone().clamp(max=0)
    return score.argsort(dim=1, descending=True)[:, :k]


def best(run: Callable[[], Any], rounds: int) -> float:
    """Return the seconds of the fastest of some runs."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def tables(size: Size) -> Iterator[str]:
    """Measure 800 queries (small: 200) on 123,403 images of 768 dimensions."""
    queries, images, width, k = 800 if size == "full" else 200, 123_403, 768, 50
    a, b, g = data(queries, images, width)
    composed, content, gallery = map(torch.from_numpy, (a, b, g))
    ends = increment_ends(content, composed, 0.13, 2.1)
    store = ArrayGallery(g)

    def bare() -> None:
        for start in range(0, images, 16_384):
            block = gallery[start : start + 16_384]
            _ = composed @ block.T
            _ = content @ block.T

    rounds = 3 if size == "full" else 2
    products = best(bare, rounds)
    ours = best(lambda: top_images(ends, store, k), rounds)
    theirs = best(lambda: released(composed, content, normalise(gallery), k), 1)
    with tempfile.TemporaryDirectory() as folder:
        stored, others = on_disk(g, Path(folder)), increment_ends(content, composed, 2.1, 0.13)
        drops = (content - composed).repeat(960 // queries + 1, 1)[:960]
        by_place = RankEnds(content[:100], composed[:100], 5e-7, 5e-7)
        halves = best(lambda: top_images(ends, stored, k), rounds)
        runs = (
            (f"smaller of two ends, {queries} queries", ends, k),
            (f"larger of two ends, {queries} queries", others, k),
            (f"LDRE's largest drops, {len(drops)} captions", Ends(drops, drops), 5),
            ("rank variant, 100 queries", by_place, k),
        )
        fresh = multiprocessing.get_context("spawn")  # memory that was freed is not given back
        taken = []
        for name, score, count in runs:
            with ProcessPoolExecutor(1, mp_context=fresh) as one:
                taken.append((name, one.submit(memory, score, stored.file, count).result()))
    ways = (
        ("two products", products),
        ("as released", theirs),
        ("seize", ours),
        ("seize, float16 on disk", halves),
    )
    yield table(
        f"Search, {queries} queries, {images:,} images, {width} dimensions, k = {k}, best of "
        f"{rounds} runs",
        ("way", "seconds", "ratio to two products"),
        [(name, f"{seconds:.2f}", f"{seconds / products:.2f}") for name, seconds in ways],
    )
    yield table(
        f"Memory of the search beside {images:,} images in float16 on disk",
        ("score", "extra MB at the peak"),
        [(name, f"{size / 1e6:.0f}") for name, size in taken],
    )


def memory(score: Score, file: Path, k: int) -> int:
    """Return the bytes that a search takes at its peak beside the gallery."""
    stored = FeatureFile(file)
    if isinstance(score, Ends):
        top_images(score.map(itemgetter(slice(2))), stored, k)  # what libraries take once
    return extra_memory(partial(top_images, score, stored, k))


def on_disk(gallery: Array, folder: Path) -> FeatureFile:
    """Write the gallery in float16 and return it memory-mapped."""
    file = folder / "gallery.safetensors"
    names = [str(row) for row in range(len(gallery))]
    write_features(file, names, gallery.astype(np.float16), {})
    return FeatureFile(file)
