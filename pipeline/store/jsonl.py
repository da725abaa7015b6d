"""Record files: append-only JSON lines with a header, each line with a checksum.

What a disk or a copy damaged is named and computed again. Files of earlier versions have no
checksums, and are read as they are.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import xxhash

from pipeline.errors import InputError
from pipeline.processes import Processes
from pipeline.store.files import atomic, lock, storage_errors, write_text
from pipeline.store.identity import provenance

log = logging.getLogger("seize")

CHECKSUM = re.compile(rb', "checksum": "([0-9a-f]{16})"}$')
"""The last field of a record's line; it is of the line without it."""


class RecordFile:
    """A header line, then one JSON object a line, each appended and flushed as it is computed.

    A torn last line (the process was killed while writing it) is dropped. Use as a context manager
    to append, under a lock; ``read`` needs none. Where several processes compute, each appends to
    a shard beside the file; shards count as part of it and are merged by whoever appends next.
    """

    def __init__(self, file: Path, header: dict[str, Any]) -> None:
        self.file = file
        self.header = header
        self._appends = False
        self._stream: BinaryIO | None = None

    def read(self) -> list[dict[str, Any]]:
        """Return all complete records.

        A damaged line is an InputError that names it; but whoever appends computes what is missing,
        so there it is dropped with a warning.
        """
        # Shards first: one that is merged meanwhile is then found in the file instead.
        shards = [self._read(shard) for shard in self.shards()]
        lines = self._read(self.file)
        if not shards:
            return [record for _, record in lines.records]
        merged = dict(lines.records)
        for shard in shards:
            merged |= dict(shard.records)
        return list(merged.values())

    def count(self) -> int:
        """Return how many lines the file has beside its header; shards do not count."""
        with contextlib.suppress(FileNotFoundError):
            return max(self.file.read_bytes().count(b"\n") - 1, 0)
        return 0

    def _read(self, file: Path) -> "_Lines":
        lines = _read_lines(file)
        if not lines.damaged:
            return lines
        numbers = ", ".join(map(str, lines.damaged))
        many = len(lines.damaged) > 1
        what = f"{file}, line{'s' if many else ''} {numbers} {'are' if many else 'is'} damaged"
        if not self._appends:
            raise InputError(
                f"{what}. Run the command that makes this file again: it drops what is damaged and "
                "computes it again."
            )
        log.warning("%s: dropped, and computed again.", what)
        if file == self.file and self._locked:
            self._close()
            header = lines.header or _line_of({"header": self.header | provenance()})
            with atomic(file) as temporary:
                temporary.write_bytes(b"\n".join([header.rstrip(), *dict(lines.records), b""]))
        return lines

    @contextlib.contextmanager
    def shared(self, processes: Processes) -> Iterator["RecordFile"]:
        """Yield the file this process appends to: this one, or its shard where there are several.

        At the end it waits for all processes, and the main one merges the shards.
        """
        if processes.count == 1:
            with self:
                yield self
            return
        with self if processes.main else contextlib.nullcontext():
            self._appends = True
            with self.shard(processes.index) as shard:
                yield shard
            processes.wait()
            if processes.main:
                self._merge_shards()

    def shard(self, process: int) -> "RecordFile":
        """Return the file that one of several processes appends to."""
        return RecordFile(self.file.with_name(f"{self.file.name}.shard-{process}"), self.header)

    def shards(self) -> list[Path]:
        """Return the files beside this one that count as part of it."""
        return sorted(self.file.parent.glob(f"{self.file.name}.shard-*"))

    def _merge_shards(self) -> None:
        """Append what the shards hold and delete them, save those that are being written."""
        for shard in self.shards():
            with lock(shard, wait=False) as held:
                if held:
                    known = dict(self._read(self.file).records)
                    for line, record in self._read(shard).records:
                        if line not in known:
                            self.append(record)
                    with storage_errors(shard):
                        shard.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._locked = self._stack.enter_context(lock(self.file))
        self._appends = True
        try:
            if self._locked or not self.file.exists():  # else it is read, as long as that is enough
                self._open()
            self._merge_shards()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> BinaryIO:
        if self._stream is None:
            with storage_errors(self.file):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.file.open("ab+")
                self._drop_torn_line(self._stream)
                if self._stream.tell() == 0:
                    self.append({"header": self.header | provenance()})
        return self._stream

    @staticmethod
    def _drop_torn_line(stream: BinaryIO) -> None:
        if not stream.seek(0, os.SEEK_END):
            return
        stream.seek(-1, os.SEEK_END)
        if stream.read() == b"\n":  # as nearly always: the rest need not be read
            return
        stream.seek(0)
        end = stream.read().rfind(b"\n") + 1
        stream.truncate(end)
        stream.seek(end)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record as a whole line; raises StorageError when the disk is full."""
        stream = self._open()
        with storage_errors(self.file):
            stream.write(_line_of(record))
            stream.flush()

    def _close(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # a full disk's failed line fails again on closing
                self._stream.close()
            self._stream = None

    def __exit__(self, *exception: object) -> None:
        self._close()
        self._stack.close()
        self._appends = False


def _line_of(record: dict[str, Any]) -> bytes:
    """Return a record as a line of JSON, with a checksum of the rest as its last field."""
    text = json.dumps(record, ensure_ascii=False)
    checksum = xxhash.xxh3_64_hexdigest(text.encode())
    return json.dumps(record | {"checksum": checksum}, ensure_ascii=False).encode() + b"\n"


def _record_of(line: bytes) -> dict[str, Any]:
    """Return the record of a line without its checksum; raises ValueError where that differs."""
    found = CHECKSUM.search(line)
    if found is not None:
        line = line[: found.start()] + b"}"
        if xxhash.xxh3_64_hexdigest(line).encode() != found[1]:
            raise ValueError("another checksum")
    record = json.loads(line)
    if not isinstance(record, dict) or "checksum" in record:
        raise ValueError("no object, or a checksum that is damaged itself")
    return record


@dataclass
class _Lines:
    """The complete lines of a record file."""

    header: bytes | None = None
    """The first line; None where it is damaged or not there."""
    records: list[tuple[bytes, dict[str, Any]]] = field(default_factory=list)
    """Each further line with its record."""
    damaged: list[int] = field(default_factory=list)
    """The numbers of lines that are not as they were written, from 1."""


def _read_lines(file: Path) -> _Lines:
    """Return the complete lines of ``file``; raises InputError where it cannot be read."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return _Lines()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    return _lines_of(content)


