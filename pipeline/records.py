"""The plain typed records that stages hand to one another. Image and query ids are strings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.store.schema import RankingRecord


@dataclass(frozen=True)
class Crop:
    """A part of an image file that stands for an image of its own, as GeneCIS's objects do."""

    file: Path
    box: tuple[float, float, float, float]
    """Left, top, width and height in pixels."""
    dilation: float = 0.0
    """By how much of its own size the box grows; see ``images.crops.cut``."""

    def __str__(self) -> str:
        return f"{self.file}, box {', '.join(f'{side:g}' for side in self.box)}"


ImageFile = Path | Crop
"""Where an image is. Whatever opens one opens both."""


def file_of(image: ImageFile) -> Path:
    """Return the file that an image is, or is a part of."""
    return image.file if isinstance(image, Crop) else image


@dataclass(frozen=True)
class Query:
    """A reference image with its relative caption(s), and the ground truth where it is known.

    A query of several images has the others in ``further``; together they are ``references``.
    ``gallery`` names the gallery of the dataset that this query is searched in. ``target`` is the
    single target of recall@k, ``ground_truths`` all relevant images (CIRCO), ``group`` the other
    members of the query's CIRR image set, reference excluded.
    """

    id: str
    reference: str
    relative_captions: tuple[str, ...]
    gallery: str = "all"
    target: str | None = None
    ground_truths: tuple[str, ...] = ()
    aspects: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    shared_concept: str | None = None
    excluded: tuple[str, ...] = ()
    """Further images that are never retrieved for it."""
    negatives: tuple[str, ...] = ()
    """Images that are told to be wrong answers (PinPoint)."""
    further: tuple[str, ...] = ()
    """Reference images behind the first."""
    session: str = ""
    """The dialogue that it is a turn of, where it is one."""
    turn: int = 0
    """The number of the turn, from 1."""

    @property
    def references(self) -> tuple[str, ...]:
        """All reference images, each once, in the query's order."""
        return tuple(dict.fromkeys((self.reference, *self.further)))

    @property
    def relevant(self) -> tuple[str, ...]:
        """All images that count as found: target and ground truths; empty where unknown."""
        target = () if self.target is None else (self.target,)
        return tuple(dict.fromkeys((*target, *self.ground_truths)))


@dataclass(frozen=True)
class Ranking:
    """The images retrieved for one query, best first, with their scores.

    ``subset`` ranks the members of the query's CIRR group, with scores; empty for other datasets.
    ``probabilities`` are a verifier's for the images, None where it was not asked; empty without
    one. A verified ranking keeps the scores of the search, which then need not fall.
    """

    query: str
    images: tuple[str, ...]
    scores: tuple[float, ...]
    subset: tuple[str, ...] = ()
    probabilities: tuple[float | None, ...] = ()
    subset_scores: tuple[float, ...] = ()

    @classmethod
    def of(cls, record: "RankingRecord") -> "Ranking":
        """Return the ranking of a record in a file."""
        return cls(
            record["query"],
            tuple(record["images"]),
            tuple(record["scores"]),
            tuple(record["subset"]),
            tuple(record.get("probabilities", ())),
            tuple(record.get("subset_scores", ())),
        )
