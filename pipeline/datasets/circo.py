"""CIRCO (Baldrati et al., ICCV 2023): several ground truths a query over COCO's unlabeled images.

Layout: ``annotations/{val,test}.json`` and ``COCO2017_unlabeled/{annotations,unlabeled2017}``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets.base import Dataset
from pipeline.datasets.checking import Findings
from pipeline.datasets.metrics import average_precision_at_k, recall_at_k
from pipeline.datasets.reading import Entry, Predictions, parse_entry, read_predictions
from pipeline.records import Query

CUTOFFS = (5, 10, 25, 50)
LISTING = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
IMAGES = "COCO2017_unlabeled/unlabeled2017"
FILE_NAME = re.compile(r"(?:[^\0]*/)?0*(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
"""COCO's file of an image, perhaps with its folders; the group is the image's number."""


class _Annotation(Entry):
    id: int
    reference_img_id: int
    relative_caption: str
    shared_concept: str | None = None


class _ValAnnotation(_Annotation):
    target_img_id: int
    gt_img_ids: list[int]
    semantic_aspects: list[str]


class _Image(Entry):
    id: int
    file_name: str


class _Listing(Entry):
    images: list[_Image]


class Circo(Dataset):
    """One CIRCO split. Image ids are COCO's numbers as strings."""

    name = "circo"
    folder = "CIRCO"
    splits = ("val", "test")
    choices = ("shared_concept",)
    headline = "mAP@5"
    parts = "semantic aspect"

    def read(self) -> None:
        """Read annotations and COCO's image listing."""
        self.queries = self.entries(f"annotations/{self.split}.json")
        content = self.read_listing(LISTING)
        listing = parse_entry(_Listing, content, str(self.root / LISTING))
        self.images = {
            str(image.id): self.inside(image.file_name, f"{LISTING}, images.{i}.file_name", IMAGES)
            for i, image in enumerate(listing.images)
        }
        self.galleries = {"all": list(self.images)}
        self.gallery_name = "circo"

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query; raises InputError."""
        kind = _ValAnnotation if self.split == "val" else _Annotation
        return _query(parse_entry(kind, entry, where))

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return AP@k, recall@k on the single target, and AP@10 per semantic aspect."""
        lists = predictions["recall"]

        def precision(query: Query, k: int) -> float:
            return average_precision_at_k(lists[query.id], set(query.ground_truths), k)

        def recall(query: Query, k: int) -> float:
            return recall_at_k(lists[query.id], query.target or "", k)

        everything = self.queries
        aspects = sorted({aspect for query in everything for aspect in query.aspects})
        return (
            {f"mAP@{k}": {q.id: precision(q, k) for q in everything} for k in CUTOFFS}
            | {f"recall@{k}": {q.id: recall(q, k) for q in everything} for k in CUTOFFS}
            | {
                f"mAP@10/{aspect}": {
                    q.id: precision(q, 10) for q in everything if aspect in q.aspects
                }
                for aspect in aspects
            }
        )

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to 50 image ids as integers (circo.micc.unifi.it)."""
        return {name: [int(image) for image in images[:50]] for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object; ids may be integers or numeric strings, as the server takes.

        Result files that others publish (MegaPairs') may name COCO's files instead.
        """
        lists = read_predictions(content, file)
        return "recall", {query: [_number(name) for name in own] for query, own in lists.items()}

    def check_header(self, content: dict[str, Any], found: Findings) -> tuple[str, dict[str, Any]]:
        """Say where images are named by their files, which the server does not take."""
        lists = {q: _numbers(images) for q, images in content.items()}
        if named := [q for q, images in content.items() if images != lists[q]]:
            found.errors.append(
                f"{len(named)} of {len(lists)} lists name files, not COCO's numbers, the first is "
                f"query {named[0]}: the server takes numbers. `seize evaluate` and `seize compare` "
                "read such a file as it is"
            )
        return self.kinds[0], lists


def _number(name: str) -> str:
    """Return the number of an image that COCO's file name stands for; else the name as it is."""
    found = FILE_NAME.fullmatch(name)
    return found[1] if found else name


def _numbers(images: Any) -> Any:
    """Return a list with ``_number`` of every name in it; what is no list as it is."""
    if not isinstance(images, list):
        return images
    return [_number(image) if isinstance(image, str) else image for image in images]


def _query(entry: _Annotation) -> Query:
    known: dict[str, Any] = {}
    if isinstance(entry, _ValAnnotation):
        known = {
            "target": str(entry.target_img_id),
            "ground_truths": tuple(str(number) for number in entry.gt_img_ids),
            "aspects": tuple(entry.semantic_aspects),
        }
    return Query(
        id=str(entry.id),
        reference=str(entry.reference_img_id),
        relative_captions=(entry.relative_caption,),
        shared_concept=entry.shared_concept,
        **known,
    )
