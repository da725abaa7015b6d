"""Which images of a folder meet conditions: what is known of each, and the fields there are.

Nothing here needs torch, so that conditions which cannot be met are refused at once.
"""

import os
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConditionError, InputError
from pipeline.own import attributes, conditions, metadata
from pipeline.own.attributes import Table
from pipeline.own.conditions import Condition, Kind, Value
from pipeline.store.schema import MetadataRecord

if TYPE_CHECKING:
    from pipeline.own.folder import Folder

Paths = Mapping[str, Sequence[str]]
"""The files of each image, by its hash."""
COMMON = 30
"""Values of a field that are listed, the most common first."""
OF_EXIF = ("taken", "make", "model", "lens", "iso")


@dataclass(frozen=True)
class Field:
    """Something that conditions can be about."""

    name: str
    kind: Kind
    about: str


FIELDS = {
    one.name: one
    for one in (
        Field("folder", "folder", "path below the folder, or any folder that the image lies in"),
        Field("name", "text", "the file's name"),
        Field("taken", "date", "EXIF's DateTimeOriginal, else the file's time"),
        Field("width", "number", "pixels, upright"),
        Field("height", "number", "pixels, upright"),
        Field("orientation", "text", "landscape, portrait or square"),
        Field("bytes", "number", "of the file"),
        Field("make", "text", "the camera's maker, by EXIF"),
        Field("model", "text", "the camera's model, by EXIF"),
        Field("lens", "text", "by EXIF"),
        Field("iso", "number", "sensitivity, by EXIF"),
        Field("text", "text", "the text file beside the image"),
    )
}
"""What every image has; the attributes that people give come to it."""


