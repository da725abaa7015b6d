"""Queries by the gallery they search: small galleries and exclusions cost what they hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline import config
from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import Predictions
from pipeline.records import Query
from pipeline.retrieval.parts import SMALL, parts
from pipeline.retrieval.scoring import Ends, normalise
from pipeline.retrieval.searcher import Searcher
from pipeline.run import Run
from pipeline.stages import search
from pipeline.store.features import FeatureFile, write_features


class Galleries(Dataset):
    """A benchmark whose queries are searched in galleries of their own."""

    name = "galleries"
    folder = "galleries"
    splits = ("val",)
    headline = "recall@1"
    members: Mapping[str, Sequence[str]]
    asked: Sequence[Query]

    def read(self) -> None:
        self.galleries = {name: list(images) for name, images in self.members.items()}
        known = dict.fromkeys(name for images in self.members.values() for name in images)
        self.images = {name: self.root / name for name in known}
        self.gallery_name = self.name
        self.queries = list(self.asked)

    def parse(self, entry: Any, where: str) -> Query:
        raise NotImplementedError

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        raise NotImplementedError

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        raise NotImplementedError

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        raise NotImplementedError


class Counted(FeatureFile):
    """A feature file that counts the rows that are read of it."""

    read = 0

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        self.read += stop - start
        return super().rows(start, stop)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        self.read += len(rows)
        return super().take(rows)


def made(
    folder: Path,
    members: Mapping[str, Sequence[str]],
    queries: Sequence[Query],
    names: Sequence[str],
    **search: Any,
) -> tuple[Run, Counted, torch.Tensor]:
    """A run, the features of ``names``, and these features normalised."""
    features = np.random.default_rng(0).normal(size=(len(names), 4)).astype(np.float32)
    write_features(folder / "images.safetensors", list(names), features, {})
    kind = type("Own", (Galleries,), {"members": members, "asked": queries})
    settings = config.load("demo", {"runtime.device": "cpu"}).with_search(**search)
    run = Run(kind("val", folder), settings, folder / "cache", folder / "submissions")
    images = Counted(folder / "images.safetensors")
    return run, images, normalise(torch.from_numpy(features))


def found(run: Run, images: FeatureFile, vectors: torch.Tensor) -> list[tuple[str, ...]]:
    """The images of each query's ranking, best first."""
    ranked = search.rank(run, Ends(vectors, vectors), Searcher(run, images))
    return [ranking.images for ranking in ranked]


def by_hand(
    run: Run, queries: Sequence[Query], names: Sequence[str], unit: torch.Tensor, k: int
) -> list[tuple[str, ...]]:
    """The same, query by query, where the vectors are the references' features."""
    row = {name: i for i, name in enumerate(names)}
    lists = []
    for query in queries:
        own = [name for name in run.dataset.galleries[query.gallery] if name in row]
        left = [name for name in own if name not in (query.reference, *query.excluded)]
        scores = {name: float(unit[row[name]] @ unit[row[query.reference]]) for name in left}
        lists.append(tuple(sorted(left, key=lambda name: -scores[name])[:k]))
    return lists


def test_8000_galleries_of_15_images_cost_what_they_hold(tmp_path: Path) -> None:
    count, size, names = 8_000, 15, [f"{i}.jpg" for i in range(30_000)]
    drawn = np.random.default_rng(1).integers(0, len(names), (count, size))
    members = {str(i): list(dict.fromkeys(names[j] for j in row)) for i, row in enumerate(drawn)}
    queries = [Query(g, own[0], ("x",), g) for g, own in members.items()]
    run, images, unit = made(tmp_path, members, queries, names, top_k=3)
    held = sum(map(len, members.values()))
    split = parts(run, images)
    assert len(split) == count
    assert images.read == 0
    assert all(part.inside is None for part in split), "no mask of all images for each gallery"
    assert sum(len(part.chosen) for part in split) == held
    vectors = unit[[images.row[query.reference] for query in queries]]
    ranked = found(run, images, vectors)
    assert images.read <= 2 * held, "far from 8,000 times 30,000"
    assert ranked[::97] == by_hand(run, queries[::97], names, unit, 3)


@pytest.mark.parametrize("keep", [False, True])
def test_several_images_of_a_query_are_never_retrieved(tmp_path: Path, keep: bool) -> None:
    names = [f"{i}.jpg" for i in range(10 * SMALL)]
    members = {"all": names, "few": names[3:9]}
    queries = [
        Query("a", "0.jpg", ("x",), "all", excluded=("1.jpg", "2.jpg")),
        Query("b", "5.jpg", ("x",), "all"),
        Query("c", "4.jpg", ("x",), "few", excluded=("8.jpg", "3.jpg", "70.jpg")),
        Query("d", "6.jpg", ("x",), "few"),
    ]
    settings = {"top_k": 100, "exclude_reference": not keep}
    run, images, unit = made(tmp_path, members, queries, names, **settings)
    large, small = parts(run, images)
    assert large.excluded.shape == (2, 2 if keep else 3)
    assert (small.excluded >= 0).sum() == (2 if keep else 4), "of what is in that gallery"
    vectors = unit[[images.row[query.reference] for query in queries]]
    ranked = found(run, images, vectors)
    for query, listed, all_but_own in zip(
        queries, ranked, by_hand(run, queries, names, unit, 100), strict=True
    ):
        assert (query.reference in listed) == keep
        assert not set(listed) & set(query.excluded)
        assert tuple(name for name in listed if name != query.reference) == all_but_own


def test_a_small_gallery_is_read_by_rows_and_a_large_one_whole(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(10 * SMALL)]
    members = {"small": names[20:29], "large": names[: 2 * SMALL]}
    queries = [Query(gallery, members[gallery][0], ("x",), gallery) for gallery in members]
    run, images, _ = made(tmp_path, members, queries, names)
    small, large = parts(run, images)
    assert small.inside is None
    assert small.gallery.shape == (9, 4)
    assert list(small.names) == members["small"]
    np.testing.assert_array_equal(small.gallery.rows(0, 9), images.rows(20, 29))
    assert large.inside is not None
    assert large.inside.sum() == 2 * SMALL
    assert large.gallery is images
    assert small.excluded.tolist() == [[0]]
    assert large.excluded.tolist() == [[0]]


def test_an_image_without_a_feature_is_in_no_gallery(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(10)]
    members = {"all": [*names, "broken.jpg"]}
    queries = [Query("a", "broken.jpg", ("x",), "all", group=("3.jpg", "broken.jpg"))]
    run, images, _ = made(tmp_path, members, queries, names)
    (part,) = parts(run, images)
    assert len(part.chosen) == 10
    assert part.groups == [[3]]
    assert part.excluded.tolist() == [[-1]]
