"""Exact search by clusters against the scan as the gallery grows, and a plan for a billion images.

``make bench ARGS="clusters --size full"``. Three kinds of features, in float16 on disk:

- narrow clusters: a thousand, a third as wide as their centres lie apart, 64 dimensions whose
  variance falls as 1/i;
- wide clusters: the same, as wide as their centres lie apart, so that they overlap;
- the demo's CLIP: its gallery of CIRCO, tiled with noise. An image is drawn from the 6,000, its
  difference from the mean shrunk to half of the variance, and noise with the covariance of all
  6,000 makes up the other half, so the spectrum is the measured one. Queries are the demo's own,
  of captions and edits, by SEIZE. After ``make demo``; left out without.

Times are of the CPU, all threads together; run it with OMP_NUM_THREADS=1. Scan and clusters take
turns, the best of some rounds counts.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline import config, datasets
from pipeline.config import IndexConfig
from pipeline.errors import SeizeError
from pipeline.retrieval import methods
from pipeline.retrieval.files import Features
from pipeline.retrieval.indexes import certified, clusters
from pipeline.retrieval.indexes.layout import SEGMENTS
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, normalise, shortest
from pipeline.run import Run
from pipeline.stages.inputs import Inputs
from tests.benchmarks import growth, indexes
from tests.benchmarks.growth import Measured
from tests.benchmarks.indexes import QUERIES, K
from tests.benchmarks.report import Size, table
from tests.documents import PROJECT

SIZES: dict[Size, tuple[int, ...]] = {
    "small": (5_000, 20_000),
    "full": (100_000, 1_000_000, 10_000_000),
}
log = logging.getLogger("seize")

ASKED = 10_000_000
"""Images that what was measured of fewer is extended to."""

ALONE = 10
"""Queries that are also asked one by one."""

NARROW = 1 / 3
BLOCK = 65_536

Make = Callable[[int, Path], tuple[Features, Ends]]
"""Writes a gallery of some images and returns it with queries."""


def synthetic(spread: float) -> Make:
    """Return how to make clusters of some spread."""

    def make(images: int, file: Path) -> tuple[Features, Ends]:
        features = indexes.gallery(images, file, spread)
        return features, indexes.ends_near(features)

    return make


def demo() -> tuple[str, Make]:
    """Return what is known of the spectrum of the demo's features, and how to make more of them.

    Raises SeizeError where the demo was not run.
    """
    loaded = datasets.load("circo", "val", PROJECT / "data" / "demo")
    run = Run(loaded, config.load("demo"), PROJECT / "cache", PROJECT / "submissions")
    inputs = Inputs(run.with_method("seize"))
    score = methods.score(inputs.run.config, "seize", "circo", inputs.clues)
    assert isinstance(score, Ends)
    own = inputs.images.all().astype(np.float32)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    mean = own.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(own - mean, rowvar=False))
    values = values[::-1].clip(min=0)
    shares = np.cumsum(values) / values.sum()
    held = ", ".join(
        f"{np.searchsorted(shares, share) + 1} have {share:.0%}" for share in (0.5, 0.9, 0.99)
    )
    said = (
        f"The demo's spectrum: of {own.shape[1]} principal axes {held} of the variance; "
        f"(Σσ²)² / Σσ⁴ = {values.sum() ** 2 / (values**2).sum():.1f}; the mean's length is "
        f"{np.linalg.norm(mean):.2f}."
    )
    mixing = (axes[:, ::-1] * np.sqrt(values / 2)).T.astype(np.float32)

    def make(images: int, file: Path) -> tuple[Features, Ends]:
        rng = np.random.default_rng(0)
        array = np.lib.format.open_memmap(file, "w+", np.float16, (images, own.shape[1]))
        for start in range(0, images, BLOCK):
            count = min(BLOCK, images - start)
            rows = mean + (own[rng.integers(len(own), size=count)] - mean) * np.float32(0.5**0.5)
            rows += rng.standard_normal((count, own.shape[1]), dtype=np.float32) @ mixing
            array[start : start + count] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        array.flush()
        del array
        return Features(file), score.map(itemgetter(slice(0, QUERIES)))

    return said, make


def tables(size: Size) -> Iterator[str]:
    """Measure every kind of features at every size, a table each; then exponents and the plan."""
    kinds: dict[str, Make] = {"narrow clusters": synthetic(NARROW), "wide clusters": synthetic(1.0)}
    said = "Of the demo's CLIP nothing was measured: run `make demo` first."
    with contextlib.suppress(SeizeError):
        said, kinds["the demo's CLIP"] = demo()
    scans: dict[str, list[Measured]] = {}
    found: dict[str, list[Measured]] = {}
    for name, make in kinds.items():
        yield table(
            f"`--index clusters` against the scan, {name}, {QUERIES} queries at a time, the {K} "
            "best",
            (
                "images",
                "recall",
                "anything read of",
                "read in full",
                "CPU ms a query",
                "of the scan's",
                "one query alone, of the scan's",
                "built in CPU s",
                "MB",
            ),
            _rows(make, SIZES[size], scans.setdefault(name, []), found.setdefault(name, [])),
        )
    yield f"{said}\n"
    yield _angles(kinds, SIZES[size][0])
    yield growth.exponents("Exponents of growth with the gallery, `--index clusters`", found)
    yield from growth.extended(found, ASKED)
    yield growth.plan(
        {f"scan, {name}": one for name, one in scans.items()}
        | {f"clusters, {name}": one for name, one in found.items()}
    )


def _angles(kinds: dict[str, Make], images: int) -> str:
    """Return where the best images and the clusters lie: why much or little has to be read."""
    rows = []
    for name, make in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            features, ends = make(images, Path(folder) / "gallery.npy")
            index = clusters.opened(features, IndexConfig(), Path(folder) / "one.clusters")
            last = certified.search(ends, features, index, K).scores[:, -1]
            vectors = shortest(ends)
            cosine = (last / vectors.norm(dim=1)).numpy()
            turned = normalise(vectors).numpy() @ index.layout.axes
        sizes = np.diff(index.layout.starts)
        rim, middle = (np.repeat(index.layout.angles[:, i], sizes) for i in (0, SEGMENTS // 2))
        centres = np.arccos((turned @ index.directions.T).clip(-1, 1))
        degrees = [np.arccos(cosine), centres, rim, middle]
        rows.append((name, *(f"{np.degrees(np.median(one)):.0f}°" for one in degrees)))
    return table(
        f"Angles, medians, of {images:,} images: a cluster is left out where its centre lies "
        f"farther from the query's vector than the {K}th best image and its rim together",
        ("features", f"{K}th best", "centres", "rim", "half of a cluster's images within"),
        rows,
    )


def _rows(
    make: Make, sizes: Sequence[int], scans: list[Measured], found: list[Measured]
) -> Iterator[list[str]]:
    """Yield the cells of every size; add what was measured to both lists."""
    for images in sizes:
        with tempfile.TemporaryDirectory() as folder:
            features, ends = make(images, Path(folder) / "gallery.npy")
            scan, own, row = _measured(features, ends, Path(folder) / "one.clusters")
        scans.append(scan)
        found.append(own)
        log.info("%s: %s", f"{images:,} images", ", ".join(row))
        yield [f"{images:,}", *row]


def _measured(features: Features, ends: Ends, file: Path) -> tuple[Measured, Measured, list[str]]:
    images, width = features.shape
    _, first = seconds(lambda: top_images(ends, features, K))
    built, index = seconds(lambda: clusters.opened(features, IndexConfig(), file))
    certified.search(ends, features, index, K)  # reads it into the page cache
    index.read = 0
    times = []
    for _ in range(3 if images <= 1_000_000 else 1):
        scan, _ = seconds(lambda: top_images(ends, features, K))
        own, found = seconds(lambda: certified.search(ends, features, index, K))
        times.append((scan, own))
    read = index.read / len(times) / ends.count
    scan, own = (min(each) / ends.count for each in zip(*times, strict=True))
    expected: Tensor = first[0]
    alone = [ends.map(itemgetter(slice(i, i + 1))) for i in range(ALONE)]
    one_scan, _ = seconds(lambda: [top_images(one, features, K) for one in alone])
    one_own, _ = seconds(lambda: [certified.search(one, features, index, K) for one in alone])
    size = file.stat().st_size
    row = [
        f"{recall(found.scores, expected):.4f}",
        f"{read / images:.2%}",
        f"{found.visited.mean() / images:.3%}",
        f"{1000 * own:.2f}",
        f"{own / scan:.3f}",
        f"{one_own / one_scan:.3f}",
        f"{built:.0f}",
        f"{size / 1e6:,.0f}",
    ]
    scanning = Measured(images, width, scan, 0, images * width * 2)
    mine = Measured(images, width, own, built, size, read, float(found.visited.mean()))
    return scanning, mine, row


def recall(scores: Tensor, expected: Tensor) -> float:
    """Return the share of the scan's best images that were found, by their scores.

    To rounding: of images with equal scores either may be the last.
    """
    return (scores >= expected[:, -1:] - 1e-6).float().mean().item()


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds of the CPU ``run`` takes, and what it returns."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result
