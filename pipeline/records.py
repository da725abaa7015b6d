"""The plain typed records that stages hand to one another. Image and query ids are strings."""

import functools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeVar, cast

from pydantic import Field, FiniteFloat, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from pipeline.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipeline.cache import RecordFile
    from pipeline.run import Run

Probability = Annotated[float, Field(ge=0, le=1)]


class CaptionRecord(TypedDict):
    """A line of the caption stage's file; no captions where the image could not be read."""

    image: str
    captions: list[str]


class EditRecord(TypedDict):
    """A line of the edit stage's file; see ``edit.Pair``."""

    caption: str
    relative_caption: str
    shared_concept: NotRequired[str]
    sample: NotRequired[int]
    edited_caption: str | None
    reason: NotRequired[str | None]
    desired: NotRequired[list[str]]
    preserve: NotRequired[list[str]]
    forbidden: NotRequired[list[str]]


class ImportedCaptions(TypedDict):
    """A line of a file of imported captions."""

    query: str
    captions: list[str]


class ImportedEdits(TypedDict):
    """A line of a file of imported edits."""

    query: str
    edited_captions: list[str]


class RankingRecord(TypedDict):
    """A line of a file of rankings; see ``Ranking``."""

    query: str
    images: list[str]
    scores: list[FiniteFloat]
    subset: list[str]
    probabilities: NotRequired[list[Probability | None]]
    subset_scores: NotRequired[list[FiniteFloat]]


class VerdictRecord(TypedDict):
    """A line of the verify stage's file; see ``verify.Asked``."""

    query: str
    candidate: str
    edited_caption: str
    probability: Probability | None


class FileRecord(TypedDict):
    """A line of the listing of a folder of one's own images."""

    path: str
    size: int
    mtime_ns: int
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


Record = TypeVar("Record")


def typed(source: "RecordFile", kind: type[Record]) -> list[Record]:
    """Return a file's records as ``kind``; raises InputError naming the file, record and field."""
    try:
        found: list[Record] = _list_of(cast(Hashable, kind)).validate_python(
            source.read(), strict=True
        )
        return found
    except ValidationError as error:
        problem = error.errors()[0]
        number, *place = problem["loc"]
        name = ".".join(map(str, place))
        raise InputError(
            f"{source.file}, record {int(number) + 1}: {name!r} is wrong: {problem['msg']}. Delete "
            "its line or the file; what is missing is then made again."
        ) from None


@functools.cache
def _list_of(kind: Hashable) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[kind])  # type: ignore[valid-type]


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
    excluded: tuple[str, ...] = ()
    """Further images that are never retrieved for it."""

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
    def of(cls, record: RankingRecord) -> "Ranking":
        """Return the ranking of a record in a file."""
        return cls(
            record["query"],
            tuple(record["images"]),
            tuple(record["scores"]),
            tuple(record["subset"]),
            tuple(record.get("probabilities", ())),
            tuple(record.get("subset_scores", ())),
        )

    def show(self, run: "Run", top: int = 10) -> "Image":
        """Return a picture of the query and its ``top`` images, which a notebook shows."""
        from pipeline.pictures import contact_sheet

        return contact_sheet(run, [self], top=top)
