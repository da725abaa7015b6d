"""CIRR (Liu et al., ICCV 2021): one target a query, and a ranking within its group of six.

Layout: ``cirr/captions/cap.rc2.SPLIT.json``, ``cirr/image_splits/split.rc2.SPLIT.json``, ``dev/``,
``test1/``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pipeline.datasets.base import Dataset
from pipeline.datasets.checking import Findings
from pipeline.datasets.metrics import recall_at_k
from pipeline.datasets.reading import (
    Entry,
    Predictions,
    existing_ending,
    parse_entry,
    read_predictions,
)
from pipeline.errors import InputError
from pipeline.records import Query, Ranking


class _ImageSet(Entry):
    members: list[str]


class _Annotation(Entry):
    pairid: int
    reference: str
    caption: str
    img_set: _ImageSet


class _ValAnnotation(_Annotation):
    target_hard: str


class Cirr(Dataset):
    """One CIRR split."""

    name = "cirr"
    folder = "CIRR"
    splits = ("val", "test1")
    kinds = ("recall", "recall_subset")
    lengths = MappingProxyType({"recall": 50, "recall_subset": 3})
    max_bytes: ClassVar[int | None] = 5_000_000
    reference_allowed = False
    averages = MappingProxyType({"average": ("recall@5", "recall_subset@1")})
    headline = "recall@1"
    listings: ClassVar[str] = "cirr/image_splits"
    """The folder of the splits' image listings."""

    def read(self) -> None:
        """Read captions and the split's image listing; files may be .png or .jpg."""
        self.queries = self.all_queries()
        listing_file = f"{self.listings}/split.rc2.{self.split}.json"
        listing = self.read_listing(listing_file)
        good = isinstance(listing, dict) and all(isinstance(p, str) for p in listing.values())
        if not good:
            raise InputError(f"{self.root / listing_file} must map image names to paths.")
        bare = {
            name: self.inside(path, f"{listing_file}, {name!r}").with_suffix("")
            for name, path in listing.items()
        }
        ending = existing_ending(bare.values(), (".png", ".jpg", ".jpeg"))
        self.images = {name: path.with_name(path.name + ending) for name, path in bare.items()}
        self.galleries = {"all": list(self.images)}
        self.gallery_name = f"{self.name}-{self.split}"

    def all_queries(self) -> list[Query]:
        """Return the split's queries; raises InputError."""
        return self.entries(f"cirr/captions/cap.rc2.{self.split}.json")

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query; raises InputError."""
        kind = _ValAnnotation if self.split == "val" else _Annotation
        return _query(parse_entry(kind, entry, where))

    def check_prediction(self, kind: str, query: Query, images: Sequence[str]) -> None:
        """The reference is never retrieved; a subset prediction stays within the group."""
        if query.reference in images:
            raise InputError(
                f"Query {query.id}: the reference image {query.reference} is among its "
                "predictions; recall is defined without it."
            )
        if kind == "recall_subset":
            for image in images:
                if image not in query.group:
                    raise InputError(f"Query {query.id}: image {image} is not in its group.")

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return recall@k and subset recall@k."""
        cutoffs = {"recall": (1, 5, 10, 50), "recall_subset": (1, 2, 3)}
        return {
            f"{kind}@{k}": {
                query.id: recall_at_k(lists[query.id], query.target or "", k)
                for query in self.queries
            }
            for kind, lists in predictions.items()
            for k in cutoffs[kind]
        }

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return version, metric, and pair id to 50 names, or 3 of the group."""
        count = 50 if kind == "recall" else 3
        lists = {name: list(images[:count]) for name, images in predictions.items()}
        return {"version": "rc2", "metric": kind, **lists}

    def predictions(self, rankings: Sequence[Ranking]) -> dict[str, Predictions]:
        """Return whole rankings, and those of each query's group."""
        return {
            "recall": {r.query: r.images for r in rankings},
            "recall_subset": {r.query: r.subset for r in rankings},
        }

    def misplaced(self, kind: str, query: Query, image: str) -> str:
        """A subset list holds members of the query's group alone."""
        if kind == "recall_subset" and image not in query.group and image != query.reference:
            return "is not in its group"
        return ""

    def check_header(self, content: dict[str, Any], found: Findings) -> tuple[str, dict[str, Any]]:
        """Check version and metric as cirr.cecs.anu.edu.au/test_process states them."""
        if content.get("version") != "rc2":
            found.errors.append("'version' must be \"rc2\"")
        kind = content.get("metric")
        if kind not in self.kinds:
            found.errors.append(f"'metric' must be one of {', '.join(self.kinds)}")
            kind = "recall"
        return kind, {k: v for k, v in content.items() if k not in ("version", "metric")}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object; the metric says which kind it is."""
        if not isinstance(content, dict) or content.get("version") != "rc2":
            raise InputError(f"{file}: 'version' must be \"rc2\".")
        kind = content.get("metric")
        if kind not in self.kinds:
            raise InputError(f"{file}: 'metric' must be one of {', '.join(self.kinds)}.")
        lists = {key: value for key, value in content.items() if key not in ("version", "metric")}
        return kind, read_predictions(lists, file)


def _query(entry: _Annotation) -> Query:
    members = entry.img_set.members
    return Query(
        id=str(entry.pairid),
        reference=entry.reference,
        relative_captions=(entry.caption,),
        target=entry.target_hard if isinstance(entry, _ValAnnotation) else None,
        group=tuple(name for name in members if name != entry.reference),
    )
