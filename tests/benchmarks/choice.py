"""Clusters or the scan: what ``--index clusters`` chooses, and what that takes.

``make bench ARGS="choice --size full"``: a hundred thousand images of the kinds of ``clusters.py``,
and of 768 dimensions whose spectrum falls. The scan, clusters without a choice and clusters as they
are take turns, the best of three counts. Times are of the CPU; run it with OMP_NUM_THREADS=1.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from pipeline.config import IndexConfig
from pipeline.errors import SeizeError
from pipeline.retrieval.files import Features
from pipeline.retrieval.indexes import certified, clusters
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, increment_ends
from tests.benchmarks.clusters import NARROW, Make, demo, recall, seconds, synthetic
from tests.benchmarks.indexes import QUERIES, K
from tests.benchmarks.report import Size, table
from tests.benchmarks.search import of_falling_spectrum

SIZES: dict[Size, int] = {"small": 5_000, "full": 100_000}
ASKED = (1, 16, QUERIES)
ROUNDS = 3


def falling(images: int, file: Path) -> tuple[Features, Ends]:
    """Write features of 768 dimensions in float16, and return them with queries."""
    composed, content, raw = of_falling_spectrum(QUERIES, images, 768)
    np.save(file, raw.astype(np.float16))
    return Features(file), increment_ends(
        torch.from_numpy(content), torch.from_numpy(composed), 0.13, 2.1
    )


def tables(size: Size) -> Iterator[str]:
    """Measure every kind of features, by how many queries are asked at a time."""
    kinds: dict[str, Make] = {
        "narrow clusters": synthetic(NARROW),
        "wide clusters": synthetic(1.0),
    }
    with contextlib.suppress(SeizeError):
        kinds["the demo's CLIP"] = demo()[1]
    kinds["falling spectrum, 768 dimensions"] = falling
    yield table(
        f"What `--index clusters` chooses, {SIZES[size]:,} images, the {K} best",
        (
            "features",
            "queries at a time",
            "chosen",
            "recall",
            "CPU ms a query",
            "of the scan's",
            "clusters without a choice, of the scan's",
        ),
        (row for name, make in kinds.items() for row in _rows(name, make, SIZES[size])),
    )


def _rows(name: str, make: Make, images: int) -> Iterator[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        features, every = make(images, Path(folder) / "gallery.npy")
        index = clusters.opened(features, IndexConfig(), Path(folder) / "one.clusters")
        for asked in ASKED:
            ends = every.map(itemgetter(slice(0, asked)))
            by_clusters = partial(certified.search, ends, features, index, K)
            times = []
            for _ in range(ROUNDS):
                scan, (expected, _) = seconds(partial(top_images, ends, features, K))
                own, found = seconds(by_clusters)
                with mock.patch.object(clusters, "FEWEST", asked + 1):
                    alone, _ = seconds(by_clusters)
                times.append((scan, own, alone))
            scan, own, alone = (min(each) for each in zip(*times, strict=True))
            yield (
                name,
                f"{asked}",
                "scan" if found.scanned else "clusters",
                f"{recall(found.scores, expected):.4f}",
                f"{1000 * own / asked:.2f}",
                f"{own / scan:.2f}",
                f"{alone / scan:.2f}",
            )
