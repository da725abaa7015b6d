"""FashionIQ (Wu et al., CVPR 2021): two relative captions a query, in three categories.

Layout: ``captions/cap.CATEGORY.SPLIT.json``, ``image_splits/split.CATEGORY.SPLIT.json``,
``images/``. The gallery of a category is its split file ("original split"), or the union of its
queries' references and targets ("VAL split"), whose recall is higher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import recall_at_k
from pipeline.datasets.reading import (
    Entry,
    Predictions,
    existing_ending,
    parse_entry,
    read_predictions,
)
from pipeline.errors import ConfigError, InputError
from pipeline.records import Query

CATEGORIES = ("dress", "shirt", "toptee")
CUTOFFS = (10, 50)
ENDINGS = (".jpg", ".png", ".jpeg")


class _Annotation(Entry):
    candidate: str
    captions: list[str]


class _ValAnnotation(_Annotation):
    target: str


def averages(cutoffs: Sequence[int], categories: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Return what recall@k is the mean of: that of the categories."""
    return MappingProxyType(
        {f"recall@{k}": tuple(f"recall@{k}/{name}" for name in categories) for k in cutoffs}
    )


class FashionIq(Dataset):
    """All three categories of one FashionIQ split. Query ids are ``CATEGORY-NUMBER``.

    Benchmarks of its shape are subclasses, which differ in files, categories and cutoffs.
    """

    name = "fashioniq"
    folder = "FashionIQ"
    splits: ClassVar[tuple[str, ...]] = ("val", "test")
    choices: ClassVar[tuple[str, ...]] = ("gallery", "caption_separator", "both_orders")
    gallery_choices: ClassVar[tuple[str, ...]] = ("split", "union")
    averages = averages(CUTOFFS, CATEGORIES)
    headline = "recall@10"
    parts = "category"
    categories: ClassVar[tuple[str, ...]] = CATEGORIES
    cutoffs: ClassVar[tuple[int, ...]] = CUTOFFS
    prefix: ClassVar[str] = ""
    """Begins query ids, so that predictions are never taken for those of another benchmark."""

    def read(self) -> None:
        """Read queries and gallery of each category; images may be .png or .jpg."""
        self.queries, self.galleries = [], {}
        bare: dict[str, Path] = {}
        for category in self.categories:
            asked = self.category_queries(category)
            for number, query in enumerate(asked):
                name = f"{self.prefix}{category}-{number}"
                self.queries.append(replace(query, id=name, gallery=category))
            listed = self.category_listing(category, asked)
            self.galleries[category] = list(dict.fromkeys(name for name, _ in listed))
            bare |= {name: self.picture(category, name, where) for name, where in listed}
        unsaid = [path for path in bare.values() if path.suffix.lower() not in ENDINGS]
        ending = existing_ending(unsaid, ENDINGS)
        whole = {path: path.with_name(path.name + ending) for path in unsaid}
        self.images = {name: whole.get(path, path) for name, path in bare.items()}
        self.gallery_name = f"{self.name}-{self.split}"
        if self.gallery == "union":
            self._use_union()

    def category_queries(self, category: str) -> list[Query]:
        """Return a category's queries, without ids; raises InputError."""
        return self.entries(f"captions/cap.{category}.{self.split}.json")

    def category_listing(self, category: str, asked: Sequence[Query]) -> list[tuple[str, str]]:
        """Return the names of a category's images, each with where it stands; InputError."""
        file = f"image_splits/split.{category}.{self.split}.json"
        listing = self.read_listing(file)
        if not isinstance(listing, list) or not all(isinstance(n, str) for n in listing):
            raise InputError(f"{self.root / file} must be a list of image names.")
        return [(name, f"{file}, entry {number}") for number, name in enumerate(listing)]

    def picture(self, category: str, name: str, where: str) -> Path:
        """Return where an image is, with the ending of its file or without; raises InputError."""
        return self.inside(name, where, "images")

    def _use_union(self) -> None:
        if not self.has_ground_truth:
            raise ConfigError(
                f"The union gallery needs targets, {self.name} {self.split} has none."
            )
        for category, names in self.galleries.items():
            own = [query for query in self.queries if query.gallery == category]
            used = {query.reference for query in own} | {query.target for query in own}
            self.galleries[category] = [name for name in names if name in used]

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query, without an id; raises InputError."""
        kind = _ValAnnotation if self.split == "val" else _Annotation
        found = parse_entry(kind, entry, where)
        return Query(
            id="",
            reference=found.candidate,
            relative_captions=tuple(found.captions),
            target=found.target if isinstance(found, _ValAnnotation) else None,
        )

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return recall@k in each category's gallery."""
        lists = predictions["recall"]
        return {
            f"recall@{k}/{category}": {
                query.id: recall_at_k(lists[query.id], query.target or "", k)
                for query in self.queries
                if query.gallery == category
            }
            for k in self.cutoffs
            for category in self.categories
        }

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to 50 names. FashionIQ has no server for this protocol."""
        return {name: list(images[:50]) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)
