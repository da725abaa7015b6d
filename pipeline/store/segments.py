"""Features that grow: one large file with segments beside it, which a manifest lists.

A segment is a feature file that is written once, with its checksums. It is on the disk before a
manifest lists it, and the manifest is replaced as a whole; so whoever reads sees what was published
last, whatever is being written or merged. A manifest is of one large file, which it names by its
checksum: it does not count any more where another is in its place, which then holds all there is.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import InputError
from pipeline.store.features import FeatureFile, Features
from pipeline.store.files import write_json
from pipeline.store.identity import fingerprint

TRIES = 20
"""How often what is published is opened anew where it is replaced meanwhile."""


def folder_of(file: Path) -> Path:
    """Return where the segments of a feature file are, and the shards on their way to it."""
    return file.with_name(file.name + ".parts")


def manifest_of(file: Path) -> Path:
    """Return where it stands which segments of a feature file count."""
    return folder_of(file) / "manifest.json"


class Manifest(BaseModel):
    """Which segments count beside which large file; identities as ``FeatureFile.identity``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    beside: str
    segments: dict[str, str]
    """Identities by file name, in the order in which they were published."""
    checksum: str = ""
    """Of the other fields."""

    def sealed(self) -> "Manifest":
        """Return it with its checksum."""
        return self.model_copy(update={"checksum": fingerprint([self.beside, self.segments])})


def read_manifest(file: Path) -> Manifest | None:
    """Return the manifest of a feature file, None where there is none; InputError if damaged."""
    place = manifest_of(file)
    try:
        found = Manifest.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        found = None
    if found is None or found != found.sealed():
        raise InputError(
            f"{place} is damaged. Run `seize index` again: it writes it anew, and computes nothing "
            "again."
        )
    return found


def write_manifest(file: Path, beside: str, segments: dict[str, str]) -> None:
    """Publish ``segments``, which are on the disk, completely or not at all."""
    manifest = Manifest(beside=beside, segments=segments).sealed()
    write_json(manifest_of(file), manifest.model_dump())


def stamp(file: Path) -> tuple[tuple[int, int], ...]:
    """Return what changes with what is published."""
    found = []
    for place in (file, manifest_of(file)):
        with contextlib.suppress(FileNotFoundError):
            status = place.stat()
            found.append((status.st_mtime_ns, status.st_ino))
    return tuple(found)


class SegmentedFeatures:
    """What is published of a feature file and its segments, read as a ``FeatureFile``.

    Attributes: ``names`` (n), ``shape`` (n, d). A name may stand in two segments, with the same
    feature. Raises InputError for what is damaged or missing, naming it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        for _ in range(TRIES):
            before = stamp(file)
            try:
                self._files = _open(file)
            except InputError:
                if stamp(file) == before:
                    raise
                continue
            if stamp(file) == before:
                break
        else:
            raise InputError(f"{file} is replaced all the time. Try again.")
        counts = [len(one.names) for one in self._files]
        self._starts: NDArray[np.int64] = np.cumsum([0, *counts])
        self.names: list[str] = [name for one in self._files for name in one.names]
        self.shape = (len(self.names), self._files[0].shape[1])

    @functools.cached_property
    def row(self) -> dict[str, int]:
        """The row of every item by its name."""
        return {name: i for i, name in enumerate(self.names)}

    @property
    def header(self) -> dict[str, Any]:
        """What the large file was made by."""
        return self._files[0].header

    def take(self, rows: NDArray[np.int64]) -> Features:
        """Return the given rows as an array (len(rows), d), in the large file's dtype."""
        if len(self._files) == 1:
            return self._files[0].take(rows)
        whose = np.searchsorted(self._starts, rows, side="right") - 1
        taken: Features | None = None
        for number in np.unique(whose):
            here = whose == number
            part = self._files[number].take(rows[here] - self._starts[number])
            if taken is None:
                taken = np.empty((len(rows), self.shape[1]), part.dtype)
            taken[here] = part
        return self._files[0].take(rows) if taken is None else taken

    def all(self) -> Features:
        """Return every row."""
        return self.take(np.arange(len(self.names)))


def _open(file: Path) -> list[FeatureFile]:
    """Open what is published: the large file, then the segments."""
    large = FeatureFile(file)
    opened = [large, *_segments(file, large)]
    for one in opened:
        one.hold()
    return opened


def _segments(file: Path, large: FeatureFile) -> Iterator[FeatureFile]:
    manifest = read_manifest(file)
    if manifest is None or manifest.beside != large.identity:
        return
    for name, identity in manifest.segments.items():
        segment = folder_of(file) / name
        if not segment.exists():
            raise InputError(f"{segment} is missing. Run `seize index` again: {_AGAIN}")
        opened = FeatureFile(segment)
        if opened.identity != identity or opened.shape[1] != large.shape[1]:
            raise InputError(
                f"{segment} is not what was published. Run `seize index` again: {_AGAIN}"
            )
        yield opened


_AGAIN = "it computes what is missing."
