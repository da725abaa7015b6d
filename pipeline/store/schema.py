"""The types of the records in the store's files, and reading them strictly."""

import functools
from collections.abc import Hashable
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypeVar, cast

from pydantic import Field, FiniteFloat, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.store.jsonl import RecordFile

Probability = Annotated[float, Field(ge=0, le=1)]


class CaptionRecord(TypedDict):
    """A line of the caption stage's file; no captions where the image could not be read."""

    image: str
    captions: list[str]


class EditRecord(TypedDict):
    """A line of the edit stage's file; see ``editor.Pair``."""

    caption: str
    relative_caption: str
    shared_concept: NotRequired[str]
    sample: NotRequired[int]
    edited_caption: str | None
    reason: NotRequired[str | None]
    desired: NotRequired[list[str]]
    preserve: NotRequired[list[str]]
    forbidden: NotRequired[list[str]]


class WrittenRecord(TypedDict):
    """A line of a file of texts that an LLM wrote; see ``writing.Written``."""

    asked: dict[str, str]
    sample: NotRequired[int]
    answer: dict[str, str] | None
    reason: NotRequired[str | None]


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
    """A line of the listing of a folder of one's own images; times in nanoseconds.

    ``broken`` says why the bytes could not be decoded by ``decoder``, see ``images.decoder``;
    ``removed`` that the file is gone.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: NotRequired[int]
    inode: NotRequired[int]
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    broken: NotRequired[str]
    decoder: NotRequired[str]
    removed: NotRequired[bool]


class MetadataRecord(TypedDict):
    """A line of what the files of a folder say besides their pixels; see ``own.metadata``."""

    path: str
    hash: str
    bytes: int
    mtime_ns: int
    ctime_ns: int
    width: int
    height: int
    """Upright, by EXIF's orientation; 0 where the image cannot be decoded."""
    taken: str | None
    make: str | None
    model: str | None
    lens: str | None
    iso: FiniteFloat | None
    broken: bool
    """Whether its EXIF is damaged."""
    text: str
    attributes: dict[str, str]
    sidecars: dict[str, list[int]]
    unread: int
    """Sidecars that could not be read."""
    removed: NotRequired[bool]


Record = TypeVar("Record")


def typed(source: "RecordFile", kind: type[Record]) -> list[Record]:
    """Return a file's records as ``kind``; raises InputError naming the file, record and field."""
    return checked(source, source.read(), kind)


def checked(
    source: "RecordFile", records: list[dict[str, Any]], kind: type[Record]
) -> list[Record]:
    """Return records that were read from ``source`` as ``kind``; raises InputError as ``typed``."""
    try:
        found: list[Record] = _list_of(cast(Hashable, kind)).validate_python(records, strict=True)
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
