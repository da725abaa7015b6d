"""The store between stages: append-only JSON lines, and feature files that are memory-mapped.

Every file name carries a fingerprint of all that changes its content, so a changed prompt or model
makes a new file and nothing stale is mixed in. Every line and every few rows carry a checksum, so
what a disk or a copy damaged is named and computed again. Files of earlier versions have none, and
are read as they are.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Self

import filelock
import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from pipeline.errors import InputError, StorageError
from pipeline.processes import Processes

log = logging.getLogger("seize")

Features = NDArray[np.floating[Any]]

CHECKED = 16
"""Rows of a feature file that share a checksum. Single rows of a large gallery are read too, and
then this many are."""

UNFINISHED = ".unfinished"
"""How files end while they are written."""

UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What a cache that may only be read answers."""

CHECKSUM = re.compile(rb', "checksum": "([0-9a-f]{16})"}$')
"""The last field of a record's line; it is of the line without it."""

SEAL = b"\nxxh3-64:"
"""What stands before the checksum at the end of a file that another library wrote."""


def fingerprint(content: Any) -> str:
    """Return 12 hex digits that identify JSON-able ``content``, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def provenance() -> dict[str, Any]:
    """Return versions and time for a file's header; they do not enter the fingerprint."""
    packages = ("torch", "transformers", "open_clip_torch", "seize")
    versions = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"versions": versions, "created": datetime.now(UTC).isoformat(timespec="seconds")}