@dataclass(frozen=True)
class Matching:
    """The images that meet conditions."""

    conditions: tuple[Condition, ...]
    paths: dict[str, list[str]]
    """Those files of each image that do, by its hash."""
    total: int
    """Images of the folder."""
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What was asked, and how many images meet it, in a sentence."""
        asked = " and ".join(map(str, self.conditions))
        return f"{len(self.paths):,} of {self.total:,} images match {asked}"


@dataclass
class Properties:
    """What is known of a folder's files besides what is in the pictures."""

    records: Mapping[str, MetadataRecord]
    table: Table | None = None
    complete: bool = True
    """Whether the metadata of the folder were read: else it may have more attributes."""
    fields: dict[str, Field] = field(init=False)

    def __post_init__(self) -> None:
        columns = self.table.columns if self.table else {}
        beside = {name for record in self.records.values() for name in record["attributes"]}
        self._attributes = {_own_name(name): name for name in [*columns, *sorted(beside)]}
        named = {key: f"column of {self.table.name}" for key in columns} if self.table else {}
        self.fields = FIELDS | {
            shown: Field(shown, "attribute", named.get(key, "of JSON files beside the images"))
            for shown, key in self._attributes.items()
        }

    def check(self, asked: Sequence[Condition]) -> None:
        """Raise ConditionError, listing the fields, for a condition that cannot be met."""
        for condition in asked:
            if condition.field in self.fields or self.complete:
                self._predicate(condition)

    def matching(self, paths: Paths, asked: tuple[Condition, ...]) -> Matching:
        """Return the images that meet all conditions; raises ConditionError as ``check``.

        An image in several files is met by any of them.
        """
        tests = [(condition.field, self._predicate(condition)) for condition in asked]
        met = {
            content_hash: [
                path for path in own if all(test(self.value(path, name)) for name, test in tests)
            ]
            for content_hash, own in paths.items()
        }
        found = {content_hash: own for content_hash, own in met.items() if own}
        return Matching(asked, found, len(paths), tuple(self._notes(paths, asked, found)))

    def value(self, path: str, name: str) -> Value | None:
        """Return what a file has in a field; None for nothing."""
        if name == "folder":
            return path
        if name == "name":
            return path.rpartition("/")[2]
        record = self.records.get(path)
        if (key := self._attributes.get(name)) is not None:
            row = self.table.rows.get(path, {}) if self.table else {}
            return row.get(key) or (record["attributes"].get(key) if record else None)
        return None if record is None else _of_record(record, name)

    def as_json(self, paths: Paths) -> list[dict[str, Any]]:
        """Return every field with how many images have a value, and the values it has."""
        files = [own[0] for own in paths.values()]
        listed = []
        for one in self.fields.values():
            own = [value for path in files if (value := self.value(path, one.name)) is not None]
            listed.append(asdict(one) | {"images": len(own)} | _summary(one, own))
        return listed

    def _predicate(self, condition: Condition) -> conditions.Predicate:
        try:
            if (known := self.fields.get(condition.field)) is None:
                raise ConditionError(f"{condition}: there is no field {condition.field!r}.")
            cells: Collection[str] = ()
            if known.kind == "attribute":
                cells = set(self._cells(condition.field))
            return conditions.predicate(condition, known.kind, cells)
        except ConditionError as error:
            raise ConditionError(f"{error} Fields: {', '.join(self.fields)}.") from None

    def _cells(self, name: str) -> list[str]:
        known = {*self.records, *(self.table.rows if self.table else ())}
        return [own for path in known if isinstance(own := self.value(path, name), str)]

    def _notes(
        self, paths: Paths, asked: tuple[Condition, ...], found: Mapping[str, Sequence[str]]
    ) -> list[str]:
        """Say what the conditions could not see."""
        names = {condition.field for condition in asked}
        files = [path for own in paths.values() for path in own]
        notes = []
        if "taken" in names and found:
            own = [self.records[p[0]] for p in found.values() if p[0] in self.records]
            by_exif = sum(record["taken"] is not None for record in own)
            notes.append(f"taken: {by_exif:,} by EXIF, {len(own) - by_exif:,} by the file's time.")
        if names - {"folder", "name"} and (count := sum(p not in self.records for p in files)):
            notes.append(f"Nothing is known of {_files(count)} that changed since the index.")
        if names.intersection(OF_EXIF):
            count = sum(p in self.records and self.records[p]["broken"] for p in files)
            notes += [f"The EXIF of {_files(count)} is damaged."] if count else []
        of_people = names & self._attributes.keys()
        if of_people | (names & {"text"}):
            count = sum(self.records[p]["unread"] for p in files if p in self.records)
            notes += [f"{_files(count)} beside images cannot be read."] if count else []
        if of_people and self.table:
            notes += self._rows(self.table, files)
        notes += [note for one in asked if (note := self._no_numbers(one))]
        return notes

    @staticmethod
    def _rows(table: Table, files: Sequence[str]) -> list[str]:
        """Say which rows name no image, and how many images have no row."""
        known = set(files)
        none = sum(path not in known for path in table.rows)
        without = sum(path not in table.rows for path in known)
        told = [
            f"rows that name no image: {none:,}" if none else "",
            f"files without a row: {without:,} of {len(known):,}" if without else "",
            f"rows behind which another one counts: {table.repeated:,}" if table.repeated else "",
        ]
        said = "; ".join(filter(None, told))
        return [f"{table.name}: {said}."] if said else []

    def _no_numbers(self, asked: Condition) -> str | None:
        """Say how many values of an attribute are not of the kind that they are compared as."""
        if asked.operator not in conditions.ORDER or asked.field not in self._attributes:
            return None
        cells = self._cells(asked.field)
        as_numbers = conditions.number(asked.value) is not None and any(
            conditions.number(cell) is not None for cell in cells
        )
        read = conditions.number if as_numbers else conditions.date
        other = sum(read(cell) is None for cell in cells)
        kind = "numbers" if as_numbers else "dates"
        return f"Values of {asked.field} that are no {kind}: {other:,}." if other else None


def _own_name(name: str) -> str:
    """Return an attribute's name as conditions have it: it may be that of a field of all images."""
    return f"attributes.{name}" if name in FIELDS else name


def _files(count: int) -> str:
    return f"{count:,} file{'s' if count != 1 else ''}"


