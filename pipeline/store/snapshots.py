"""Snapshots of long record files: their records as columns, which are read several times as fast.

A snapshot stands beside its file and says how the file began. Where it still begins so, byte for
byte, only what was appended since is read line by line; where it does not, or the snapshot is
damaged, all lines are. So a snapshot can be deleted at any time, and nothing depends on it.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, cast

import xxhash
from pydantic_core import from_json

from pipeline.errors import InputError, StorageError
from pipeline.store.columns import Columns
from pipeline.store.files import write_text
from pipeline.store.jsonl import RecordFile, records_of
from pipeline.store.schema import Record, checked, typed

WORTH = 100_000
"""Bytes that are read line by line at most, if they are not ``SHARE`` of the file."""
SHARE = 0.1


def file_of(records: Path) -> Path:
    """Return where the snapshot of a record file is."""
    return records.with_suffix(".columns.json")


class Read(NamedTuple, Generic[Record]):
    """The records of a file: those that a snapshot stands for, then the others."""

    columns: Columns
    later: list[Record]
    quickly: int
    """For how many of the file's bytes the snapshot stood."""

    @property
    def records(self) -> list[Record]:
        """All records in the order of their lines."""
        return [*cast("list[Record]", self.columns.records()), *self.later]


def read(source: RecordFile, kind: type[Record]) -> Read[Record]:
    """Return what ``typed`` does, or what a snapshot holds in place of the file's beginning."""
    content = _content(source.file)
    begun = _begun(source.file, content)
    if begun is None or source.shards():
        return Read(Columns(), typed(source, kind), 0)
    columns, length = begun
    later = records_of(content[length:])
    if later is None:  # the damaged line is told, or dropped, by its number
        return Read(Columns(), typed(source, kind), 0)
    return Read(columns, checked(source, later, kind), length)


def is_worth_it(source: RecordFile, quickly: int) -> bool:
    """Whether a snapshot would be read much quicker, where one stands for ``quickly`` bytes."""
    size = source.file.stat().st_size if source.file.exists() else 0
    return size - quickly > max(WORTH, SHARE * size)


def keep(source: RecordFile, records: Iterable[Mapping[str, Any]]) -> None:
    """Keep ``records`` as what ``source`` says so far, where the cache can be written.

    They may be fewer than its lines: those that count.
    """
    content = _content(source.file)
    said = {"bytes": len(content), "begins": _checksum(content)}
    text = json.dumps(said | Columns.of([*records]).as_json(), ensure_ascii=False)
    with contextlib.suppress(StorageError):
        write_text(file_of(source.file), f"{_checksum(text.encode())}\n{text}")


def _content(file: Path) -> bytes:
    """Return a record file's complete lines."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    return content[: content.rfind(b"\n") + 1]


def _begun(file: Path, content: bytes) -> tuple[Columns, int] | None:
    """Return the records with which ``content`` begins and its bytes that they stand for."""
    try:
        with file_of(file).open("rb") as stream:
            told, text = stream.readline(), stream.read()
        if told.rstrip(b"\n").decode() != _checksum(text):
            return None
        said = from_json(text, cache_strings=False)  # nearly all are different
        length: int = said["bytes"]
        if length > len(content) or said["begins"] != _checksum(content[:length]):
            return None
        return Columns.parsed(said), length
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(content: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(content)
