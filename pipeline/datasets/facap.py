"""FACap and enhFashionIQ (arXiv 2507.07135): long fashion texts, one a pair.

Layout as a public loader reads the files of fgxaos/facap-sigir25-gennext:
``cir_triplets/CATEGORY_train_triplets.json`` (FACap) and, one file a category,
``enhfashioniq_triplets/*CATEGORY*.json`` (enhFashionIQ): lists of candidate, target and captions,
or, as the repository's README has it, reference, target and modification. Both may lie below the
repository's own ``data/facap`` and ``data/fashioniq``. Image names of FACap are paths of
Fashion200K and DeepFashion-MultiModal, below ``images/``; those of enhFashionIQ are FashionIQ's.

FACap has no test split: its pairs are searched among all images of their category. enhFashionIQ has
a pair for each image of FashionIQ's val galleries (3,817 / 6,346 / 5,373), which are not
FashionIQ's 2,017 / 2,038 / 1,961 val queries: its figures are no FashionIQ figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pipeline.datasets.fashioniq import CUTOFFS, ENDINGS, FashionIq, averages
from pipeline.datasets.reading import FashionPair, parse_entry
from pipeline.errors import InputError
from pipeline.records import Query

FACAP = ("dress", "jacket", "outfit", "pants", "skirt", "top")


def _without_ending(name: str) -> str:
    """Return an image's name without the ending of its file, as FashionIQ names images."""
    stem, dot, ending = name.rpartition(".")
    return stem if f"{dot}{ending.lower()}" in ENDINGS else name


def _named(category: str, asked: Sequence[Query]) -> list[tuple[str, str]]:
    """Return the references and targets of a category, in their order."""
    named = (name for query in asked for name in (query.reference, query.target or ""))
    return [(name, f"pairs of {category}") for name in dict.fromkeys(named)]


class FaCap(FashionIq):
    """FACap's pairs, all of which are made for training."""

    name = "facap"
    folder = "FACap"
    splits = ("train",)
    choices = ("caption_separator",)
    gallery_choices = ("split",)
    categories = FACAP
    averages = averages(CUTOFFS, FACAP)
    prefix = "facap-"

    def category_queries(self, category: str) -> list[Query]:
        """Return a category's queries, without ids; raises InputError."""
        folder = _nested(self.root, "cir_triplets", "data/facap")
        return self.entries(f"{folder}/{category}_train_triplets.json")

    def category_listing(self, category: str, asked: Sequence[Query]) -> list[tuple[str, str]]:
        """Return the images that the pairs name."""
        self._listing.update(self._annotations.digest())
        return _named(category, asked)

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query, without an id; raises InputError."""
        found = parse_entry(FashionPair, entry, where)
        return Query("", found.candidate, tuple(found.captions), target=found.target)


class EnhFashionIq(FashionIq):
    """FashionIQ's val images with texts of FACap's kind; galleries as of FashionIQ's split files,
    where these are there, else of the images that the pairs name."""

    name = "enhfashioniq"
    folder = "enhFashionIQ"
    splits = ("val",)
    choices: ClassVar[tuple[str, ...]] = ("gallery", "caption_separator")
    prefix = "enh-"

    def category_queries(self, category: str) -> list[Query]:
        """Return a category's queries; raises InputError unless one file is the category's."""
        folder = _nested(self.root, "enhfashioniq_triplets", "data/fashioniq")
        files = sorted((self.root / folder).glob(f"*{category}*.json"))
        if len(files) != 1:
            raise InputError(
                f"{self.root / folder} holds {len(files)} files *{category}*.json instead of one."
            )
        return self.entries(f"{folder}/{files[0].name}")

    def category_listing(self, category: str, asked: Sequence[Query]) -> list[tuple[str, str]]:
        """Return the images of FashionIQ's val split file, or those that the pairs name."""
        if (self.root / "image_splits").is_dir():
            return super().category_listing(category, asked)
        self.notes.append(f"no image_splits: the gallery of {category} is what its pairs name")
        self._listing.update(self._annotations.digest())
        return _named(category, asked)

    def parse(self, entry: Any, where: str) -> Query:
        """Return an annotation's query, without an id; raises InputError."""
        found = parse_entry(FashionPair, entry, where)
        reference, target = map(_without_ending, (found.candidate, found.target))
        return Query("", reference, tuple(found.captions), target=target)


def _nested(root: Path, folder: str, parent: str) -> str:
    """Return ``folder`` as it is, or as the repository nests it."""
    return folder if (root / folder).is_dir() else f"{parent}/{folder}"
