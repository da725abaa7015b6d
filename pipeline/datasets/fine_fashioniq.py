"""Fine-FashionIQ (FineCIR, arXiv 2503.21309): FashionIQ's pairs with one long text each.

Layout (SDU-L/FineCIR, README.md): ``captions/fiq.fine.CATEGORY.SPLIT.json``, as a list or in JSON
lines (the released samples are ``.jsonl``), with the keys candidate, target and finemt; FashionIQ's
``image_splits/``; images in a folder a category, or in FashionIQ's ``images/``.

Its figures are no FashionIQ figures: other texts, about 50 words instead of two short captions.
Published ones are of the union gallery (--gallery union), the reference left out.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.datasets.fashioniq import FashionIq, averages
from pipeline.datasets.reading import Entry, parse_entry
from pipeline.records import Query

CUTOFFS = (1, 10, 50)


class _Annotation(Entry):
    candidate: str
    target: str
    finemt: str = Field(min_length=1)


class FineFashionIq(FashionIq):
    """All three categories of a Fine-FashionIQ split."""

    name = "fine-fashioniq"
    folder = "Fine-FashionIQ"
    splits = ("val", "train")
    choices = ("gallery",)
    averages = averages(CUTOFFS, FashionIq.categories)
    cutoffs = CUTOFFS
    prefix = "fine-"

    def category_queries(self, category: str) -> list[Query]:
        """Return a category's queries out of a list or JSON lines."""
        return self.either(f"captions/fiq.fine.{category}.{self.split}")

    def picture(self, category: str, name: str, where: str) -> Path:
        """Return where an image is: in its category's folder, where there is one."""
        own = category if (self.root / category).is_dir() else "images"
        return self.inside(name, where, own)

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query, without an id; raises InputError."""
        found = parse_entry(_Annotation, entry, where)
        return Query("", found.candidate, (found.finemt,), target=found.target)
