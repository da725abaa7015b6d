"""How a gallery lies on disk in clusters: what ``clusters.py`` searches.

Images are ordered by their cluster, and within a cluster from its rim to its centre. Each is stored
as the difference from its centre along the principal axes of all such differences, in float16: the
first coordinates, ``heads``, apart from the others, ``tails``. FAISS finds the centres (k-means).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.retrieval.indexes.base import Rows, Vectors
from pipeline.retrieval.ranking import Gallery
from pipeline.retrieval.scoring import normalise
from pipeline.run import progress
from pipeline.store.files import atomic, seal

BLOCK = 16_384
"""Images read at a time."""

SAMPLES = 32
"""Images a centre is found from, on average."""

REST = 0.3
"""Share of the variance about the centres that heads leave to tails, at most."""

SEGMENTS = 8
"""Parts of equal size that a cluster is cut into, from its rim inwards; each has its own angle."""

TOGETHER = 32
"""Images that are read together where a query needs few: arrays end at a multiple."""

ALIGNMENT = 64
"""Bytes that every array on disk starts at a multiple of."""

ARRAYS = ("axes", "centres", "starts", "angles", "radius", "rows", "heads", "tails")


class Layout:
    """A gallery in clusters, memory-mapped. Raises InputError for a file that is none.

    Attributes: ``axes`` float32 (d, d), principal axes as columns; ``centres`` float32 (clusters,
    d), along them; ``starts`` int64 (clusters + 1), where each cluster's images start; ``angles``
    float64 (clusters, SEGMENTS), at most which the segment's images and all after them lie from the
    centre's direction, in radians; ``radius`` float64 (1), no image's distance from its centre is
    larger; ``rows`` int64 (images), the gallery row of each; ``heads`` float16 (images, h + 1), the
    first h coordinates less the centre's and, rounded up, the length of the others; ``tails``
    float16 (images, d - h), the others.
    """

    def __init__(self, file: Path) -> None:
        try:
            with file.open("rb") as stream:
                found = dict(zip(ARRAYS, (_mapped(stream) for _ in ARRAYS), strict=True))
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is no index of clusters. Delete it: {error}") from None
        small = {name: np.array(found[name]) for name in ("axes", "centres", "starts", "angles")}
        self.axes: Vectors = small["axes"]
        self.centres: Vectors = small["centres"]
        self.starts: Rows = small["starts"]
        self.angles: NDArray[np.float64] = small["angles"]
        self.radius = float(found["radius"][0])
        self.rows: Rows = found["rows"]
        self.heads: NDArray[np.float16] = found["heads"]
        self.tails: NDArray[np.float16] = found["tails"]


def directions(centres: NDArray[Any]) -> NDArray[np.float64]:
    """Return the centres (n, d) at length 1; any direction will do for one without."""
    wide = centres.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    nowhere = np.eye(1, centres.shape[1])
    return np.where(length > 1e-12, wide / np.maximum(length, 1e-12), nowhere)


def error(width: int) -> float:
    """Return how far a float32 inner product of unit vectors of ``width`` can be off.

    At most d·2⁻²⁴ in whatever order (Higham, Accuracy and Stability of Numerical Algorithms, 3.1);
    twice, since axes turn them first, and a few for normalising.
    """
    return 2 * (width + 8) * 2.0**-24


def build(gallery: Gallery, clusters: int | None, file: Path) -> None:
    """Write the layout of a gallery, completely or not at all.

    Memory holds a sample of the gallery, evenly spaced, and 20 bytes an image.
    """
    images, width = gallery.shape
    count = min(clusters or round(4 * images**0.5), images)
    sampled = min(images, count * SAMPLES)
    sample = _features(gallery.take(np.arange(sampled) * images // sampled))
    centres = _centres(sample, count)
    nearest = faiss.IndexFlatL2(width)
    nearest.add(centres)
    axes, head = _axes(sample - centres[nearest.search(sample, 1)[1][:, 0]])
    del sample
    with progress(2 * images, 0, "image", "build the index") as bar:
        member, angle = np.empty(images, np.int32), np.empty(images, np.float64)
        towards = directions(centres)
        for start, block in _blocks(gallery):
            own = nearest.search(block, 1)[1][:, 0]
            member[start : start + len(block)] = own
            angle[start : start + len(block)] = _angles(block, towards[own])
            bar.update(len(block))
        order = np.lexsort((-angle, member))
        starts = np.searchsorted(member[order], np.arange(count + 1))
        turned = (centres.astype(np.float64) @ axes).astype(np.float32)
        with atomic(file) as temporary:
            with temporary.open("w+b") as stream:
                for array in (axes, turned, starts, _rims(angle[order], starts)):
                    _put(stream, array)
                place = stream.tell()
                _put(stream, np.zeros(1))
                _put(stream, order)
                room = -(-images // TOGETHER) * TOGETHER
                heads = _room(stream, np.float16, (room, head + 1))
                tails = _room(stream, np.float16, (room, width - head))
                stream.flush()
                radius = 0.0
                written = [_opened(temporary, *array) for array in (heads, tails)]
                for start in range(0, images, BLOCK):
                    chosen = order[start : start + BLOCK]
                    block = _features(gallery.take(chosen)) @ axes - turned[member[chosen]]
                    part = slice(start, start + len(chosen))
                    written[0][part], written[1][part] = _split(block, head)
                    radius = max(radius, float(np.linalg.norm(block, axis=1).max()))
                    bar.update(len(chosen))
                for mapped in written:
                    mapped.flush()
                stream.seek(place)
                _put(stream, np.array([radius]))
            seal(temporary)


def _centres(sample: Vectors, count: int) -> Vectors:
    """Return the centres (count, d) of clusters of a sample, always the same."""
    means = faiss.Kmeans(
        sample.shape[1],
        count,
        niter=6,
        seed=1,
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLES,
    )
    means.train(sample)
    found: Vectors = means.centroids
    return found


def _axes(differences: Vectors) -> tuple[Vectors, int]:
    """Return the principal axes of differences (n, d), and how many of them the heads have.

    With the length of the others a head has a multiple of eight numbers, where there are so many.
    """
    width = differences.shape[1]
    values, vectors = np.linalg.eigh(differences.T.astype(np.float64) @ differences)
    share = np.cumsum(values[::-1]) / max(float(values.sum()), 1e-30)
    enough = int(np.searchsorted(share, 1 - REST)) + 1
    head = min(width - 1, -(-(enough + 1) // 8) * 8 - 1)
    return np.ascontiguousarray(vectors[:, ::-1], np.float32), max(head, 0)


def _split(block: Vectors, head: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return heads (n, head + 1) and tails (n, d - head) of differences along the axes (n, d)."""
    tails = block[:, head:].astype(np.float16)
    length = np.linalg.norm(block[:, head:].astype(np.float64), axis=1)
    rest = length.astype(np.float16)
    rest = np.where(rest < length, np.nextafter(rest, np.float16(np.inf)), rest)
    return np.column_stack([block[:, :head].astype(np.float16), rest]), tails


