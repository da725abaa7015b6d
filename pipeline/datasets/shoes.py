"""Shoes (Guo et al., NeurIPS 2018): relative captions of pairs of women's shoes.

Layout (XiaoxiaoGuo/fashion-retrieval, dataset/README.md; SDU-L/COMBINER, README.md):
``relative_captions_shoes.json`` with ReferenceImageName, ImageName (the target) and
RelativeCaption; ``train_im_names.txt`` and ``eval_im_names.txt``, a name a line; images in folders
below ``womens_*/`` or ``attributedata/womens_*/``.

A pair is of the split that has both of its images; the gallery are all of the split's images.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import recall_at_k
from pipeline.datasets.reading import Entry, Predictions, parse_entry, read_lines, read_predictions
from pipeline.records import Query

CUTOFFS = (1, 10, 50)
LISTS = {"test": "eval_im_names.txt", "train": "train_im_names.txt"}


class _Annotation(Entry):
    ReferenceImageName: str
    ImageName: str
    RelativeCaption: str = Field(min_length=1)


class Shoes(Dataset):
    """One split. Query ids are ``shoes-NUMBER``, by the place in the file of captions."""

    name = "shoes"
    folder = "Shoes"
    splits = ("test", "train")
    headline = "recall@10"

    def read(self) -> None:
        """Read pairs and listing, and look where in their folders the images are."""
        listed = read_lines(self.root / LISTS[self.split], self._listing)
        tops = self._folders_of_images()
        found = {file.name: file for top in tops for file in top.rglob("*.jpg")}
        self.images = {
            name: self.inside(self._place(name, found.get(name)), where) for where, name in listed
        }
        self.galleries = {"all": list(self.images)}
        self.gallery_name = f"shoes-{self.split}"
        asked = enumerate(self.entries("relative_captions_shoes.json"))
        pairs = [(n, q) for n, q in asked if {q.reference, q.target} <= self.images.keys()]
        self.queries = [
            Query(f"shoes-{n}", q.reference, q.relative_captions, target=q.target) for n, q in pairs
        ]

    def _folders_of_images(self) -> list[Path]:
        tops = (self.root, self.root / "attributedata")
        return [folder for top in tops for folder in sorted(top.glob("womens_*"))]

    def _place(self, name: str, file: Path | None) -> str:
        """Return a path below the root; where there is no file, one that says what is missing."""
        return name if file is None else file.relative_to(self.root).as_posix()

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query, without an id; raises InputError."""
        found = parse_entry(_Annotation, entry, where)
        captions = (found.RelativeCaption,)
        return Query("", found.ReferenceImageName, captions, target=found.ImageName)

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        """Return recall@1/10/50."""
        lists = predictions["recall"]
        return {
            f"recall@{k}": {q.id: recall_at_k(lists[q.id], q.target or "", k) for q in self.queries}
            for k in CUTOFFS
        }

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        """Return query id to 50 names. There is no server."""
        return {name: list(images[:50]) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        """Read such an object."""
        return "recall", read_predictions(content, file)