def _of_record(record: MetadataRecord, name: str) -> Value | None:
    if name == "taken":
        if record["taken"] is not None:
            return datetime.fromisoformat(record["taken"])
        return datetime.fromtimestamp(record["mtime_ns"] // 1_000_000_000)
    width, height = record["width"], record["height"]
    if name == "orientation":
        return "square" if width == height else "landscape" if width > height else "portrait"
    value: Value | None = record[name]  # type: ignore[literal-required]  # FIELDS names the others
    return None if value == "" else value


def _summary(known: Field, values: Sequence[Value]) -> dict[str, Any]:
    """Return the least and the most of numbers and dates, the common values of texts."""
    kind, own = known.kind, list[Any](values)
    if kind == "attribute":
        kind, own = _as_one_kind([str(value) for value in values])
    if not own or known.name in ("folder", "name", "text"):
        return {"kind": kind}
    if kind == "text":
        return {"kind": kind, "values": [value for value, _ in Counter(own).most_common(COMMON)]}
    return {"kind": kind, "least": _plain(min(own)), "most": _plain(max(own))}


def _as_one_kind(cells: list[str]) -> tuple[Kind, list[Any]]:
    """Return an attribute's values as numbers or dates, where all of them are."""
    numbers = [conditions.number(cell) for cell in cells]
    if cells and None not in numbers:
        return "number", numbers
    dates = [conditions.as_date(cell) for cell in cells]
    return ("date", dates) if cells and None not in dates else ("text", cells)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _state(file: Path | None) -> tuple[int, ...]:
    """Return what changes with a file's content; nothing for none."""
    try:
        status = file.stat() if file else None
    except FileNotFoundError:
        status = None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else ()


class Filters:
    """The properties of a folder's images, read again where anything of them has changed."""

    def __init__(self, folder: "Folder", named: Path | None = None) -> None:
        self._folder = folder
        self.named = named and Path(os.path.abspath(named))
        self._lock = threading.Lock()
        self._read: tuple[Any, Properties] | None = None
        self._found: dict[tuple[Condition, ...], Matching] = {}

    def properties(self, stamp: Any) -> Properties:
        """Return what is known of the files of an index that has this ``stamp``."""
        with self._lock:
            return self._current(stamp)

    def _current(self, stamp: Any) -> Properties:
        file = attributes.find(self._folder.root, self.named)
        kept = metadata.file_of(self._folder.root, self._folder.cache)
        state = (stamp, file, _state(file), _state(kept))
        if self._read is None or self._read[0] != state:
            table = attributes.read(file, self._folder.root) if file else None
            listing = self._folder.records()
            beside = attributes.sidecars(self._folder, listing)
            records = metadata.update(self._folder, listing, beside).records()
            self._read = ((*state[:3], _state(kept)), Properties(records, table))
            self._found.clear()
        return self._read[1]

    def matching(self, asked: tuple[Condition, ...], paths: Paths, stamp: Any) -> Matching:
        """Return the images of an index that meet conditions; ``InputError`` as ``check``."""
        with self._lock:
            known = self._current(stamp)
            if asked not in self._found:
                while len(self._found) >= COMMON:
                    self._found.pop(next(iter(self._found)))
                self._found[asked] = known.matching(paths, asked)
            return self._found[asked]


def check(root: Path, cache: Path, named: Path | None, where: Sequence[str]) -> None:
    """Raise what conditions on a folder's images would end in, as far as it is known now.

    Raises InputError where there is no such folder or CSV, ConditionError for a condition. A field
    that only a JSON file beside an image may have is let pass until these were read.
    """
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder.")
    file = attributes.find(root, named)
    if not where:
        return
    asked = conditions.parse_all(where)
    table = attributes.read(file, root) if file else None
    kept = metadata.file_of(root, cache)
    quick = Properties({}, table, complete=False)
    if all(condition.field in quick.fields for condition in asked):
        quick.check(asked)
    elif kept.exists():
        Properties(metadata.by_path(kept), table).check(asked)
    else:
        Properties({}, table, complete=not _has_json(root)).check(asked)


def _has_json(root: Path) -> bool:
    """Return whether there is any JSON file in the folder tree."""
    return any(name.endswith(".json") for _, _, names in os.walk(root) for name in names)
