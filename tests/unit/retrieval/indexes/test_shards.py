"""Indexes in parts against the full scan and against what one index finds."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import IndexConfig, RuntimeConfig
from pipeline.retrieval import indexes
from pipeline.retrieval.indexes import certified, shards
from pipeline.retrieval.indexes.base import Index, spans
from pipeline.retrieval.indexes.milvus import Milvus, partition
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import increment_ends
from tests.unit.retrieval.indexes.test_indexes import SEED, ArrayGallery, clusters, signs


@given(images=st.integers(1, 1_000), shards=st.integers(1, 50))
def test_spans_cover_all_images_in_parts_of_equal_size(images: int, shards: int) -> None:
    bounds = spans(images, shards)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1], len(sizes)) == (0, images, min(images, shards))
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def opened(kind: str, gallery: ArrayGallery, count: int, folder: Path) -> Index:
    config = IndexConfig(kind=kind, shards=count)
    file = folder / f"{kind}-0"
    return shards.opened(indexes.KINDS[kind], gallery, config, file, RuntimeConfig())


@given(
    seed=SEED,
    kind=st.sampled_from(["flat", "clusters"]),
    weights=st.sampled_from([(0.25, 2.0), (1.0, -0.5), (0.0, 0.0)]),
    images=st.integers(1, 300),
    count=st.integers(1, 7),
    k=st.integers(1, 20),
)
@settings(deadline=None, max_examples=40)
def test_exact_shards_together_rank_as_the_scan_does_equal_scores_too(
    seed: int, kind: str, weights: tuple[float, float], images: int, count: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery = ArrayGallery(signs(rng, 40)[rng.integers(40, size=images)])
    content, composed = (torch.from_numpy(signs(rng, 4)) for _ in range(2))
    ends = increment_ends(content, composed, *weights)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(certified, "SHARE", 1)
        index = opened(kind, gallery, count, Path(folder))
        assert index.exact
        found = certified.search(ends, gallery, index, k)
    scores, rows = top_images(ends, gallery, k)
    assert torch.equal(found.scores, scores)
    assert torch.equal(found.rows, rows)


@pytest.mark.parametrize("kind", ["clusters", "faiss-ivf", "faiss-hnsw"])
def test_each_shard_has_a_file_and_only_a_lost_one_is_built_again(
    kind: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(clusters(rng, 3_000, 16))
    queries = clusters(rng, 10, 16)
    scores, rows = opened(kind, gallery, 3, tmp_path).search(queries, 10)
    best = -np.sort(-queries @ gallery.array.T, axis=1)[:, :10]
    assert (scores >= best[:, -1:] - 2e-3).mean() > 0.95
    np.testing.assert_allclose(
        scores, np.einsum("qd,qkd->qk", queries, gallery.array[rows]), atol=2e-3
    )
    files = sorted(tmp_path.glob(f"{kind}-*"))
    assert [file.stem for file in files] == [f"{kind}-0-{i}-of-3" for i in (1, 2, 3)]
    before = {file: file.stat().st_mtime_ns for file in files}
    files[1].unlink()
    taken: list[Any] = []

    class Watched(ArrayGallery):
        def rows(self, start: int, stop: int) -> Any:
            taken.append((start, stop))
            return super().rows(start, stop)

    _, again = opened(kind, Watched(gallery.array), 3, tmp_path).search(queries, 10)
    np.testing.assert_array_equal(again, rows)
    assert taken
    assert all(1_000 <= start < stop <= 2_000 for start, stop in taken)
    after = {file: file.stat().st_mtime_ns for file in files}
    assert [after[file] == before[file] for file in files] == [True, False, True]


def test_milvus_keeps_shards_as_partitions_and_fills_on_where_it_was_stopped(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(clusters(rng, 180, 16))  # 60 a shard: each is linked to all others
    queries = clusters(rng, 20, 16)
    best = np.argsort(-queries @ gallery.array.T, axis=1, kind="stable")[:, :10]
    taken: list[int] = []

    class Stopping(ArrayGallery):
        def rows(self, start: int, stop: int) -> Any:
            if start >= 60:
                raise KeyboardInterrupt
            return super().rows(start, stop)

    class Counting(ArrayGallery):
        def rows(self, start: int, stop: int) -> Any:
            taken.append(start)
            return super().rows(start, stop)

    with pytest.raises(KeyboardInterrupt):
        opened("milvus", Stopping(gallery.array), 3, tmp_path)
    index = opened("milvus", Counting(gallery.array), 3, tmp_path)
    assert isinstance(index, Milvus)
    assert taken == [60, 120]
    assert [file.name for file in tmp_path.glob("*.db")] == ["milvus-0.db"]
    scores, rows = index.search(queries, 10)
    np.testing.assert_array_equal(rows, best)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ gallery.array.T, best, 1), 1e-5)
    for shard, (start, stop) in enumerate([(0, 60), (60, 120), (120, 180)]):
        (hits,) = index.client.search(
            index.collection, queries[:1], limit=180, partition_names=[partition(shard)]
        )
        assert sorted(hit["row"] for hit in hits) == list(range(start, stop))
    whole = opened("milvus", gallery, 1, tmp_path / "whole")
    np.testing.assert_array_equal(whole.search(queries, 10)[1], rows)


def test_one_shard_leaves_fingerprints_as_they_were() -> None:
    assert "shards" not in IndexConfig(kind="faiss-ivf").content
    assert IndexConfig(kind="faiss-ivf", shards=2).content["shards"] == 2
