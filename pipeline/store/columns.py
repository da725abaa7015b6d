"""Records by field: a list a field is read and compared many times as fast as dictionaries."""

from collections.abc import Collection, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pipeline.store.schema import Record


@dataclass
class Columns:
    """Records of one kind, by field; all values are as JSON has them."""

    count: int = 0
    """How many records there are."""
    whole: dict[str, list[Any]] = field(default_factory=dict)
    """The values (count) of fields that all records have."""
    some: dict[str, dict[int, Any]] = field(default_factory=dict)
    """The values by row of fields that only some records have."""

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> "Columns":
        """Return records as columns."""
        made = cls(len(records))
        for name in dict.fromkeys(name for record in records for name in record):
            own = {row: record[name] for row, record in enumerate(records) if name in record}
            if len(own) == len(records):
                made.whole[name] = list(own.values())
            else:
                made.some[name] = own
        return made

    @classmethod
    def parsed(cls, said: Mapping[str, Any]) -> "Columns":
        """Return what ``as_json`` made; raises ValueError, KeyError or TypeError for all else."""
        made = cls(said["count"])
        for name, column in said["columns"].items():
            values = column["values"]
            if "rows" in column:
                made.some[name] = dict(zip(column["rows"], values, strict=True))
            elif len(values) == made.count:
                made.whole[name] = values
            else:
                raise ValueError(f"{name} has {len(values)} values, not {made.count}")
        return made

    def as_json(self) -> dict[str, Any]:
        """Return the columns as a JSON object."""
        columns: dict[str, Any] = {name: {"values": own} for name, own in self.whole.items()}
        for name, own in self.some.items():
            columns[name] = {"rows": list(own), "values": list(own.values())}
        return {"count": self.count, "columns": columns}

    def values(self, name: str) -> list[Any]:
        """Return a field's values (count), None for records without it."""
        if name in self.whole:
            return self.whole[name]
        own = self.some.get(name, {})
        return [own.get(row) for row in range(self.count)] if own else [None] * self.count

    def having(self, name: str) -> Collection[int]:
        """Return the rows of the records that have a field."""
        return range(self.count) if name in self.whole else self.some.get(name, {}).keys()

    def record(self, row: int) -> dict[str, Any]:
        """Return one record."""
        here = {name: values[row] for name, values in self.whole.items()}
        return here | {name: own[row] for name, own in self.some.items() if row in own}

    def records(self) -> list[dict[str, Any]]:
        """Return all records."""
        names = tuple(self.whole)
        rows = zip(*self.whole.values(), strict=True) if names else [()] * self.count
        made = [dict(zip(names, row, strict=True)) for row in rows]
        for name, own in self.some.items():
            for row, value in own.items():
                made[row][name] = value
        return made


class Rows(Mapping[str, Record]):
    """The last record of each path, but for those that are ``removed``, in the order they came.

    Made of columns and the records that came after them. A record is made when it is asked for;
    who wants a field of all takes its ``column``.
    """

    def __init__(self, columns: Columns, later: Sequence[Record] = ()) -> None:
        self._columns = columns
        self._later: list[Record] = []
        paths = columns.values("path")
        self._row: dict[str, int] = dict(zip(paths, range(columns.count), strict=True))
        for row in columns.having("removed"):
            if self._row.get(paths[row]) == row:
                del self._row[paths[row]]
        for record in later:
            self.put(record)

    def put(self, record: Record) -> None:
        """Take in a record in place of the one before of its path, or drop that if it is so."""
        said = cast("Mapping[str, Any]", record)
        if "removed" in said:
            self._row.pop(said["path"], None)
            return
        self._row[said["path"]] = self._columns.count + len(self._later)
        self._later.append(record)

    def pop(self, path: str) -> Record:
        """Drop a path's record and return it."""
        return self._record(self._row.pop(path))

    def column(self, name: str) -> list[Any]:
        """Return a field of all records in their order, None for those without it."""
        values = self._columns.values(name)
        if self._later:
            more = cast("list[Mapping[str, Any]]", self._later)
            values = [*values, *(record.get(name) for record in more)]
        return [values[row] for row in self._row.values()]

    def having(self, name: str) -> list[str]:
        """Return the paths whose record has a field."""
        more = cast("list[Mapping[str, Any]]", self._later)
        later = {self._columns.count + row for row, record in enumerate(more) if name in record}
        begun = self._columns.having(name)
        if not begun and not later:
            return []
        return [path for path, row in self._row.items() if row in begun or row in later]

    def in_order(self) -> "Rows[Record]":
        """Return the same in the order of paths."""
        paths = sorted(self._row)
        if paths == list(self._row):
            return self
        other: Rows[Record] = Rows(Columns())
        other._columns, other._later = self._columns, self._later
        other._row = {path: self._row[path] for path in paths}
        return other

    def records(self) -> dict[str, Record]:
        """Return all as a dictionary."""
        all_ = [*cast("list[Record]", self._columns.records()), *self._later]
        return {path: all_[row] for path, row in self._row.items()}

    def _record(self, row: int) -> Record:
        if row < self._columns.count:
            return cast("Record", self._columns.record(row))
        return self._later[row - self._columns.count]

    def keys(self) -> KeysView[str]:
        """Return the paths."""
        return self._row.keys()

    def __getitem__(self, path: str) -> Record:
        return self._record(self._row[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, path: object) -> bool:
        return path in self._row
