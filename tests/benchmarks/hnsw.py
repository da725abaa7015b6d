"""A graph (HNSW by FAISS) as the gallery grows: recall, time, size; and ten million on paper.

``make bench ARGS="hnsw --size full"``: the narrow clusters of ``clusters.py``, 16 links. A graph of
ten million images takes most of an hour to build on a core, so what it would take is computed from
the exponents of what was measured. Times are of the CPU; run it with OMP_NUM_THREADS=1.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import IndexConfig
from pipeline.retrieval.indexes import certified, faiss
from pipeline.retrieval.ranking import top_images
from tests.benchmarks import growth
from tests.benchmarks.clusters import NARROW, recall, seconds, synthetic
from tests.benchmarks.growth import Measured
from tests.benchmarks.indexes import QUERIES, K
from tests.benchmarks.report import Size, table

SIZES: dict[Size, tuple[int, ...]] = {
    "small": (5_000, 20_000),
    "full": (30_000, 100_000, 300_000),
}
LINKS = 16
BREADTHS = (64, 256, 1024)
ASKED = 10_000_000
"""Images that what was measured is extended to."""


def tables(size: Size) -> Iterator[str]:
    """Measure every size; then the exponents, and ten million."""
    measured: dict[str, list[Measured]] = {}
    yield table(
        f"HNSW with {LINKS} links, narrow clusters, {QUERIES} queries at a time, the {K} best",
        ("images", "breadth", "recall", "CPU ms a query", "of the scan's", "built in CPU s", "MB"),
        _rows(SIZES[size], measured),
    )
    yield growth.exponents("Exponents of growth with the gallery, HNSW", measured)
    yield from growth.extended(measured, ASKED)


def _rows(
    sizes: tuple[int, ...],
    measured: dict[str, list[Measured]],
) -> Iterator[tuple[str, ...]]:
    """Yield the cells of every size and breadth; add what was measured to the lists by name."""
    for images in sizes:
        with tempfile.TemporaryDirectory() as folder:
            features, ends = synthetic(NARROW)(images, Path(folder) / "gallery.npy")
            top_images(ends, features, K)
            scan, (expected, _) = seconds(lambda f=features, e=ends: top_images(e, f, K))
            file = Path(folder) / "one.faiss"
            built = 0.0
            for breadth in BREADTHS:
                settings = IndexConfig(links=LINKS, breadth=breadth)
                took, index = seconds(lambda f=features, s=settings, p=file: faiss.hnsw(f, s, p))
                built = built or took
                certified.search(ends, features, index, K)
                own, found = seconds(
                    lambda e=ends, f=features, i=index: certified.search(e, f, i, K)
                )
                share, stored = recall(found.scores, expected), file.stat().st_size
                label = f"breadth {breadth}"
                query = own / QUERIES
                one = Measured(images, features.shape[1], query, built, stored)
                measured.setdefault(label, []).append(one)
                yield (
                    f"{images:,}",
                    f"{breadth}",
                    f"{share:.3f}",
                    f"{1000 * query:.2f}",
                    f"{own / scan:.3f}",
                    f"{built:.0f}",
                    f"{stored / 1e6:,.0f}",
                )