def _angles(block: Vectors, towards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles (n) between unit vectors and directions, rounding allowed for.

    A feature of zeros has every angle at once: the largest.
    """
    cosine = np.einsum("ij,ij->i", block.astype(np.float64), towards) - error(block.shape[1])
    found: NDArray[np.float64] = np.arccos(np.clip(cosine, -1, 1))
    return np.where(block.any(axis=1), found, np.pi)


def _rims(angle: NDArray[np.float64], starts: Rows) -> NDArray[np.float64]:
    """Return the first angle of each cluster's segments; -1, which nothing reaches, for none."""
    sizes = np.diff(starts)
    first = starts[:-1, None] + sizes[:, None] * np.arange(SEGMENTS) // SEGMENTS
    rims: NDArray[np.float64] = angle[np.minimum(first, len(angle) - 1)]
    return np.where(sizes[:, None] > 0, rims, -1.0)


def _blocks(gallery: Gallery) -> Iterator[tuple[int, Vectors]]:
    for start in range(0, gallery.shape[0], BLOCK):
        yield start, _features(gallery.rows(start, min(start + BLOCK, gallery.shape[0])))


def _features(rows: NDArray[np.floating[Any]]) -> Vectors:
    features: Vectors = normalise(torch.from_numpy(rows).float()).numpy()
    return features


def _align(stream: BinaryIO) -> None:
    stream.seek(-(-stream.tell() // ALIGNMENT) * ALIGNMENT)


def _put(stream: BinaryIO, array: NDArray[Any]) -> None:
    """Write an array in numpy's own format."""
    _align(stream)
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def _room(stream: BinaryIO, dtype: Any, shape: tuple[int, int]) -> tuple[Any, tuple[int, int], int]:
    """Make room for an array; return its dtype, shape and offset."""
    _align(stream)
    described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    offset = stream.tell()
    stream.truncate(offset + np.dtype(dtype).itemsize * shape[0] * shape[1])
    stream.seek(0, 2)
    return dtype, shape, offset


def _opened(file: Path, dtype: Any, shape: tuple[int, int], offset: int) -> np.memmap[Any, Any]:
    return np.memmap(file, dtype, mode="r+", offset=offset, shape=shape)


def _mapped(stream: BinaryIO) -> NDArray[Any]:
    """Return the next array of a file, memory-mapped; ValueError where there is none."""
    _align(stream)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    offset = stream.tell()
    array = np.memmap(stream, dtype, mode="c", offset=offset, shape=shape)
    stream.seek(offset + array.nbytes)
    return np.asarray(array)  # whose slices cost a tenth of a memmap's
