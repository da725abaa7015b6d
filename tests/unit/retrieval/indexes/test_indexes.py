"""Searches by an index against the full scan, with real indexes on random galleries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import IndexConfig, RuntimeConfig
from pipeline.errors import InputError, StorageError
from pipeline.retrieval import indexes
from pipeline.retrieval.indexes import certified
from pipeline.retrieval.indexes.base import Members
from pipeline.retrieval.indexes.flat import Flat
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, between, increment_ends, shortest

WEIGHT = st.floats(-3, 3, allow_nan=False)
SEED = st.integers(0, 2**32 - 1)
APPROXIMATE = [kind for kind in indexes.KINDS if kind not in indexes.EXACT]


class ArrayGallery:
    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        return self.array[start:stop]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.array[rows]


def clusters(rng: np.random.Generator, images: int, width: int) -> NDArray[np.float32]:
    """Return unit vectors (images, width) around a few centres."""
    rows = rng.normal(size=(8, width))[rng.integers(8, size=images)]
    rows = rows + rng.normal(size=(images, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def signs(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Return vectors of four halves with signs (count, 16): all inner products are exact."""
    rows = np.zeros((count, 16), dtype=np.float32)
    for row in rows:
        row[rng.choice(16, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return rows


def opened(kind: str, gallery: ArrayGallery, folder: Path, **fields: Any) -> Any:
    settings = IndexConfig(kind=kind, **fields)
    return indexes.KINDS[kind](gallery, settings, folder / f"{kind}-0", RuntimeConfig())


@given(
    seed=SEED,
    weights=st.tuples(WEIGHT, WEIGHT),
    images=st.integers(1, 400),
    k=st.integers(1, 20),
    share=st.sampled_from([1, 8]),
)
@settings(deadline=None, max_examples=200)
def test_ranking_by_an_exact_index_is_the_full_scans(
    seed: int, weights: tuple[float, float], images: int, k: int, share: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery = ArrayGallery(clusters(rng, images, 8))
    content, composed = (torch.from_numpy(clusters(rng, 5, 8)) for _ in range(2))
    ends = increment_ends(content, composed, *weights)
    excluded = torch.from_numpy(rng.integers(-1, images, size=(5, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certified, "SHARE", share)
        patch.setattr(certified, "CANDIDATES", 4 * 8 * 50)
        found = certified.search(ends, gallery, Flat(gallery), k, excluded)
    scores, _ = top_images(ends, gallery, k, excluded=excluded)
    every = ends.scores(torch.from_numpy(gallery.array)).numpy()
    tolerance = 1e-5 * (1 + max(map(abs, weights)))
    np.testing.assert_allclose(found.scores.numpy(), scores.numpy(), atol=tolerance)
    for query in range(5):
        kept = torch.isfinite(found.scores[query])
        rows = found.rows[query][kept].tolist()
        assert (
            len(set(rows))
            == len(rows)
            == min(k, images - len(set(excluded[query].tolist()) - {-1}))
        )
        assert not set(rows) & set(excluded[query].tolist())
        np.testing.assert_allclose(every[query, rows], scores[query][kept], atol=tolerance)


@given(
    seed=SEED,
    weights=st.tuples(*[st.sampled_from([-1.5, -0.5, 0.0, 0.25, 1.0, 2.0])] * 2),
    copies=st.integers(1, 40),
    k=st.integers(1, 20),
)
@settings(deadline=None, max_examples=200)
def test_equal_scores_keep_gallery_order_as_in_the_scan(
    seed: int, weights: tuple[float, float], copies: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    array = np.repeat(signs(rng, 20), copies, axis=0)
    gallery = ArrayGallery(array[rng.permutation(len(array))])
    content, composed = (torch.from_numpy(signs(rng, 4)) for _ in range(2))
    ends = increment_ends(content, composed, *weights)
    excluded = torch.from_numpy(rng.integers(-1, len(array), size=(4, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certified, "SHARE", 1)
        found = certified.search(ends, gallery, Flat(gallery), k, excluded)
    scores, rows = top_images(ends, gallery, k, excluded=excluded)
    kept = torch.isfinite(scores)
    assert torch.equal(found.scores, scores)
    assert torch.equal(found.rows[kept], rows[kept])


@given(SEED, WEIGHT, WEIGHT)
@settings(deadline=None)
def test_every_vector_between_the_ends_bounds_the_score_and_the_shortest_is_shortest(
    seed: int, positive: float, negative: float
) -> None:
    rng = np.random.default_rng(seed)
    content, composed = (torch.from_numpy(clusters(rng, 5, 8)).double() for _ in range(2))
    ends = increment_ends(content, composed, *sorted([positive, negative]))
    gallery = torch.from_numpy(clusters(rng, 100, 8)).double()
    best = shortest(ends)
    for share in np.linspace(0, 1, 11):
        bound = between(ends, torch.full((5,), float(share), dtype=torch.double))
        assert (bound @ gallery.T >= ends.scores(gallery) - 1e-12).all()
        assert (best.norm(dim=1) <= bound.norm(dim=1) + 1e-12).all()
    assert (best @ gallery.T >= ends.scores(gallery) - 1e-12).all()


def test_few_candidates_are_visited_and_none_where_a_scan_costs_less() -> None:
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(clusters(rng, 20_000, 16))
    near = gallery.array[:10] + 0.1 * rng.normal(size=(10, 16)).astype(np.float32)
    ends = increment_ends(
        torch.from_numpy(clusters(rng, 10, 16)), torch.from_numpy(near), 0.13, 2.1
    )
    found = certified.search(ends, gallery, Flat(gallery), 50)
    assert found.scanned == 0
    assert found.visited.max() < 1_000
    small = ArrayGallery(gallery.array[:300])
    assert certified.search(ends, small, Flat(small), 50).scanned == 10


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_approximate_index_finds_nearly_all_and_is_built_once(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(clusters(rng, 5_000, 16).astype(np.float16))
    queries = torch.from_numpy(clusters(rng, 20, 16))
    ends = increment_ends(torch.from_numpy(clusters(rng, 20, 16)), queries, 0.13, 2.1)
    index = opened(kind, gallery, tmp_path)
    found = certified.search(ends, gallery, index, 10)
    _, rows = top_images(ends, gallery, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), rows.tolist(), strict=True)]
    assert sum(shared) / (20 * 10) > 0.95
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.faiss")}
    if kind == "milvus":
        index.client.close()
    again = opened(kind, ArrayGallery(np.full_like(gallery.array, np.nan)), tmp_path)
    scores, _ = again.search(queries.numpy(), 3)
    assert np.isfinite(scores).all()
    assert files == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.faiss")}


@pytest.mark.parametrize("kind", list(indexes.KINDS))
def test_lists_fall_and_are_filled_up_where_the_gallery_ends(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(clusters(rng, 7, 8))
    vectors = clusters(rng, 3, 8)
    scores, rows = opened(kind, gallery, tmp_path).search(vectors, 10)
    assert scores.shape == rows.shape == (3, 10)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    for query in range(3):
        order = np.argsort(-vectors[query] @ gallery.array.T)
        assert rows[query].tolist() == [*order, -1, -1, -1]
        np.testing.assert_allclose(
            scores[query, :7], vectors[query] @ gallery.array[order].T, atol=2e-3
        )
        assert (scores[query, 7:] == -np.inf).all()


def test_milvus_filling_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = clusters(rng, 9_000, 8)
    stopped = array.copy()
    taken: list[int] = []

    class Stopping(ArrayGallery):
        def rows(self, start: int, stop: int) -> NDArray[Any]:
            if start >= 8_000:
                raise KeyboardInterrupt
            return super().rows(start, stop)

    class Counting(ArrayGallery):
        def rows(self, start: int, stop: int) -> NDArray[Any]:
            taken.append(start)
            return super().rows(start, stop)

    with pytest.raises(KeyboardInterrupt):
        opened("milvus", Stopping(stopped), tmp_path)
    index = opened("milvus", Counting(array), tmp_path)
    assert taken == [8_192]
    _, rows = index.search(array[8_500:8_501], 1)
    assert rows.item() == 8_500


def test_milvus_in_a_file_says_that_its_port_is_open_and_notices_what_was_emptied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = clusters(np.random.default_rng(0), 30, 8)
    index = opened("milvus", ArrayGallery(array), tmp_path)
    (said,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "without a password" in said
    assert "--milvus-url" in said
    index.client.delete(index.collection, filter="row >= 0")
    with pytest.raises(StorageError, match="no longer holds the collection"):
        index.search(array[:1], 3)


def test_index_that_cannot_be_used_is_one_line_that_names_it(tmp_path: Path) -> None:
    gallery = ArrayGallery(clusters(np.random.default_rng(0), 100, 8))
    (tmp_path / "faiss-ivf-0.faiss").mkdir()
    with pytest.raises(InputError, match=r"faiss-ivf-0\.faiss"):
        opened("faiss-ivf", gallery, tmp_path)
    settings = IndexConfig(kind="milvus")
    elsewhere = RuntimeConfig(milvus_url="http://localhost:1")
    with pytest.raises(StorageError, match="localhost:1"):
        indexes.KINDS["milvus"](gallery, settings, tmp_path / "milvus-0", elsewhere)


@pytest.mark.parametrize("kind", ["faiss-hnsw", "faiss-ivf"])
def test_a_damaged_index_is_built_again_before_faiss_sees_it(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(clusters(rng, 300, 8))
    queries = clusters(rng, 4, 8)
    _, expected = opened(kind, gallery, tmp_path).search(queries, 5)
    (file,) = tmp_path.glob("*.faiss")
    good = file.read_bytes()
    for place in [*range(0, 60, 7), *rng.integers(0, len(good), 12).tolist()]:
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        for content in (bytes(damaged), good[:place]):
            file.write_bytes(content)
            _, rows = opened(kind, gallery, tmp_path).search(queries, 5)
            np.testing.assert_array_equal(rows, expected)
            assert f"{file} is damaged; it is built again" in caplog.text
            caplog.clear()


def test_gallery_of_some_rows_reads_them_in_order() -> None:
    array = np.arange(20, dtype=np.float32).reshape(10, 2)
    part = Members(ArrayGallery(array), np.array([1, 4, 9]))
    assert part.shape == (3, 2)
    np.testing.assert_array_equal(part.rows(1, 3), array[[4, 9]])
    np.testing.assert_array_equal(part.take(np.array([2, 0])), array[[9, 1]])


def test_a_single_vector_needs_no_second_end() -> None:
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(clusters(rng, 2_000, 8))
    vectors = torch.from_numpy(clusters(rng, 3, 8))
    found = certified.search(Ends(vectors, vectors), gallery, Flat(gallery), 5)
    assert torch.equal(found.rows, top_images(Ends(vectors, vectors), gallery, 5)[1])
