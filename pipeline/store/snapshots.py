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
    """The records of a file, and for how many of its bytes a snapshot stood."""

    records: list[Record]
    quickly: int


def read(source: RecordFile, kind: type[Record]) -> Read[Record]:
    """Return what ``typed`` does, or what a snapshot holds in place of the file's beginning."""
    content = _content(source.file)
    begun = _begun(source.file, content)
    if begun is None or source.shards():
        return Read(typed(source, kind), 0)
    records, length = begun
    later = records_of(content[length:])
    if later is None:  # the damaged line is told, or dropped, by its number
        return Read(typed(source, kind), 0)
    return Read([*cast("list[Record]", records), *checked(source, later, kind)], length)


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
    text = json.dumps(said | _columns([*records]), ensure_ascii=False)
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


def _begun(file: Path, content: bytes) -> tuple[list[dict[str, Any]], int] | None:
    """Return the records with which ``content`` begins and its bytes that they stand for."""
    try:
        told, _, text = file_of(file).read_bytes().partition(b"\n")
        if told.decode() != _checksum(text):
            return None
        said = from_json(text)
        length: int = said["bytes"]
        if length > len(content) or said["begins"] != _checksum(content[:length]):
            return None
        return _rows(said["count"], said["columns"]), length
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checksum(content: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(content)


def _columns(records: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return records by field: the values of all, or the rows of those that have it and theirs."""
    fields = dict.fromkeys(name for record in records for name in record)
    columns: dict[str, Any] = {}
    for name in fields:
        rows = [row for row, record in enumerate(records) if name in record]
        values = [records[row][name] for row in rows]
        whole = len(rows) == len(records)
        columns[name] = {"values": values} if whole else {"rows": rows, "values": values}
    return {"count": len(records), "columns": columns}


def _rows(count: int, columns: dict[str, Any]) -> list[dict[str, Any]]:
    whole = {name: column["values"] for name, column in columns.items() if "rows" not in column}
    if not whole:
        records: list[dict[str, Any]] = [{} for _ in range(count)]
    else:
        names = tuple(whole)
        values = zip(*whole.values(), strict=True)
        records = [dict(zip(names, row, strict=True)) for row in values]
    for name, column in columns.items():
        if "rows" in column:
            for row, value in zip(column["rows"], column["values"], strict=True):
                records[row][name] = value
    return records
