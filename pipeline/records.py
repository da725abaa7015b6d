"""The plain typed records that stages hand to one another. Image and query ids are strings."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.run import Run


@dataclass(frozen=True)
class Query:
    """A reference image with its relative caption(s), and the ground truth where it is known.

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

    @property
    def relevant(self) -> tuple[str, ...]:
        """All images that count as found: target and ground truths; empty where unknown."""
        target = () if self.target is None else (self.target,)
        return tuple(dict.fromkeys((*target, *self.ground_truths)))


@dataclass(frozen=True)
class Captions:
    """The captions of one reference image, in sampling order."""

    image: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class EditedCaption:
    """The LLM's edit of one caption by one relative caption; ``text`` is None where it failed."""

    caption: str
    relative_caption: str
    text: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Ranking:
    """The images retrieved for one query, best first, with their scores.

    ``subset`` ranks the members of the query's CIRR group; empty for other datasets.
    """

    query: str
    images: tuple[str, ...]
    scores: tuple[float, ...]
    subset: tuple[str, ...] = field(default=())

    def show(self, run: "Run", top: int = 10) -> "Image":
        """Return a picture of the query and its ``top`` images, which a notebook shows."""
        from pipeline.pictures import contact_sheet

        return contact_sheet(run, [self], top=top)
