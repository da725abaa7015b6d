"""Indexes against the scan: recall@50, images visited, time and size as the gallery grows.

``make bench ARGS="indexes --size full"``. Galleries are synthetic: a thousand clusters of
unit vectors whose variance falls from dimension to dimension as 1/i, as that of real features does
along their principal axes; in float16 on disk, memory-mapped; 64 dimensions, so that ten million
images stay below 10 GB with all of their indexes. SEIZE's score at CIRCO's released weights.

Times are of the CPU, all threads together, so that they hold on a machine that is shared. Run it
with OMP_NUM_THREADS=1, or threads that wait for each other count too.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from milvus_lite.server_manager import server_manager_instance
from torch import Tensor

from pipeline.config import IndexConfig, RuntimeConfig
from pipeline.retrieval import indexes
from pipeline.retrieval.files import Features
from pipeline.retrieval.indexes import certified
from pipeline.retrieval.indexes.flat import Flat
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, between, increment_ends, normalise, shortest
from tests.benchmarks.report import Size, table

WIDTH = 64
CLUSTERS = 1_000
DEVIATIONS = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
QUERIES = 100
K = 50
SIZES: dict[Size, tuple[int, ...]] = {"small": (20_000,), "full": (100_000, 1_000_000, 10_000_000)}

TRIALS = (
    ("flat", {}),
    ("clusters", {}),
    ("faiss-ivf", {"probes": 16}),
    ("faiss-ivf", {"probes": 64}),
    ("faiss-ivf", {"probes": 256}),
    ("faiss-hnsw", {"breadth": 128}),
    ("faiss-hnsw", {"breadth": 256}),
    ("faiss-hnsw", {"breadth": 1024}),
    ("milvus", {"breadth": 256}),
)
"""Kinds and what is tried a query; those of one kind share what was built."""

LARGEST = {"faiss-hnsw": 1_000_000, "milvus": 100_000}
"""Building a graph of ten million images takes hours on two cores. Milvus in a file is for small
galleries: with a million images it took minutes to fill, and minutes more to close."""


def gallery(images: int, file: Path, spread: float = 1.0) -> Features:
    """Write a gallery of float16 features (images, WIDTH) block by block, and open it.

    ``spread`` is how wide a cluster is, as a share of how far centres lie apart.
    """
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, WIDTH), dtype=np.float32) * DEVIATIONS
    array = np.lib.format.open_memmap(file, "w+", np.float16, (images, WIDTH))
    for start in range(0, images, 65_536):
        count = min(65_536, images - start)
        rows = centres[rng.integers(CLUSTERS, size=count)]
        rows += rng.standard_normal((count, WIDTH), dtype=np.float32) * (spread * DEVIATIONS)
        array[start : start + count] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    array.flush()
    del array
    return Features(file)


def ends_near(images: Features) -> Ends:
    """Return queries whose composed features lie near some images, and content near composed."""
    rng = np.random.default_rng(1)
    near = images.take(np.sort(rng.choice(images.shape[0], QUERIES, replace=False)))
    noise = rng.standard_normal((2, QUERIES, WIDTH), dtype=np.float32) * DEVIATIONS / 3
    composed = near.astype(np.float32) + noise[0]
    content = composed + noise[1]
    unit = (normalise(torch.from_numpy(rows)) for rows in (content, composed))
    return increment_ends(*unit, 0.13, 2.1)


def tables(size: Size) -> Iterator[str]:
    """Measure one gallery size after the other; a table each."""
    for images in SIZES[size]:
        with tempfile.TemporaryDirectory() as folder:
            features = gallery(images, Path(folder) / "gallery.npy")
            ends = ends_near(features)
            if images == SIZES[size][0]:
                yield _lists_needed(ends, features)
            rows = list(_rows(ends, features, Path(folder)))
            server_manager_instance.release_all()  # or it writes into the folder at the end
        yield table(
            f"Indexes of {images:,} images, {QUERIES} queries at a time, {WIDTH} dimensions",
            (
                "index",
                "recall@50",
                "visited a query",
                "scanned",
                "CPU ms a query",
                "of the scan's",
                "built in CPU s",
                "MB",
            ),
            rows,
        )


def _rows(ends: Ends, features: Features, folder: Path) -> Iterator[tuple[str, ...]]:
    images = features.shape[0]
    top_images(ends, features, K)  # reads the gallery into the page cache once
    start = time.process_time()
    _, expected = top_images(ends, features, K)
    scan = time.process_time() - start
    size = features.file.stat().st_size / 1e6
    milliseconds = f"{1000 * scan / QUERIES:.2f}"
    yield "scan", "1.000", f"{images:,}", "all", milliseconds, "1.000", "", f"{size:.0f}"
    built: dict[str, float] = {}
    for kind, effort in TRIALS:
        if images > LARGEST.get(kind, images):
            continue
        settings = IndexConfig(kind=kind, **effort)
        file = folder / f"{kind}-0"
        start = time.process_time()
        index = indexes.KINDS[kind](features, settings, file, RuntimeConfig(device="cpu"))
        built.setdefault(kind, time.process_time() - start)
        certified.search(ends, features, index, K)
        start = time.process_time()
        found = certified.search(ends, features, index, K)
        seconds = time.process_time() - start
        shared = [np.isin(a, b).sum() for a, b in zip(found.rows, expected, strict=True)]
        files = [path for path in folder.rglob("*") if path.is_file() and kind in str(path)]
        yield (
            " ".join([kind, *(f"{name} {value}" for name, value in effort.items())]),
            f"{sum(shared) / (QUERIES * K):.3f}",
            f"{found.visited.mean():,.0f}",
            str(found.scanned),
            f"{1000 * seconds / QUERIES:.2f}",
            f"{seconds / scan:.3f}",
            f"{built[kind]:.0f}" if kind != "flat" else "",
            f"{sum(path.stat().st_size for path in files) / 1e6:.0f}" if files else "",
        )


def _lists_needed(ends: Ends, features: Features) -> str:
    """Return how long a list must be for the certificate, by the vector that it is a list for."""
    found = certified.search(ends, features, Flat(features), K).scores[:, -1:]
    every = features.all()

    def needed(bound: Tensor) -> tuple[str, str, str]:
        counts = (bound @ every.T >= found).sum(dim=1).float()
        middle, most = counts.quantile(torch.tensor([0.5, 0.95])).tolist()
        return f"{counts.mean():.1f}", f"{middle:.0f}", f"{most:.0f}"

    shares = torch.linspace(0, 1, 5).tolist()
    rows = [
        (f"λ = {share:g}", *needed(between(ends, torch.full((QUERIES,), share))))
        for share in shares
    ]
    rows.append(("the shortest", *needed(shortest(ends))))
    return table(
        f"List that the certificate needs for the {K} best of {features.shape[0]:,} images, by "
        "λ of λq⁺ + (1 − λ)q⁻",
        ("vector", "mean", "median", "95 % of queries at most"),
        rows,
    )
