"""Triplets: what composers are trained on and methods are evaluated on, as a record and a dataset.

A triplet is a reference image, the text that changes it, and a target image or a target's caption,
with who made it. Files are JSON lines, one record a line. The folder of a dataset holds
``triplets.SPLIT.jsonl``, ``images.json`` (a list of paths below ``images``, or image id to path)
and ``images``, which may be a link to the folder of the images; triplets with a target image are
its queries.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, model_validator

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import average_precision_at_k, recall_at_k
from pipeline.datasets.reading import (
    Entry,
    Predictions,
    parse_entry,
    read_json_lines,
    read_predictions,
)
from pipeline.errors import InputError
from pipeline.records import Query
from pipeline.store.files import write_text

if TYPE_CHECKING:
    import hashlib

IMAGES = "images"
"""The folder of a dataset of triplets that its images are in, or a link to it."""
LISTING = "images.json"
CUTOFFS = (1, 5, 10, 50)


class Triplet(Entry):
    """One triplet. What is not known is None, and not written."""

    model_config = ConfigDict(frozen=True)

    reference: str = Field(min_length=1)
    """Id of the reference image."""
    text: str = Field(min_length=1)
    """What is to change: the relative caption."""
    target: str | None = None
    """Id of the target image; None where there is only its caption."""
    target_caption: str | None = None
    """Describes the target: the edited caption."""
    source_caption: str | None = None
    """Describes the reference image."""
    text_reverse: str | None = None
    """What changes the target back into the reference."""
    text_fine: str | None = None
    """``text`` told at length, with every detail."""
    category: str | None = None
    generator: str = ""
    """Who wrote the text: a model, or the file that the triplet was imported from."""
    prompt_version: str = ""
    """Name and fingerprint of the prompt that it was written by."""
    origin: dict[str, Any] = Field(default_factory=dict)
    """What its file says besides (CIRR's ``pairid`` and ``img_set``, several captions)."""

    @model_validator(mode="after")
    def _has_target(self) -> "Triplet":
        if not (self.target or self.target_caption):
            raise ValueError("there is neither a target nor a target_caption")
        return self

    def as_json(self) -> dict[str, Any]:
        """Return what is known as JSON-able data."""
        return self.model_dump(exclude_defaults=True)


def read(file: Path, digest: "hashlib._Hash | None" = None) -> list[Triplet]:
    """Return the triplets of a file of JSON lines; raises InputError naming file, line and key."""
    return [
        parse_entry(Triplet, content, where) for where, content in read_json_lines(file, digest)
    ]


def write(file: Path, triplets: Iterable[Triplet]) -> int:
    """Write triplets as JSON lines, all or nothing; return how many."""
    lines = [json.dumps(one.as_json(), ensure_ascii=False) + "\n" for one in triplets]
    write_text(file, "".join(lines))
    return len(lines)


class Triplets(Dataset):
    """Triplets with a target image, over one gallery. Query ids are line numbers, from 0.

    The target is the only image that counts as right, though others may be right as well.
    """

    name = "triplets"
    folder = "triplets"
    splits = ("val", "train", "test")
    headline = "mAP@10"

    triplets: list[Triplet]
    """All of the file, those without a target image among them."""

    def read(self) -> None:
        """Read the split's triplets and the listing of images."""
        file = self.root / f"triplets.{self.split}.jsonl"
        self.triplets = read(file, self._annotations)
        self.annotations[file.name] = [one.as_json() for one in self.triplets]
        self.queries = [
            _query(one, str(number)) for number, one in enumerate(self.triplets) if one.target
        ]
        if not self.queries:
            raise InputError(f"{file} holds no triplet with a target image.")
        listing = _listing(self.read_listing(LISTING), self.root / LISTING)
        self.images = {
            name: self.inside(path, f"{LISTING}, {name!r}", IMAGES)
            for name, path in listing.items()
        }
        self.galleries = {"all": list(self.images)}
        self.gallery_name = f"triplets-{self.gallery_fingerprint[:16]}"

    def parse(self, entry: Any, where: str) -> Query:
        """Return a triplet's query, without an id; raises InputError."""
        return _query(parse_entry(Triplet, entry, where), "")

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return recall@k, and AP@k with the target as the only right image."""
        lists = predictions["recall"]
        precision = {
            f"mAP@{k}": {
                query.id: average_precision_at_k(lists[query.id], query.relevant, k)
                for query in self.queries
            }
            for k in CUTOFFS[1:]
        }
        recall = {
            f"recall@{k}": {
                query.id: recall_at_k(lists[query.id], query.target or "", k)
                for query in self.queries
            }
            for k in CUTOFFS
        }
        return precision | recall

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to 50 images; there is no server for it."""
        return {name: list(images[:50]) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)


def _query(triplet: Triplet, name: str) -> Query:
    return Query(name, triplet.reference, (triplet.text,), target=triplet.target)


def _listing(content: Any, file: Path) -> Mapping[str, str]:
    """Return image id to path; a bare list is of paths that are ids, too. Raises InputError."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = dict(zip(content, content, strict=True)) if _texts(content) else None
    if not isinstance(content, dict) or not _texts(content.values()):
        raise InputError(f"{file} must list the images' paths, or map image ids to them.")
    return content


def _texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
