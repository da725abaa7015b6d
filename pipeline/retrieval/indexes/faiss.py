"""FAISS on this machine: a graph (HNSW) or clusters (IVF), features kept in float16.

Both are approximate: HNSW is the quicker to search and the slower to build.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import IndexConfig
from pipeline.errors import InputError
from pipeline.retrieval.indexes.base import Rows, Scores, Vectors
from pipeline.retrieval.ranking import Gallery
from pipeline.retrieval.scoring import normalise
from pipeline.run import progress
from pipeline.store.files import atomic, is_ready, lock, seal

BLOCK = 16_384
"""Images added at a time."""

SAMPLES = 64
"""Images a cluster is found from, on average."""


class Faiss:
    """An index read from its file, memory-mapped. ``breadth`` images are tried a query, at least as
    many as are asked for, or ``probes`` clusters.
    """

    exact = False

    def __init__(self, file: Path, breadth: int, probes: int) -> None:
        try:
            self.index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise InputError(f"{file} is no index of FAISS. Delete it: {error}") from None
        self.breadth = breadth
        self.probes = probes

    def search(self, vectors: Vectors, k: int) -> tuple[Scores, Rows]:
        """Return the k largest inner products, as ``Index`` says."""
        scores, rows = self.index.search(vectors, k, params=self._parameters(k))
        return np.where(rows < 0, np.float32("-inf"), scores), rows

    def _parameters(self, k: int) -> Any:
        if isinstance(self.index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self.probes)
        return faiss.SearchParametersHNSW(efSearch=max(self.breadth, k))


def hnsw(gallery: Gallery, settings: IndexConfig, file: Path) -> Faiss:
    """Return the graph in ``file``, built first where it is not there."""
    if not is_ready(file):
        with lock(file):
            if not is_ready(file):
                index = _factory(gallery, f"HNSW{settings.links}_SQfp16")
                index.hnsw.efConstruction = settings.construction
                _fill(index, gallery, file)
    return Faiss(file, settings.breadth, settings.probes)


def ivf(gallery: Gallery, settings: IndexConfig, file: Path) -> Faiss:
    """Return the clusters in ``file``, built first where they are not there.

    A sample of the gallery, evenly spaced, says where the clusters are; it is held in memory.
    """
    if not is_ready(file):
        with lock(file):
            if not is_ready(file):
                images = gallery.shape[0]
                lists = settings.lists or round(4 * images**0.5)
                lists = max(1, min(lists, images // SAMPLES))
                index = _factory(gallery, f"IVF{lists},SQfp16")
                count = min(images, lists * SAMPLES)
                index.train(_features(gallery.take(np.arange(count) * images // count)))
                _fill(index, gallery, file)
    return Faiss(file, settings.breadth, settings.probes)


def _factory(gallery: Gallery, description: str) -> Any:
    return faiss.index_factory(gallery.shape[1], description, faiss.METRIC_INNER_PRODUCT)


def _fill(index: Any, gallery: Gallery, file: Path) -> None:
    """Add every image to ``index`` and write it, completely or not at all."""
    images = gallery.shape[0]
    with progress(images, 0, "image", "build the index") as bar:
        for start in range(0, images, BLOCK):
            block = _features(gallery.rows(start, min(start + BLOCK, images)))
            index.add(block)
            bar.update(len(block))
    with atomic(file) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:
            raise OSError(str(error)) from None
        seal(temporary)


def _features(rows: NDArray[np.floating[Any]]) -> Vectors:
    features: Vectors = normalise(torch.from_numpy(rows).float()).numpy()
    return features
