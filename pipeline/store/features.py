"""Feature files: named vectors in safetensors' format, memory-mapped, with checksums of rows."""

import functools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from pipeline.errors import InputError
from pipeline.store.files import atomic

Features = NDArray[np.floating[Any]]

CHECKED = 16
"""Rows of a feature file that share a checksum. Single rows of a large gallery are read too, and
then this many are."""


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
    if not isinstance(names, list) or not set(map(type, names)) <= {str}:
        raise ValueError("its names are no list of texts")
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    if len(shape) != 2 or shape[0] != len(names):
        raise ValueError(f"{len(names)} names do not fit features of shape {shape}")


class FeatureFile:
    """Named feature vectors on disk, memory-mapped: slices are read when asked for.

    Attributes: ``names`` (n), ``shape`` (n, d), ``header``, ``identity`` (16 hex digits, of all its
    content; in files of earlier versions of all but the rows). Raises InputError for a file that is
    damaged or holds NaN or infinite values (checked on reading, naming the item). Rows are compared
    with their checksums when they are first read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._handle = safe_open(file, framework="numpy")
            content = self._handle.metadata()  # type: ignore[no-untyped-call]
            names = content.get("names")  # where files of earlier versions have them
            names = self._tensor("names").tobytes() if names is None else names.encode()
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
        with self.file.open("rb") as stream:
            length = stream.read(8)
            head = length + stream.read(int.from_bytes(length, "little"))
        if not tensors - {"features", "names"}:  # a file of an earlier version
            self.identity = f"{_checksum_of(head, names):016x}"
            return []
        rows: list[int]
        *rows, rest = self._tensor("checksums").tolist()
        if rest != _checksum_of(head, names, np.array(rows, "<u8").tobytes()):
            raise ValueError("its checksum is another")
        self.identity = f"{rest:016x}"
        return rows

    def hold(self) -> None:
        """Map the file now: what is read later is of this one, even where another replaces it."""
        _ = self._map

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
        if (
            features.dtype == np.float16
            and (features.view(np.int16) & 0x7C00).max(initial=0) < 0x7C00
        ):
            return features  # the same by their exponents, five times as quickly
        with np.errstate(over="ignore", invalid="ignore"):
            sums = features.sum(axis=1, dtype=np.float32)  # quicker to make than as many answers
        for place in np.flatnonzero(~np.isfinite(sums)):
            if not np.isfinite(features[place]).all():
                name = self.names[rows[int(place)]]
                raise InputError(f"{self.file}: the feature of {name!r} is NaN or infinite.")
        return features

    def all(self) -> Features:
        """Return every row."""
        return self.rows(0, self.shape[0])