@contextlib.contextmanager
def atomic(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``file`` and rename it there at the end: all or nothing.

    It is on the disk before it is renamed, so a failure of power leaves no half file either.
    """
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(file.parent)
        handle, name = tempfile.mkstemp(UNFINISHED, f".{file.name}.", file.parent)
        temporary = Path(name)
        try:
            with contextlib.suppress(OSError):  # not every file system has locks
                filelock.lock_descriptor(handle, blocking=False)  # until it is closed
            yield temporary
            temporary.chmod(0o644)
            _to_disk(temporary)
            temporary.replace(file)
            with contextlib.suppress(OSError):  # not every system can do this with folders
                _to_disk(file.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@functools.cache  # once a process: listing a folder of many files takes time
def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote into ``folder``.

    Those of living ones are locked.
    """
    for file in folder.glob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            handle = os.open(file, os.O_RDWR)
            try:
                if filelock.lock_descriptor(handle, blocking=False):
                    file.unlink()
            finally:
                os.close(handle)


def write_text(file: Path, text: str) -> None:
    """Write ``text``, completely or not at all."""
    with atomic(file) as temporary, storage_errors(file):
        temporary.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` as JSON, completely or not at all."""
    write_text(file, json.dumps(content, ensure_ascii=False))


def write_records(file: Path, header: dict[str, Any], records: Iterable[dict[str, Any]]) -> None:
    """Write a whole record file at once, completely or not at all."""
    lines = [{"header": header | provenance()}, *records]
    write_text(file, b"".join(map(_line_of, lines)).decode())


@contextlib.contextmanager
def storage_errors(file: Path) -> Iterator[None]:
    """Turn a failed write (disk full, read-only) into one StorageError that names the file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(
            f"Cannot write {file}: {reason}. What was computed before is kept; "
            "make room or choose another --cache folder, then run the same command again."
        ) from error


@contextlib.contextmanager
def lock(file: Path, wait: bool = True) -> Iterator[bool]:
    """Hold ``file`` for one process; a second one waits and then finds the work done.

    Without ``wait`` it goes on without the lock, and yields False; likewise where nothing can be
    written, so that what is there can be read. The operating system frees the lock when its holder
    dies, so a kill leaves nothing behind.
    """
    held = filelock.FileLock(file.parent / f".{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(blocking=False)
    except filelock.Timeout:
        if wait:
            log.info("Another process is writing %s; waiting for it.", file)
            with storage_errors(file):
                held.acquire()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            with storage_errors(file):
                raise
    try:
        yield held.is_locked
    finally:
        held.release()


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
        shards = [self._read(shard) for shard in self._shards()]
        lines = self._read(self.file)
        if not shards:
            return [record for _, record in lines.records]
        merged = dict(lines.records)
        for shard in shards:
            merged |= dict(shard.records)
        return list(merged.values())

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

    def _shards(self) -> list[Path]:
        return sorted(self.file.parent.glob(f"{self.file.name}.shard-*"))

    def _merge_shards(self) -> None:
        """Append what the shards hold and delete them, save those that are being written."""
        for shard in self._shards():
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
    found = _Lines()
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
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


def write_features(
    file: Path, names: Sequence[str], features: Features, header: dict[str, Any]
) -> None:
    """Write ``features`` (len(names), d) with their names and header, completely or not at all."""
    write_feature_blocks(file, names, [features], features.shape[1], features.dtype, header)


def write_feature_blocks(
    file: Path,
    names: Sequence[str],
    blocks: Iterable[Features],
    width: int,
    dtype: np.dtype[Any],
    header: dict[str, Any],
) -> None:
    """Write features that come as blocks of rows (…, width), so that memory stays steady.

    The rows of all blocks are those of ``names``. The format is safetensors', whose own writer
    wants everything in memory: a JSON header after its length, then the tensors' bytes. Names are
    a tensor too, since the header may take 100 MB only: some five million names.
    """
    listed = json.dumps(list(names)).encode()
    sums = _RowChecksums(width * dtype.itemsize)
    shapes = {
        "features": (f"F{8 * dtype.itemsize}", [len(names), width], dtype.itemsize),
        "names": ("U8", [len(listed)], 1),
        "checksums": ("U64", [-(-len(names) // CHECKED) + 1], 8),
    }
    tensors: dict[str, Any] = {"__metadata__": {"header": json.dumps(header, default=str)}}
    end = 0
    for name, (kind, shape, size) in shapes.items():
        start, end = end, end + math.prod(shape) * size
        tensors[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(tensors).encode()
    head += b" " * (-len(head) % 8)  # the rows are aligned for the memory map
    head = len(head).to_bytes(8, "little") + head
    with atomic(file) as temporary, temporary.open("wb") as stream:
        stream.write(head)
        for block in blocks:
            content = np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8)
            sums.update(content)
            stream.write(content.data)
        rows = np.array(sums.done(), "<u8").tobytes()
        stream.write(listed + rows + _checksum_of(head, listed, rows).to_bytes(8, "little"))


class _RowChecksums:
    """Makes the checksums of every ``CHECKED`` rows from rows that come in any portions."""

    def __init__(self, row: int) -> None:
        self._size = CHECKED * row
        self._open, self._filled = xxhash.xxh3_64(), 0
        self._sums: list[int] = []

    def update(self, content: NDArray[np.uint8]) -> None:
        """Go on with the bytes of some rows (n)."""
        start = 0
        while start < len(content):
            part = content[start : start + self._size - self._filled]
            self._open.update(part.data)
            start, self._filled = start + len(part), self._filled + len(part)
            if self._filled == self._size:
                self._close()

    def _close(self) -> None:
        self._sums.append(self._open.intdigest())
        self._open, self._filled = xxhash.xxh3_64(), 0

    def done(self) -> list[int]:
        """Return the checksums; the last one's rows may be fewer."""
        if self._filled:
            self._close()
        return self._sums


def _checksum_of(*parts: bytes) -> int:
    checksum = xxhash.xxh3_64()
    for part in parts:
        checksum.update(part)
    return checksum.intdigest()


def seal(file: Path) -> None:
    """Append a checksum of its content to a file that another library wrote and reads."""
    checksum = _checksum_of_file(file, file.stat().st_size)
    with file.open("ab") as stream:
        stream.write(SEAL + checksum)


def is_intact(file: Path) -> bool:
    """Return whether a file is byte for byte as it was sealed; InputError if it cannot be read."""
    try:
        end = file.stat().st_size - len(SEAL) - 8
        if end < 0:
            return False
        with file.open("rb") as stream:
            stream.seek(end)
            return stream.read() == SEAL + _checksum_of_file(file, end)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None


def _checksum_of_file(file: Path, end: int) -> bytes:
    checksum = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while part := stream.read(min(1 << 20, end - stream.tell())):
            checksum.update(part)
    return checksum.digest()


def memory_map(file: Path, tensor: str) -> Features:
    """Return a tensor of a ``.safetensors`` file as an array on disk, to index in any way.

    safetensors itself reads slices only. The format: a length, a JSON header, the tensors' bytes.
    Raises InputError for a tensor that is neither float16, float32 nor float64.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length))[tensor]
    dtypes = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if entry["dtype"] not in dtypes:
        raise InputError(f"{file} holds {entry['dtype']}, not float16 or float32.")
    start, shape = 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
    if 0 in shape:  # which cannot be mapped
        return np.empty(shape, dtypes[entry["dtype"]])
    return np.memmap(file, dtypes[entry["dtype"]], mode="r", offset=start, shape=shape)


def _check_content(names: Any, header: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless these can be a feature file's."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no list of texts")
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    if len(shape) != 2 or shape[0] != len(names):
        raise ValueError(f"{len(names)} names do not fit features of shape {shape}")


class FeatureFile:
    """Named feature vectors on disk, memory-mapped: slices are read when asked for.

    Attributes: ``names`` (n), ``shape`` (n, d), ``header``. Raises InputError for a file that is
    damaged or holds NaN or infinite values (checked on reading, naming the item). Rows are compared
    with their checksums when they are first read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._handle = safe_open(file, framework="numpy")
            content = self._handle.metadata()  # type: ignore[no-untyped-call]
            names = content.get("names")  # where files of earlier versions have them
            if names is None:
                names = self._tensor("names").tobytes()
            self._checksums = self._read_checksums(names)
            self.names: list[str] = json.loads(names)
            self.header: dict[str, Any] = json.loads(content["header"])
            features = self._handle.get_slice("features")  # type: ignore[no-untyped-call]
            self.shape: tuple[int, int] = tuple(features.get_shape())
            self._checked_rows = np.zeros(len(self._checksums), bool)
            _check_content(self.names, self.header, self.shape)
        except (
            *(OSError, SafetensorError, KeyError, TypeError, ValueError),
            *(AttributeError, RecursionError),
        ) as error:
            raise InputError(
                f"{file} is damaged or not a feature file ({error}). Run the command that makes it "
                "again, `seize embed` or `seize index`: it computes what is damaged."
            ) from None

    @functools.cached_property
    def row(self) -> dict[str, int]:
        """The row of every item by its name."""
        return {name: i for i, name in enumerate(self.names)}

    def _tensor(self, name: str) -> NDArray[Any]:
        tensor: NDArray[Any] = self._handle.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def _read_checksums(self, names: bytes) -> list[int]:
        """Return those of the rows; raises ValueError where that of all the rest differs."""
        tensors = set(self._handle.keys())  # type: ignore[no-untyped-call]
        if not tensors - {"features", "names"}:  # a file of an earlier version
            return []
        *rows, rest = map(int, self._tensor("checksums"))
        with self.file.open("rb") as stream:
            length = stream.read(8)
            head = length + stream.read(int.from_bytes(length, "little"))
        if rest != _checksum_of(head, names, np.array(rows, "<u8").tobytes()):
            raise ValueError("its checksum is another")
        return rows

    def rows(self, start: int, stop: int) -> Features:
        """Return rows ``start`` to ``stop`` as an array (stop - start, d) in the stored dtype."""
        if start < stop:
            self._compare(np.arange(start // CHECKED, (stop - 1) // CHECKED + 1))
        return self._checked(np.array(self._map[start:stop]), range(start, stop))

    def take(self, rows: NDArray[np.int64]) -> Features:
        """Return the given rows as an array (len(rows), d) in the stored dtype."""
        self._compare(np.unique(rows // CHECKED))
        return self._checked(self._map[rows], rows)

    def damaged(self) -> list[int]:
        """Return the rows that are not as they were written, and their neighbours."""
        groups = self._differing(np.arange(len(self._checksums)))
        return [row for group in groups for row in self._group(group)]

    def _group(self, group: int) -> range:
        return range(group * CHECKED, min((group + 1) * CHECKED, self.shape[0]))

    def _compare(self, groups: NDArray[np.int64]) -> None:
        """Raise InputError where the rows of one of ``groups`` differ from their checksum."""
        for group in self._differing(groups):
            rows = self._group(group)
            raise InputError(
                f"{self.file} is damaged between {self.names[rows[0]]!r} and "
                f"{self.names[rows[-1]]!r} (rows {rows[0]} to {rows[-1]}). Run the command that "
                "makes it again, `seize embed` or `seize index`: it computes these alone."
            )

    def _differing(self, groups: NDArray[np.int64]) -> list[int]:
        if not self._checksums:
            return []
        size = CHECKED * self.shape[1] * self._map.itemsize
        found = []
        for group in groups[~self._checked_rows[groups]].tolist():
            part = self._bytes[group * size : (group + 1) * size]
            if xxhash.xxh3_64_intdigest(part) == self._checksums[group]:
                self._checked_rows[group] = True
            else:
                found.append(group)
        return found

    @functools.cached_property
    def _map(self) -> Features:
        return memory_map(self.file, "features")

    @functools.cached_property
    def _bytes(self) -> memoryview:
        return np.asarray(self._map).reshape(-1).view(np.uint8).data

    def _checked(self, features: Features, rows: Sequence[int] | NDArray[np.int64]) -> Features:
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            name = self.names[rows[int(np.argmin(finite))]]
            raise InputError(f"{self.file}: the feature of {name!r} is NaN or infinite.")
        return features

    def all(self) -> Features:
        """Return every row."""
        return self.rows(0, self.shape[0])
