"""PinPoint (CVPR 2026): several positives and explicit negatives a query, paraphrases, and queries
of two images.

Layout (pinterest/pinpoint-dataset: README.md, evaluate.py, utils/): ``pinpoint_licensed.parquet``,
``index_signatures.txt`` with one signature a line, and the images as ``images/SIGNATURE.jpg`` or in
the folders they are served from, ``736x/aa/bb/cc/SIGNATURE.jpg``.

Metrics are those of the released evaluate.py, its treatment of repeated positives included: they
enter the divisors of AP and recall. Unlike there, a query without predictions is an error.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.datasets.base import Dataset
from pipeline.datasets.checking import Findings
from pipeline.datasets.metrics import average_precision_at_k
from pipeline.datasets.reading import Entry, Predictions, parse_entry, read_lines, read_predictions
from pipeline.errors import InputError
from pipeline.records import Query

CUTOFFS = (1, 5, 10, 50)
SPREAD_AT = 10
"""Precision at this cutoff is compared between paraphrases."""
NO_IMAGE = ("", "None")
"""What stands for a second image that there is none of."""


class _Annotation(Entry):
    query_id: int | str
    query_image_signature: str = Field(min_length=1)
    query_image_signature2: str | None = None
    instruction: str = Field(min_length=1)
    positive_candidates: list[str]
    negative_candidates: list[str] = Field(default_factory=list)
    query_category: str | None = None


class PinPoint(Dataset):
    """The licensed set. Image ids are signatures; query ids have five digits, as in run files."""

    name = "pinpoint"
    folder = "PinPoint"
    splits = ("licensed",)
    lists_all_truths = False
    falling = ("negative_recall", "paraphrase_range")
    headline = "mAP@10"
    parts = "category"

    def read(self) -> None:
        """Read queries and index; reference images may lie outside the index."""
        self.queries = self.read_rows(f"pinpoint_{self.split}.parquet")
        lines = read_lines(self.root / "index_signatures.txt", self._listing)
        nested = (self.root / "736x").is_dir()
        listed = {name: self._file(name, where, nested) for where, name in lines}
        shown = {
            name: self._file(name, f"query {query.id}", nested)
            for query in self.queries
            for name in query.references
            if name not in listed
        }
        self.images = {**listed, **shown}
        self._listing.update("\n".join(shown).encode())
        self.galleries = {"all": list(listed)}
        self.gallery_name = "pinpoint"
        self._tell(set(listed))

    def _file(self, signature: str, where: str, nested: bool) -> Path:
        if not nested:
            return self.inside(f"{signature}.jpg", where, "images")
        aa, bb, cc = signature[:2], signature[2:4], signature[4:6]
        return self.inside(f"{aa}/{bb}/{cc}/{signature}.jpg", where, "736x")

    def _tell(self, listed: set[str]) -> None:
        """Note what of the annotations moves figures, or looks like a mistake."""

        def among(query: Query, images: Sequence[str]) -> bool:
            return not set(query.references).isdisjoint(images)

        kept = "Published figures keep the reference (--keep-reference)."
        counted = {
            "have two reference images": [bool(q.further) for q in self.queries],
            "list a positive more than once; repeats enter the divisors of AP and recall": [
                len(set(q.ground_truths)) < len(q.ground_truths) for q in self.queries
            ],
            "have an image that is both positive and negative": [
                not set(q.ground_truths).isdisjoint(q.negatives) for q in self.queries
            ],
            "have no positive and count as 0": [not q.ground_truths for q in self.queries],
            "have a positive that is not in the index and cannot be found": [
                not set(q.ground_truths) <= listed for q in self.queries
            ],
            f"have their reference among the positives. {kept}": [
                among(q, q.ground_truths) for q in self.queries
            ],
            f"have their reference among the negatives. {kept}": [
                among(q, q.negatives) for q in self.queries
            ],
        }
        self.notes += [f"{sum(one):,} queries {what}" for what, one in counted.items() if any(one)]
        absent = {name for q in self.queries for name in q.negatives} - listed
        if absent:
            self.notes.append(f"{len(absent):,} negatives are not in the index")

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query; raises InputError."""
        found = parse_entry(_Annotation, entry, where)
        second = found.query_image_signature2
        return Query(
            id=str(found.query_id).removeprefix("query_").zfill(5),
            reference=found.query_image_signature,
            relative_captions=(found.instruction,),
            ground_truths=tuple(found.positive_candidates),
            aspects=(found.query_category,) if found.query_category else (),
            negatives=tuple(found.negative_candidates),
            further=() if second is None or second in NO_IMAGE else (second,),
        )

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return AP@k (of all images, and without the negatives), precision, recall and negative
        recall, AP@10 by category, and the spread of precision@10 over paraphrases.

        A spread stands at the first query of its group, so that their mean is over groups.
        """
        lists, everything = predictions["recall"], self.queries

        def precision(query: Query, images: Sequence[str], k: int) -> float:
            return _average_precision(images, query.ground_truths, k)

        def cleaned(query: Query) -> list[str]:
            wrong = set(query.negatives)
            return [image for image in lists[query.id] if image not in wrong]

        found: dict[str, dict[str, float]] = {}
        for k in CUTOFFS:
            found[f"mAP@{k}"] = {q.id: precision(q, lists[q.id], k) for q in everything}
        clean = {q.id: cleaned(q) for q in everything}
        for k in CUTOFFS:
            found[f"mAP_without_negatives@{k}"] = {
                q.id: precision(q, clean[q.id], k) for q in everything
            }
        for k in CUTOFFS:
            found[f"precision@{k}"] = {
                q.id: _hits(lists[q.id][:k], q.ground_truths) / k for q in everything
            }
        for k in CUTOFFS:
            found[f"recall@{k}"] = {
                q.id: _hits(lists[q.id][:k], q.ground_truths) / max(len(q.ground_truths), 1)
                for q in everything
            }
        for k in CUTOFFS:
            found[f"negative_recall@{k}"] = {
                q.id: _hits(lists[q.id][:k], q.negatives) / max(min(len(q.negatives), k), 1)
                for q in everything
            }
        for category in sorted({aspect for q in everything for aspect in q.aspects}):
            found[f"mAP@10/{category}"] = {
                q.id: found["mAP@10"][q.id] for q in everything if category in q.aspects
            }
        reached = found[f"precision@{SPREAD_AT}"]
        return found | {
            f"paraphrase_range@{SPREAD_AT}": _spread(_groups(everything), reached),
            f"paraphrase_range_same_truth@{SPREAD_AT}": _spread(
                _groups(everything, by_truth=True), reached
            ),
        }

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return the released evaluation's run file: query id to its ``retrieved_items``."""
        return {
            name: {"retrieved_items": list(images[: max(CUTOFFS)])}
            for name, images in predictions.items()
        }

    def check_header(self, content: dict[str, Any], found: Findings) -> tuple[str, dict[str, Any]]:
        """Take the lists out of their objects."""
        lists = {
            name: own.get("retrieved_items") if isinstance(own, dict) else own
            for name, own in content.items()
        }
        return "recall", lists

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such a file; raises InputError naming the query that has no list."""
        if not isinstance(content, dict):
            raise InputError(f"{file} must be an object of query ids and retrieved items.")
        lists = {}
        for name, own in content.items():
            if not isinstance(own, dict) or "retrieved_items" not in own:
                raise InputError(f"{file}, query {name}: 'retrieved_items' is missing.")
            lists[name] = own["retrieved_items"]
        return "recall", read_predictions(lists, file)


def _hits(images: Sequence[str], wanted: Sequence[str]) -> int:
    return len(set(images) & set(wanted))


def _average_precision(images: Sequence[str], truths: Sequence[str], k: int) -> float:
    """Return AP@k, whose divisor counts repeated ground truths as often as they are listed."""
    distinct = set(truths)
    if not distinct:
        return 0.0
    value = average_precision_at_k(images, distinct, k)
    return value * min(k, len(distinct)) / min(k, len(truths))


def _groups(queries: Sequence[Query], by_truth: bool = False) -> list[list[str]]:
    """Return the ids of queries about the same images, as the released evaluation groups them.

    That mixes wishes that have nothing in common but the image; ``by_truth`` keeps those together
    that have the same positives, too.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for query in queries:
        truth = frozenset(query.ground_truths) if by_truth else None
        groups.setdefault((query.references, truth), []).append(query.id)
    return [group for group in groups.values() if len(group) > 1]


def _spread(groups: Sequence[Sequence[str]], reached: Mapping[str, float]) -> dict[str, float]:
    """Return the largest less the smallest value of each group, at its first query."""
    return {
        group[0]: max(map(reached.__getitem__, group)) - min(map(reached.__getitem__, group))
        for group in groups
    }
