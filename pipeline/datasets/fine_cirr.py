"""Fine-CIRR (FineCIR, arXiv 2503.21309): CIRR's pairs with one long text each.

Layout (SDU-L/FineCIR, README.md): ``fine-cirr/finemt_captions/cirr.fine.SPLIT.json``, as a list or
in JSON lines (the released samples are ``.jsonl``), with the keys pairid, reference, target_hard,
finemt and img_set; CIRR's ``image_splits`` beside it; ``dev/`` and ``train/``.

Its figures are no CIRR figures, so query ids begin with ``fine-``; there is no test server.
"""

from typing import Any

from pydantic import Field

from pipeline.datasets.cirr import Cirr
from pipeline.datasets.reading import Entry, parse_entry
from pipeline.records import Query


class _ImageSet(Entry):
    members: list[str]


class _Annotation(Entry):
    pairid: int
    reference: str
    target_hard: str
    finemt: str = Field(min_length=1)
    img_set: _ImageSet


class FineCirr(Cirr):
    """One Fine-CIRR split."""

    name = "fine-cirr"
    folder = "Fine-CIRR"
    splits = ("val", "train")
    max_bytes = None
    listings = "fine-cirr/image_splits"

    def all_queries(self) -> list[Query]:
        """Return the queries out of a list or JSON lines."""
        return self.either(f"fine-cirr/finemt_captions/cirr.fine.{self.split}")

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query; raises InputError."""
        found = parse_entry(_Annotation, entry, where)
        return Query(
            id=f"fine-{found.pairid}",
            reference=found.reference,
            relative_captions=(found.finemt,),
            target=found.target_hard,
            group=tuple(name for name in found.img_set.members if name != found.reference),
        )
