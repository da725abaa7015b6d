"""The store between stages: append-only JSON lines, and feature files that are memory-mapped.

Every file name carries a fingerprint of all that changes its content, so a changed prompt or model
makes a new file and nothing stale is mixed in.
"""

import contextlib
import functools
import hashlib
import itertools
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

from pipeline.errors import InputError, ModelError, StorageError
from pipeline.processes import Processes

log = logging.getLogger("seize")

Features = NDArray[np.floating[Any]]

MOST_FILES = 1_000
"""Files of a model's folder."""


def fingerprint(content: Any) -> str:
    """Return 12 hex digits that identify JSON-able ``content``, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def model_identity(model: str) -> str:
    """Return ``model`` for a hub name; for a local path add a hash that changes with its files.

    Names, sizes and the first and last MiB of each file are hashed: weights of any size stay cheap.
    Raises ModelError for a folder that holds so much that it is no model's.
    """
    path = Path(model)
    if not os.path.exists(model):  # False for a name that no file can have, too
        return model
    digest = hashlib.sha256()
    inside = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())
    files = sorted(itertools.islice(inside, MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise ModelError(
            f"{path.resolve()} holds more than {MOST_FILES:,} files, so it is no model's folder."
        )
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
def lock(file: Path, wait: bool = True) -> Iterator[bool]:
    """Hold ``file`` for one process; a second one waits and then finds the work done.

    Without ``wait`` it goes on without the lock, and yields False. The operating system frees the
    lock when its holder dies, so a kill leaves nothing behind.
    """
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(file.parent / f".{file.name}.lock")
        try:
            held.acquire(blocking=False)
        except filelock.Timeout:
            if wait:
                log.info("Another process is writing %s; waiting for it.", file)
                held.acquire()
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

    def read(self) -> list[dict[str, Any]]:
        """Return all complete records; raises InputError naming the line that is damaged."""
        # Shards first: one that is merged meanwhile is then found in the file instead.
        shards = [_read_lines(shard) for shard in self._shards()]
        lines = _read_lines(self.file)
        if not shards:
            return [record for _, record in lines]
        merged = dict(lines)
        for shard in shards:
            merged |= dict(shard)
        return list(merged.values())

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
                    known = dict(_read_lines(self.file))
                    for line, record in _read_lines(shard):
                        if line not in known:
                            self.append(record)
                    with storage_errors(shard):
                        shard.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(lock(self.file))
        try:
            with storage_errors(self.file):
                self._stream = self._stack.enter_context(self.file.open("ab+"))
                self._drop_torn_line()
                if self._stream.tell() == 0:
                    self.append({"header": self.header | provenance()})
            self._merge_shards()
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


def _read_lines(file: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each complete line after the header with its record; raises InputError."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    complete = content[: content.rfind(b"\n") + 1]
    lines = []
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            raise InputError(
                f"{file}, line {number} is damaged. Delete that line (its item is "
                "computed again) or the file, then run the same command."
            ) from None
        lines.append((line, record))
    return lines[1:]


def read_header(file: Path) -> dict[str, Any]:
    """Return the header of a record file as it stands there, with versions and time.

    Raises InputError where there is none.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            header = json.loads(stream.readline())["header"]
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(f"{file} does not begin with the header of a cache file.")
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
    size, listed = len(names) * width * dtype.itemsize, json.dumps(list(names)).encode()
    tensors = {
        "__metadata__": {"header": json.dumps(header, default=str)},
        "features": {
            "dtype": f"F{8 * dtype.itemsize}",
            "shape": [len(names), width],
            "data_offsets": [0, size],
        },
        "names": {
            "dtype": "U8",
            "shape": [len(listed)],
            "data_offsets": [size, size + len(listed)],
        },
    }
    start = json.dumps(tensors).encode()
    start += b" " * (-len(start) % 8)  # the rows are aligned for the memory map
    with atomic(file) as temporary, storage_errors(file), temporary.open("wb") as stream:
        stream.write(len(start).to_bytes(8, "little") + start)
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype).data)
        stream.write(listed)


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
    damaged or holds NaN or infinite values (checked on reading, naming the item).
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._handle = safe_open(file, framework="numpy")
            self._slice = self._handle.get_slice("features")  # type: ignore[no-untyped-call]
            content = self._handle.metadata()  # type: ignore[no-untyped-call]
            names = content.get("names")  # where files of earlier versions have them
            if names is None:
                names = self._handle.get_tensor("names").tobytes()  # type: ignore[no-untyped-call]
            self.names: list[str] = json.loads(names)
            self.header: dict[str, Any] = json.loads(content["header"])
            self.shape: tuple[int, int] = tuple(self._slice.get_shape())
            _check_content(self.names, self.header, self.shape)
        except (
            *(OSError, SafetensorError, KeyError, TypeError, ValueError),
            *(AttributeError, RecursionError),
        ) as error:
            raise InputError(
                f"{file} is damaged or not a feature file ({error}). Delete it and run "
                "`seize embed` again."
            ) from None

    def rows(self, start: int, stop: int) -> Features:
        """Return rows ``start`` to ``stop`` as an array (stop - start, d) in the stored dtype."""
        return self._checked(self._slice[start:stop], range(start, stop))

    def take(self, rows: NDArray[np.int64]) -> Features:
        """Return the given rows as an array (len(rows), d) in the stored dtype."""
        return self._checked(self._map[rows], rows)

    @functools.cached_property
    def _map(self) -> Features:
        return memory_map(self.file, "features")

    def _checked(self, features: Features, rows: Sequence[int] | NDArray[np.int64]) -> Features:
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            name = self.names[rows[int(np.argmin(finite))]]
            raise InputError(f"{self.file}: the feature of {name!r} is NaN or infinite.")
        return features

    def all(self) -> Features:
        """Return every row."""
        return self.rows(0, self.shape[0])
