"""FashionIQ (Wu et al., CVPR 2021): two relative captions a query, in three categories.

Layout: ``captions/cap.CATEGORY.SPLIT.json``, ``image_splits/split.CATEGORY.SPLIT.json``,
``images/``. The gallery of a category is its split file ("original split"), or the union of its
queries' references and targets ("VAL split"), whose recall is higher.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

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


class _Annotation(Entry):
    candidate: str
    captions: list[str]


class _ValAnnotation(_Annotation):
    target: str


class FashionIq(Dataset):
    """All three categories of one FashionIQ split. Query ids are ``CATEGORY-NUMBER``."""

    name = "fashioniq"
    folder = "FashionIQ"
    splits = ("val", "test")
    choices = ("gallery", "caption_separator", "both_orders")
    gallery_choices = ("split", "union")
    averages = MappingProxyType(
        {f"recall@{k}": tuple(f"recall@{k}/{name}" for name in CATEGORIES) for k in CUTOFFS}
    )
    headline = "recall@10"
    parts = "category"

    def read(self) -> None:
        """Read captions and split files of the three categories; images may be .png or .jpg."""
        self.queries, self.galleries = [], {}
        bare: dict[str, Path] = {}
        for category in CATEGORIES:
            file = f"captions/cap.{category}.{self.split}.json"
            for number, query in enumerate(self.entries(file)):
                self.queries.append(replace(query, id=f"{category}-{number}", gallery=category))
            listing_file = f"image_splits/split.{category}.{self.split}.json"
            listing = self.read_listing(listing_file)
            if not isinstance(listing, list) or not all(isinstance(n, str) for n in listing):
                raise InputError(f"{self.root / listing_file} must be a list of image names.")
            self.galleries[category] = list(dict.fromkeys(listing))
            bare |= {
                name: self.inside(name, f"{listing_file}, entry {number}", "images")
                for number, name in enumerate(listing)
            }
        ending = existing_ending(bare.values(), (".jpg", ".png", ".jpeg"))
        self.images = {name: path.with_name(path.name + ending) for name, path in bare.items()}
        self.gallery_name = f"fashioniq-{self.split}"
        if self.gallery == "union":
            self._use_union()

    def _use_union(self) -> None:
        if not self.has_ground_truth:
            raise ConfigError(f"The union gallery needs targets, fashioniq {self.split} has none.")
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
        """Return recall@10/50 in each category's gallery."""
        lists = predictions["recall"]
        return {
            f"recall@{k}/{category}": {
                query.id: recall_at_k(lists[query.id], query.target or "", k)
                for query in self.queries
                if query.gallery == category
            }
            for k in CUTOFFS
            for category in CATEGORIES
        }

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to 50 names. FashionIQ has no server for this protocol."""
        return {name: list(images[:50]) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)
