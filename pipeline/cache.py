"""The store between stages: append-only JSON lines, and feature files that are memory-mapped.

Every file name carries a fingerprint of all that changes its content, so a changed prompt or model
makes a new file and nothing stale is mixed in.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import filelock
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.errors import InputError, StorageError

log = logging.getLogger("seize")

Features = NDArray[np.floating[Any]]


def fingerprint(content: Any) -> str:
    """Return 12 hex digits that identify JSON-able ``content``, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def model_identity(model: str) -> str:
    """Return ``model`` for a hub name; for a local path add a hash that changes with its files.

    Names, sizes and the first and last MiB of each file are hashed: weights of any size stay cheap.
    """
    path = Path(model)
    if not path.exists():
        return model
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return f"{path.name}@{digest.hexdigest()[:12]}"


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
    """Yield a temporary path beside ``file`` and rename it there at the end: all or nothing."""
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


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
    write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


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
def lock(file: Path) -> Iterator[None]:
    """Hold ``file`` for one process; a second one waits and then finds the work done.

    The operating system frees the lock when its holder dies, so a kill leaves nothing behind.
    """
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(file.parent / f".{file.name}.lock")
        try:
            held.acquire(blocking=False)
        except filelock.Timeout:
            log.info("Another process is writing %s; waiting for it.", file)
            held.acquire()
    try:
        yield
    finally:
        held.release()


class RecordFile:
    """A header line, then one JSON object a line, each appended and flushed as it is computed.

    A torn last line (the process was killed while writing it) is dropped. Use as a context manager
    to append, under a lock; ``read`` needs none.
    """

    def __init__(self, file: Path, header: dict[str, Any]) -> None:
        self.file = file
        self.header = header

    def read(self) -> list[dict[str, Any]]:
        """Return all complete records; raises InputError naming the line that is damaged."""
        if not self.file.exists():
            return []
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise InputError(f"{self.file} cannot be read: {error.strerror}") from None
        complete = content[: content.rfind(b"\n") + 1]
        records = []
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not an object")
            except ValueError:
                raise InputError(
                    f"{self.file}, line {number} is damaged. Delete that line (its item is "
                    "computed again) or the file, then run the same command."
                ) from None
            if number > 1:
                records.append(record)
        return records

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(lock(self.file))
        try:
            with storage_errors(self.file):
                self._stream = self._stack.enter_context(self.file.open("ab+"))
                self._drop_torn_line()
                if self._stream.tell() == 0:
                    self.append({"header": self.header | provenance()})
        except BaseException:
            self._stack.close()
            raise
        return self

    def _drop_torn_line(self) -> None:
        if not self._stream.seek(0, os.SEEK_END):
            return
        self._stream.seek(-1, os.SEEK_END)
        if self._stream.read() == b"\n":  # as nearly always: the rest need not be read
            return
        self._stream.seek(0)
        end = self._stream.read().rfind(b"\n") + 1
        self._stream.truncate(end)
        self._stream.seek(end)

    def append(self, record: dict[str, Any]) -> None:
        """Write one record as a whole line; raises StorageError when the disk is full."""
        with storage_errors(self.file):
            self._stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self._stream.flush()

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # the failed line of a full disk fails again on closing
            self._stack.close()


def write_features(
    file: Path, names: Sequence[str], features: Features, header: dict[str, Any]
) -> None:
    """Write ``features`` (len(names), d) with their names and header, completely or not at all."""
    content = {"names": json.dumps(list(names)), "header": json.dumps(header, default=str)}
    with atomic(file) as temporary, storage_errors(file):
        save_file({"features": np.ascontiguousarray(features)}, temporary, metadata=content)


class FeatureFile:
    """Named feature vectors on disk, memory-mapped: slices are read when asked for.

    Attributes: ``names`` (n), ``shape`` (n, d), ``header``. Raises InputError for a file that is
    damaged or holds NaN or infinite values (checked on reading, naming the item).
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._handle = safe_open(file, framework="numpy")
            self._slice = self._handle.get_slice("features")  # type: ignore[no-untyped-call]
            content = self._handle.metadata()  # type: ignore[no-untyped-call]
            self.names: list[str] = json.loads(content["names"])
            self.header: dict[str, Any] = json.loads(content["header"])
            self.shape: tuple[int, int] = tuple(self._slice.get_shape())
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file} is damaged or not a feature file ({error}). Delete it and run "
                "`seize embed` again."
            ) from None

    def rows(self, start: int, stop: int) -> Features:
        """Return rows ``start`` to ``stop`` as an array (stop - start, d) in the stored dtype."""
        rows: Features = self._slice[start:stop]
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            name = self.names[start + int(np.argmin(finite))]
            raise InputError(f"{self.file}: the feature of {name!r} is NaN or infinite.")
        return rows

    def all(self) -> Features:
        """Return every row."""
        return self.rows(0, self.shape[0])
