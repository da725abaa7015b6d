"""How fast the search is at CIRCO's size, against FAISS's flat search and bare matrix products.

FAISS searches with one product where SEIZE's score takes two, A·Gᵀ and B·Gᵀ.

``make bench ARGS=search``: ratios measured in one run, best of some rounds in which all ways take
turns. Galleries are synthetic: clustered unit vectors, and ones of a falling spectrum around a
mean, as CLIP's; composed features lie near a gallery image, content features near the composed
ones, as captions and edits do.
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
from unittest.mock import patch

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.retrieval import products, trials
from pipeline.retrieval.products import Product
from pipeline.retrieval.ranking import Gallery, UnitGallery, top_images
from pipeline.retrieval.scoring import Ends, RankEnds, Score, increment_ends, normalise
from pipeline.store.features import FeatureFile, write_features
from tests.benchmarks.report import Size, extra_memory, table

Array = NDArray[np.float32]

RANKED = 100
"""Queries that the rank variant is measured with."""


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
    return best_of(rounds, {"": run})[""][0]


Taken = tuple[float, float]
"""Seconds, and CPU seconds of all threads, which tell more where other work shares the cores."""


def best_of(rounds: int, ways: dict[str, Callable[[], Any]]) -> dict[str, Taken]:
    """Return what each way takes at its best; they take turns, so that all meet the same load."""
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.perf_counter(), time.process_time()
            run()
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            taken[name].append(seconds)
    return {name: (min(wall), min(cpu)) for name, (wall, cpu) in _columns(taken)}


def by_places(
    content: torch.Tensor, composed: torch.Tensor, gallery: torch.Tensor, k: int, rounds: int
) -> dict[str, Taken]:
    """Return what the rank variant takes, first by sorting the gallery twice for every query."""
    score, store = RankEnds(content, composed, 5e-7, 5e-7), ArrayGallery(gallery.numpy())

    def two_products() -> tuple[torch.Tensor, torch.Tensor]:
        return score.similarities(gallery)

    def places(similarity: torch.Tensor) -> torch.Tensor:
        return similarity.argsort(dim=1, descending=True, stable=True).argsort(dim=1)

    def sorted_twice() -> None:
        after, before = two_products()
        score.scores(after, places(before) - places(after)).topk(k, dim=1)

    return best_of(
        rounds,
        {
            "both products, both sorted": sorted_twice,
            "both products alone": two_products,
            "seize": lambda: top_images(score, store, k),
        },
    )


def _columns(taken: dict[str, list[Taken]]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name, rounds in taken.items():
        wall, cpu = zip(*rounds, strict=True)
        yield name, (wall, cpu)


def of_falling_spectrum(queries: int, images: int, width: int) -> tuple[Array, Array, Array]:
    """Return features as ``data`` does, but without clusters, and far from evenly spread.

    The mean takes half of their length, and the variance along the i-th direction falls as 1 / i.
    """
    rng = np.random.default_rng(1)
    spread = (1 / np.sqrt(1 + np.arange(width))).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
    mean = rng.normal(size=width).astype(np.float32)
    mean *= np.linalg.norm(spread) / np.linalg.norm(mean)

    def drawn(rows: int) -> Array:
        made: Array = rng.normal(size=(rows, width)).astype(np.float32) * spread @ turn
        return made

    raw = drawn(images) + mean
    composed = raw[rng.integers(images, size=queries)] + 0.5 * drawn(queries)
    content = composed + 0.7 * drawn(queries)
    found = [normalise(torch.from_numpy(rows)).numpy() for rows in (composed, content, raw)]
    return found[0], found[1], found[2]


def by(kinds: tuple[type[Product], ...], score: Score, gallery: Gallery, k: int) -> None:
    """Search by certain products; by none, in the plain way."""
    with patch.object(trials, "ranked", lambda width: kinds):
        top_images(score, gallery, k)


def tables(size: Size) -> Iterator[str]:
    """Measure 800 queries (small: 400) on 123,403 images (61,000) of 768 dimensions."""
    queries, images, width, k = (
        (800, 123_403, 768, 50) if size == "full" else (400, 61_000, 768, 50)
    )
    rounds = 4 if size == "full" else 2
    a, b, g = data(queries, images, width)
    composed, content, gallery = map(torch.from_numpy, (a, b, g))
    ends = increment_ends(content, composed, 0.13, 2.1)
    others = increment_ends(content, composed, 2.1, 0.13)
    drops = (content - composed).repeat(960 // queries + 1, 1)[:960]
    one = ends.map(itemgetter(slice(1)))
    store, held = ArrayGallery(g), UnitGallery(gallery)
    flat = faiss.IndexFlatIP(width)
    flat.add(g)
    faiss.omp_set_num_threads(torch.get_num_threads())
    start = time.perf_counter()
    first = trials.ranked(width)
    choice = time.perf_counter() - start

    def bare() -> None:
        for start in range(0, images, 16_384):
            block = gallery[start : start + 16_384]
            _ = composed @ block.T
            _ = content @ block.T

    with tempfile.TemporaryDirectory() as folder:
        stored = on_disk(g, Path(folder))
        ways: dict[str, Callable[[], Any]] = {
            "FAISS IndexFlatIP, one product": lambda: flat.search(a, k),
            "two bare products by torch": bare,
            f"seize as here: {', then '.join(kind.name for kind in first)}": lambda: top_images(
                ends, store, k
            ),
            "the same, larger of both ends": lambda: top_images(others, store, k),
            "the same, float16 on disk": lambda: top_images(ends, stored, k),
            f"the same, LDRE's {len(drops)} drops, k = 5": lambda: top_images(
                Ends(drops, drops), store, 5
            ),
            "plain, two products where needed": lambda: by((), ends, store, k),
        }
        for kind in products.PRODUCTS:
            if kind.supported() and trials.holds(kind, width):
                ways[f"by {kind.name} alone"] = partial(by, (kind,), ends, store, k)
        seconds = best_of(rounds, ways)
        seconds |= best_of(
            1, {"as released": lambda: released(composed, content, normalise(gallery), k)}
        )
        single = best_of(
            rounds,
            {
                "FAISS IndexFlatIP, one query": lambda: flat.search(a[:1], k),
                "seize, one query, as the page holds features": lambda: top_images(one, held, k),
                "seize, one query": lambda: top_images(one, store, k),
                "seize, one query, float16 on disk": lambda: top_images(one, stored, k),
            },
        )
        taken = list(_memories(ends, others, drops, content, composed, stored, k))
    columns = "way", "seconds", "ratio to FAISS", "CPU seconds", "ratio to FAISS"
    title = f"{queries} queries, {images:,} images, {width} dimensions, k = {k}, best of {rounds}"
    yield table(
        f"Search, {title}; finding out what is quick took {choice:.2f} s, once",
        columns,
        [*_ratios(seconds), *_ratios(single)],
    )
    a, b, g = of_falling_spectrum(queries, images, width)
    harder = increment_ends(torch.from_numpy(b), torch.from_numpy(a), 0.13, 2.1)
    store, flat = ArrayGallery(g), faiss.IndexFlatIP(width)
    flat.add(g)
    ways = {
        "FAISS IndexFlatIP, one product": lambda: flat.search(a, k),
        "seize as here": lambda: top_images(harder, store, k),
        "plain, two products where needed": lambda: by((), harder, store, k),
    }
    yield table(
        f"The same on features of a falling spectrum, {title}",
        columns,
        _ratios(best_of(rounds, ways)),
    )
    yield table(
        f"Rank variant, {RANKED} of these queries",
        ("way", "seconds", "ratio to sorting", "CPU seconds", "ratio to sorting"),
        _ratios(by_places(content[:RANKED], composed[:RANKED], gallery, k, rounds)),
    )
    yield table(
        f"Memory of the search beside {images:,} images in float16 on disk",
        ("score", "extra MB at the peak"),
        [(name, f"{size / 1e6:.0f}") for name, size in taken],
    )


def _ratios(taken: dict[str, Taken]) -> list[tuple[str, ...]]:
    """Return lines: a way, and both its times with their ratios to the first way's."""
    first = next(iter(taken.values()))
    return [
        (
            name,
            *(cell for own, other in zip(both, first, strict=True) for cell in _cells(own, other)),
        )
        for name, both in taken.items()
    ]


def _cells(seconds: float, other: float) -> tuple[str, str]:
    return f"{seconds:.3f}", f"{seconds / other:.2f}"


def _memories(
    ends: Ends,
    others: Ends,
    drops: torch.Tensor,
    content: torch.Tensor,
    composed: torch.Tensor,
    stored: FeatureFile,
    k: int,
) -> Iterator[tuple[str, int]]:
    """Yield what some searches are called and take at their peak."""
    by_place = RankEnds(content[:RANKED], composed[:RANKED], 5e-7, 5e-7)
    runs = (
        (f"smaller of two ends, {ends.count} queries", ends, k),
        (f"larger of two ends, {ends.count} queries", others, k),
        (f"LDRE's largest drops, {len(drops)} captions", Ends(drops, drops), 5),
        (f"rank variant, {RANKED} queries", by_place, k),
    )
    fresh = multiprocessing.get_context("spawn")  # memory that was freed is not given back
    for name, score, count in runs:
        with ProcessPoolExecutor(1, mp_context=fresh) as one:
            yield name, one.submit(memory, score, stored.file, count).result()


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
