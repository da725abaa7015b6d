"""Searches by clusters against the full scan: they must miss nothing, whatever the gallery."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import IndexConfig
from pipeline.errors import InputError
from pipeline.retrieval.indexes import certified, clusters, costs, layout
from pipeline.retrieval.indexes.clusters import Clusters
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, increment_ends
from tests.unit.retrieval.indexes.test_indexes import SEED, WEIGHT, ArrayGallery, signs

WIDTH = 16


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float32] = (rows / np.maximum(length, 1e-30)).astype(np.float32)
    return found


def spread(rng: np.random.Generator, images: int) -> NDArray[np.float32]:
    return unit(rng.normal(size=(images, WIDTH)))


def grouped(rng: np.random.Generator, images: int) -> NDArray[np.float32]:
    """Groups of all sizes of radius: from hundredths, through nothing, to half the sphere."""
    centres = rng.normal(size=(6, WIDTH))
    radius = np.array([0.0, 0.01, 0.1, 0.3, 1.0, 3.0])
    own = rng.integers(6, size=images)
    return unit(centres[own] + radius[own, None] * rng.normal(size=(images, WIDTH)))


def tiny(rng: np.random.Generator, images: int) -> NDArray[np.float32]:
    """A single group so narrow that float16 cannot tell its images apart from their centre."""
    return unit(rng.normal(size=WIDTH) + 1e-4 * rng.normal(size=(images, WIDTH)))


def opposite(rng: np.random.Generator, images: int) -> NDArray[np.float32]:
    """Pairs of opposite images: a cluster of them has its centre in the middle of the sphere."""
    half = rng.normal(size=(-(-images // 2), WIDTH))
    return unit(np.concatenate([half, -half])[:images])


def stray(rng: np.random.Generator, images: int) -> NDArray[np.float32]:
    """Groups with images far from their own centre; a few images without any feature."""
    rows = grouped(rng, images)
    rows[:: max(2, images // 5)] = spread(rng, 1)
    rows[:: max(3, images // 4)] = 0
    return rows


def copies(rng: np.random.Generator, images: int) -> NDArray[np.float32]:
    return spread(rng, 3)[rng.integers(3, size=images)]


GALLERIES = (spread, grouped, tiny, opposite, stray, copies)


def searched(
    array: NDArray[Any], ends: Ends, k: int, lists: int, excluded: torch.Tensor
) -> tuple[Any, Clusters]:
    gallery = ArrayGallery(array)
    with tempfile.TemporaryDirectory() as folder:
        index = clusters.opened(gallery, IndexConfig(lists=lists), Path(folder) / "one.clusters")
        return certified.search(ends, gallery, index, k, excluded), index


@given(
    seed=SEED,
    weights=st.tuples(WEIGHT, WEIGHT),
    kind=st.sampled_from(GALLERIES),
    dtype=st.sampled_from([np.float32, np.float16]),
    images=st.integers(1, 600),
    lists=st.sampled_from([1, 2, 7, 40, 600]),
    k=st.integers(1, 40),
    dense=st.sampled_from([1, 64, 1 << 30]),
    scan=st.sampled_from([-1.0, np.inf]),
)
@settings(deadline=None, max_examples=150)
def test_nothing_is_missed_whatever_the_gallery(
    seed: int,
    weights: tuple[float, float],
    kind: Any,
    dtype: Any,
    images: int,
    lists: int,
    k: int,
    dense: int,
    scan: float,
) -> None:
    rng = np.random.default_rng(seed)
    array = kind(rng, images).astype(dtype)
    near = array[rng.integers(images, size=5)] + rng.choice([0, 0.1, 1.0]) * spread(rng, 5)
    content, composed = (torch.from_numpy(unit(rows)) for rows in (spread(rng, 5), near))
    ends = increment_ends(content, composed, *weights)
    excluded = torch.from_numpy(rng.integers(-1, images, size=(5, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "DENSE", dense)
        patch.setattr(clusters, "FEATURES", 4 * WIDTH * 100)
        patch.setattr(clusters, "QUERIES", 3)
        patch.setattr(clusters, "FEWEST", 1)
        patch.setattr(costs, "of_scan", lambda *_: scan)
        found, _ = searched(array, ends, k, lists, excluded)
    assert found.scanned == (5 if scan < 0 else 0)
    scores, _ = top_images(ends, ArrayGallery(array), k, excluded=excluded)
    lengths = np.maximum(np.linalg.norm(array.astype(np.float32), axis=1, keepdims=True), 1e-12)
    every = ends.scores(torch.from_numpy(array.astype(np.float32) / lengths)).numpy()
    tolerance = 2e-6 * (1 + 2 * max(map(abs, weights)))
    np.testing.assert_allclose(found.scores.numpy(), scores.numpy(), atol=tolerance)
    for query in range(5):
        kept = torch.isfinite(found.scores[query])
        rows = found.rows[query][kept].tolist()
        assert len(set(rows)) == len(rows)
        assert len(rows) == min(k, images - len(set(excluded[query].tolist()) - {-1}))
        assert not set(rows) & set(excluded[query].tolist())
        np.testing.assert_allclose(every[query, rows], scores[query][kept], atol=tolerance)


@given(
    seed=SEED,
    weights=st.tuples(*[st.sampled_from([-1.5, -0.5, 0.0, 0.25, 1.0, 2.0])] * 2),
    repeated=st.integers(1, 40),
    lists=st.sampled_from([1, 5, 20]),
    k=st.integers(1, 20),
)
@settings(deadline=None, max_examples=60)
def test_equal_scores_keep_gallery_order_as_in_the_scan(
    seed: int, weights: tuple[float, float], repeated: int, lists: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    array = np.repeat(signs(rng, 20), repeated, axis=0)
    array = array[rng.permutation(len(array))]
    content, composed = (torch.from_numpy(signs(rng, 4)) for _ in range(2))
    ends = increment_ends(content, composed, *weights)
    excluded = torch.from_numpy(rng.integers(-1, len(array), size=(4, 1)))
    found, _ = searched(array, ends, k, lists, excluded)
    scores, rows = top_images(ends, ArrayGallery(array), k, excluded=excluded)
    kept = torch.isfinite(scores)
    assert torch.equal(found.scores, scores)
    assert torch.equal(found.rows[kept], rows[kept])


def test_of_narrow_clusters_little_is_read_and_less_in_full() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, WIDTH))
    array = unit(centres[rng.integers(100, size=20_000)] + 0.1 * rng.normal(size=(20_000, WIDTH)))
    near = torch.from_numpy(unit(array[:10] + 0.02 * spread(rng, 10)))
    ends = increment_ends(torch.from_numpy(spread(rng, 10)), near, 0.13, 2.1)
    found, index = searched(array, ends, 50, 400, torch.full((10, 1), -1))
    assert found.scanned == 0
    assert index.read < 0.1 * 10 * 20_000
    assert found.visited.mean() < 0.02 * 20_000
    assert found.visited.min() >= 50


@pytest.mark.parametrize(("radius", "scanned"), [(0.1, 0), (3.0, 64)])
def test_where_little_can_be_left_out_the_gallery_is_scanned(radius: float, scanned: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, 32))
    array = unit(centres[rng.integers(100, size=20_000)] + radius * rng.normal(size=(20_000, 32)))
    near = torch.from_numpy(unit(array[:64] + 0.01 * rng.normal(size=(64, 32))))
    ends = increment_ends(torch.from_numpy(unit(rng.normal(size=(64, 32)))), near, 0.13, 2.1)
    excluded = torch.arange(64)[:, None]
    found, index = searched(array, ends, 50, 400, excluded)
    assert found.scanned == scanned
    assert (index.read == 64 * 20_000) == (scanned == 64)
    scores, rows = top_images(ends, ArrayGallery(array), 50, excluded=excluded)
    np.testing.assert_allclose(found.scores.numpy(), scores.numpy(), atol=1e-5)
    assert (found.rows == rows).float().mean() > 0.99
    few, _ = searched(array, ends.map(lambda end: end[:15]), 50, 400, excluded[:15])
    assert few.scanned == 0


def test_a_vector_of_nothing_has_the_first_images() -> None:
    array = spread(np.random.default_rng(0), 200)
    nothing = torch.zeros(1, WIDTH)
    found, _ = searched(array, Ends(nothing, nothing), 5, 10, torch.full((1, 1), -1))
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_damaged_it_is_built_again_and_what_is_no_index_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery = ArrayGallery(grouped(np.random.default_rng(0), 300))
    file = tmp_path / "one.clusters"
    clusters.opened(gallery, IndexConfig(), file)
    good = file.read_bytes()
    for place in (0, 70, len(good) // 2, len(good) - 1):
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        for content in (bytes(damaged), good[:place]):
            file.write_bytes(content)
            clusters.opened(gallery, IndexConfig(), file)
            assert file.read_bytes() == good
            assert f"{file} is damaged; it is built again" in caplog.text
            caplog.clear()
    file.write_bytes(b"no index")
    with pytest.raises(InputError, match=r"one\.clusters is no index of clusters"):
        layout.Layout(file)


@pytest.mark.parametrize("kind", GALLERIES)
def test_bounds_of_the_layout_hold_for_every_image(kind: Any, tmp_path: Path) -> None:
    array = kind(np.random.default_rng(1), 500)
    layout.build(ArrayGallery(array), 12, tmp_path / "one.clusters")
    found = layout.Layout(tmp_path / "one.clusters")
    assert sorted(found.rows.tolist()) == list(range(500))
    head = found.heads.shape[1] - 1
    towards = layout.directions(found.centres)
    for cluster, (start, stop) in enumerate(zip(found.starts, found.starts[1:], strict=False)):
        turned = array[found.rows[start:stop]].astype(np.float64) @ found.axes
        differences = turned - found.centres[cluster]
        stored = np.column_stack([found.heads[start:stop, :head], found.tails[start:stop]])
        assert (np.abs(stored - differences) <= 2.0**-11 * np.abs(differences) + 1e-6).all()
        rest = np.linalg.norm(differences[:, head:], axis=1)
        assert (found.heads[start:stop, -1] >= rest - 1e-6).all()
        assert (np.linalg.norm(differences, axis=1) <= found.radius + 1e-6).all()
        length = np.linalg.norm(turned, axis=1)
        cosine = turned @ towards[cluster] / np.maximum(length, 1e-30)
        angles = np.where(length > 0, np.arccos(np.clip(cosine, -1, 1)), np.pi)
        for segment, rim in enumerate(found.angles[cluster]):
            inner = angles[(stop - start) * segment // layout.SEGMENTS :]
            assert (inner <= rim + 1e-6).all()
