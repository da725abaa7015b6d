"""Features on their way to one file: shards that resume a stopped run, and their merging."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.store.features import FeatureFile, Features, write_feature_blocks, write_features
from pipeline.store.files import remove_unfinished, storage_errors
from pipeline.store.segments import folder_of, manifest_of, read_manifest

log = logging.getLogger("seize")

BLOCK = 4096
"""Rows that are merged at a time."""
OPENED = 64
"""Shards that are held open while merging."""


@dataclass
class Encoded:
    """A batch: names (n) and their features (n, d).

    Of images also digests (n) of their bytes, and the names of copies by which they are the same
    as one that was embedded before.
    """

    names: list[str] = field(default_factory=list)
    features: Features = field(default_factory=lambda: np.empty((0, 0), np.float32))
    digests: list[str] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)


class Stored:
    """The features on disk, in ``file``, its segments and shards: ``places`` maps a name to its
    row, counted through all ``files``.

    ``digests`` maps the bytes of images to their names, as far as shards tell. What is damaged is
    named in a warning and left out, so that it is computed again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.files: list[Path] = []
        self.counts: list[int] = []
        """Rows by file; 0 for one that cannot be read."""
        self.identities: list[str] = []
        self.places: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        self.width = 0
        self.damaged: set[Path] = set()
        self._copies: dict[str, str] = {}
        self._large = 0
        if file.exists():
            self._read(file)
            self._large = sum(self.counts)
        self.refresh()
        for missing in sorted(_published(file) - set(self.shards)):
            log.warning("%s is missing: its features are computed again.", missing)

    @property
    def shards(self) -> list[Path]:
        """The files beside the large one, in the order of their names."""
        return [path for path in self.files if path != self.file]

    def files_of(self, names: Collection[str]) -> NDArray[np.int64]:
        """Return the number (n) of the file that each of ``names`` stands in; all are stored."""
        rows = np.fromiter(map(self.places.__getitem__, names), np.int64, len(names))
        return np.searchsorted(self._starts[1:], rows, side="right")

    @property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *self.counts], dtype=np.int64)

    def refresh(self) -> None:
        """Read the shards that came since."""
        for path in sorted(set(folder_of(self.file).glob("*.safetensors")) - set(self.files)):
            self._read(path)
        self.places |= {
            copy: self.places[of] for copy, of in self._copies.items() if of in self.places
        }

    def _read(self, path: Path) -> None:
        """Take in a file; what the large one has counts, else what came last."""
        first = sum(self.counts)
        self.files.append(path)
        self.counts.append(0)
        self.identities.append("")
        try:
            part = FeatureFile(path)
            digests, copied = _mentioned(part)
        except InputError as error:
            log.warning("%s This run does so.", error)
            self.damaged.add(path)
            return
        lost = set(part.damaged())
        if lost:
            self.damaged.add(path)
            names = [part.names[row] for row in sorted(lost)]
            log.warning(
                "%s is damaged between %r and %r: %d features are computed again.",
                path, names[0], names[-1], len(names),
            )  # fmt: skip
        self.counts[-1], self.identities[-1] = len(part.names), part.identity
        there = dict(zip(part.names, range(first, first + len(part.names)), strict=True))
        if lost or self._large:
            there = {
                name: place
                for name, place in there.items()
                if place - first not in lost and self.places.get(name, self._large) >= self._large
            }
        self.places.update(there)
        self.digests |= {
            digest: name
            for row, (digest, name) in enumerate(zip(digests, part.names, strict=False))
            if row not in lost
        }
        self.width = max(self.width, part.shape[1])
        self._copies |= copied

    def blocks(self, names: Sequence[str]) -> Iterator[Features]:
        """Yield the features of ``names`` in their order, a block of rows at a time."""
        opened = functools.lru_cache(maxsize=OPENED)(FeatureFile)
        starts = self._starts
        for start in range(0, len(names), BLOCK):
            some = names[start : start + BLOCK]
            rows = np.array([self.places[name] for name in some])
            whose = self.files_of(some)
            block = np.empty((len(some), self.width), np.float32)
            for number in np.unique(whose):
                here = whose == number
                block[here] = opened(self.files[number]).take(rows[here] - starts[number])
            yield block


def _published(file: Path) -> set[Path]:
    """Return the segments that are to be there; none where the manifest is of another file."""
    try:
        manifest = read_manifest(file)
        if manifest is None or manifest.beside != FeatureFile(file).identity:
            return set()
    except InputError:
        return set()
    return {folder_of(file) / name for name in manifest.segments}


def _mentioned(part: FeatureFile) -> tuple[list[str], dict[str, str]]:
    """Return a shard's digests and copies; raises InputError where its header has no such."""
    digests, copied = part.header.get("digests", []), part.header.get("copies", {})
    if (
        not _are_texts(digests)
        or not isinstance(copied, dict)
        or not _are_texts([*copied.values()])
    ):
        raise InputError(f"{part.file} has a damaged header. Delete it and embed again.")
    return digests, copied


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


class Shard:
    """Collects features and writes them by the shard; at the end, or at an error, the rest."""

    def __init__(self, file: Path, process: int, header: dict[str, Any], size: int) -> None:
        self.folder = folder_of(file)
        self.header = header
        self.size = size
        self.next = next_shards(file, process)
        self.batches: list[Encoded] = []
        with storage_errors(self.folder):  # before anything is computed
            self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, batch: Encoded) -> None:
        self.batches.append(batch)
        if sum(len(batch.names) for batch in self.batches) >= self.size:
            self.write()

    def write(self) -> None:
        names = [name for batch in self.batches for name in batch.names]
        copies = {name: of for batch in self.batches for name, of in batch.copies.items()}
        if names or copies:
            digests = [digest for batch in self.batches for digest in batch.digests]
            content = self.header | {"digests": digests, "copies": copies}
            features = [batch.features for batch in self.batches if batch.names]
            rows = np.concatenate(features) if features else np.empty((0, 0), np.float32)
            write_features(next(self.next), names, rows, content)
            self.batches = []

    def __enter__(self) -> "Shard":
        return self

    def __exit__(self, *exception: object) -> None:
        self.write()


def next_shards(file: Path, process: int = 0) -> Iterator[Path]:
    """Yield where a process's next shards of a feature file go, behind those that are there."""
    there = folder_of(file).glob(f"{process:04d}-*.safetensors")
    for number in itertools.count(1 + max(map(_number_of, there), default=-1)):
        yield folder_of(file) / f"{process:04d}-{number:06d}.safetensors"


def _number_of(shard: Path) -> int:
    """Return the number in a shard's name; one that somebody renamed takes none."""
    number = shard.stem.partition("-")[2]
    return int(number) if number.isdecimal() else -1


def merge(file: Path, names: list[str], kind: dict[str, Any], before: Stored | None = None) -> None:
    """Merge segments, shards and what ``file`` held into one file in the order of ``names``.

    ``before`` is what was stored, where no shard can have come since. The file's replacement is
    what counts: a manifest of the one before is of none then.
    """
    stored = before or Stored(file)
    kept = [name for name in names if name in stored.places]
    if stored.shards or stored.damaged or not stored.places.keys() <= set(names):
        if kept:
            blocks = stored.blocks(kept)
            write_feature_blocks(file, kept, blocks, stored.width, np.dtype(np.float32), kind)
        else:
            file.unlink(missing_ok=True)
    manifest_of(file).unlink(missing_ok=True)
    for shard in stored.shards:
        shard.unlink()
    remove_unfinished(folder_of(file))
    with contextlib.suppress(OSError):  # not there, or another run writes into it
        folder_of(file).rmdir()
