"""The queries of a run by the gallery they search, and where that gallery is among the features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.records import Query
from pipeline.retrieval.indexes.base import Members
from pipeline.retrieval.ranking import Gallery
from pipeline.run import Run
from pipeline.store.features import FeatureFile

SMALL = 8
"""A gallery is read row by row where it holds less than one in so many images."""


@dataclass(frozen=True)
class Part:
    """The queries that search one gallery. Rows are numbers of images of ``gallery``."""

    places: list[int]
    """The queries' numbers in the run."""
    gallery: Gallery
    """The features it is searched in: all images', or, of a small gallery, its own alone."""
    inside: NDArray[np.bool_] | None
    """Which rows belong to the gallery; None for all of them."""
    chosen: NDArray[np.int64]
    """The gallery's images among the features, rising."""
    excluded: Tensor
    """Rows that a query never retrieves, int64 (queries, m), -1 for none."""
    groups: list[list[int]]
    """For each query, the rows of its CIRR group that have a feature, in gallery order."""
    names: Sequence[str]
    """The ids of the images that rows stand for."""

    def slice(self, start: int, stop: int) -> "Part":
        """Return the part of some of these queries."""
        some = slice(start, stop)
        return Part(
            self.places[some],
            self.gallery,
            self.inside,
            self.chosen,
            self.excluded[some],
            self.groups[some],
            self.names,
        )

    @property
    def row(self) -> dict[str, int]:
        """The row of every image by its id."""
        return {name: i for i, name in enumerate(self.names)}


def parts(run: Run, images: FeatureFile) -> list[Part]:
    """Return the run's queries by gallery; time and memory grow with what galleries hold."""
    by_gallery: dict[str, list[int]] = {}
    for place, query in enumerate(run.queries):
        by_gallery.setdefault(query.gallery, []).append(place)
    return [
        _part(run, images, by_gallery[name], members)
        for name, members in run.dataset.galleries.items()
        if name in by_gallery
    ]


def _part(run: Run, images: FeatureFile, places: list[int], members: Sequence[str]) -> Part:
    row = images.row
    chosen = np.array(sorted(row[name] for name in members if name in row), dtype=np.int64)
    queries = [run.queries[i] for i in places]
    if len(chosen) * SMALL < len(images.names):
        names = [images.names[i] for i in chosen.tolist()]
        own = {name: i for i, name in enumerate(names)}
        gallery: Gallery = Members(images, chosen)
        inside = None
    else:
        names, own, gallery = images.names, row, images
        inside = np.zeros(len(images.names), bool)
        inside[chosen] = True
    exclude = run.config.search.excludes(run.dataset.name)
    return Part(
        places,
        gallery,
        inside,
        chosen,
        _excluded([_excluded_of(query, exclude) for query in queries], own),
        [sorted(own[name] for name in q.group if name in own) for q in queries],
        names,
    )


def _excluded_of(query: Query, reference: bool) -> tuple[str, ...]:
    return (*(query.references if reference else ()), *query.excluded)


def _excluded(names: Sequence[Sequence[str]], row: dict[str, int]) -> Tensor:
    width = max((len(own) for own in names), default=0) or 1
    rows = [[row.get(name, -1) for name in own] for own in names]
    return torch.tensor([own + [-1] * (width - len(own)) for own in rows], dtype=torch.long)
