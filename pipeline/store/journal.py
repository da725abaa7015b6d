"""Journals: what is known of each path, as a record file to which changes are appended."""

from types import TracebackType
from typing import Any, Generic, Self, cast

from pipeline.store import snapshots
from pipeline.store.columns import Columns, Rows
from pipeline.store.jsonl import RecordFile, write_records
from pipeline.store.schema import Record

STALE = 0.25
"""Lines that do not count any more, against those that do, at most; then it is written anew."""


class Journal(Generic[Record]):
    """The last record of each path, but for those that are ``removed``: ``current``.

    Records are of a kind with the fields ``path`` and ``removed``. Use as a context manager to
    change it, under the file's lock; ``read`` needs none.
    """

    def __init__(self, file: RecordFile, kind: type[Record]) -> None:
        self.file = file
        self.current: Rows[Record] = Rows(Columns())
        self._kind = kind
        self._quickly = 0
        self._changed = False
        self._seen: tuple[int, ...] | None = None

    def read(self) -> Rows[Record]:
        """Return what is there by path; raises InputError as ``typed``."""
        state = self._state()  # before: what comes meanwhile is another one
        found = snapshots.read(self.file, self._kind)
        self._quickly = found.quickly
        self.current = Rows(found.columns, found.later)
        self._seen = state
        return self.current

    def _state(self) -> tuple[int, ...] | None:
        """Return what changes with the file: it is appended to, or replaced as a whole."""
        try:
            status = self.file.file.stat()
        except FileNotFoundError:
            return None
        return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns

    @property
    def is_slow(self) -> bool:
        """Whether reading is quicker once it has been opened to change it."""
        return snapshots.is_worth_it(self.file, self._quickly)

    def put(self, record: Record) -> None:
        """Append a record, in place of the one before of its path."""
        said = cast("dict[str, Any]", record)
        self.file.append(dict(said))
        self.current.put(record)
        self._changed = True

    def drop(self, path: str) -> None:
        """Append that there is no record of a path any more."""
        said = cast("dict[str, Any]", self.current.pop(path))
        self.file.append(said | {"removed": True})
        self._changed = True

    def __enter__(self) -> Self:
        self.file.__enter__()
        try:
            if self._seen is None or self._seen != self._state():  # else it is in ``current``
                self.read()
        except BaseException:
            self.file.__exit__()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._tidy()
        finally:
            self.file.__exit__()

    def _tidy(self) -> None:
        lines = (1 + STALE) * len(self.current)
        if self._changed and self.file.count() > lines:
            write_records(self.file.file, self.file.header, self._said())
            self._quickly = 0
        if self.is_slow:
            snapshots.keep(self.file, self._said())

    def _said(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", [*self.current.records().values()])