def _lines_of(content: bytes, first: int = 1) -> _Lines:
    """Return the complete lines of ``content``, whose first one has the number ``first``."""
    found = _Lines()
    for number, line in enumerate(content.split(b"\n")[:-1], start=first):
        try:
            record = _record_of(line)
        except (ValueError, RecursionError):
            found.damaged.append(number)
            continue
        if number == 1:
            found.header = line
        else:
            found.records.append((line, record))
    return found


def records_of(content: bytes) -> list[dict[str, Any]] | None:
    """Return the records of complete lines without a header, None where one is damaged."""
    lines = _lines_of(content, first=2)
    return None if lines.damaged else [record for _, record in lines.records]


def read_header(file: Path) -> dict[str, Any]:
    """Return the header of a record file as it stands there, with versions and time.

    Raises InputError where there is none.
    """
    try:
        with file.open("rb") as stream:
            header = _record_of(stream.readline().removesuffix(b"\n"))["header"]
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except (OSError, ValueError, KeyError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(
            f"{file} does not begin with the header of a cache file, or is damaged there. Run the "
            "command that makes it again."
        )
    return header


def write_records(file: Path, header: dict[str, Any], records: Iterable[dict[str, Any]]) -> None:
    """Write a whole record file at once, completely or not at all."""
    lines = [{"header": header | provenance()}, *records]
    write_text(file, b"".join(map(_line_of, lines)).decode())
