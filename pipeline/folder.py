"""A folder of one's own images as a gallery: which files it holds, and their CLIP features.

Files are known by the hash of their content: a renamed file or a copy costs nothing, and whatever
the index says of an image is true of its bytes.
"""

import functools
import hashlib
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import embed
from pipeline.cache import FeatureFile, RecordFile, fingerprint, write_records
from pipeline.config import Config
from pipeline.demo import WORLD
from pipeline.errors import InputError, MissingStageError
from pipeline.images import endings
from pipeline.records import FileRecord, typed
from pipeline.run import StageReport, log, progress, slug, stage

SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a file surely shows in its time of modification."""


@dataclass(frozen=True)
class Folder:
    """A folder tree under one configuration's CLIP; ``root`` is absolute, its links resolved."""

    root: Path
    config: Config
    cache: Path
    command: str = ""
    """The user's options of ``seize index``, to recommend it with."""

    @property
    def name(self) -> str:
        """What the cache calls it: the folder's name and a hash of its absolute path."""
        return f"folder-{slug(self.root.name) or 'root'}-{fingerprint(str(self.root))}"

    @property
    def notes(self) -> list[str]:
        """What is to be known about the models in use; nothing in the world of the demo's."""
        inside = any((place / WORLD).exists() for place in (self.root, *self.root.parents))
        return [] if inside or not self.config.note else [self.config.note]

    @property
    def advice(self) -> str:
        """What to do where the index is not what is needed, for errors."""
        return f"Run: seize index {shlex.quote(str(self.root))} {self.command}".rstrip()

    @property
    def listing(self) -> RecordFile:
        """The file of ``{"path", "size", "mtime_ns", "hash"}``; a later record of a path counts."""
        header = {"stage": "index", "folder": str(self.root)}
        return RecordFile(self.cache / self.name / "files.jsonl", header)

    @functools.cached_property  # it reads the model's files
    def feature_file(self) -> Path:
        """Where the features are, each named by its image's hash."""
        name = f"{slug(self.config.clip.model)}-{fingerprint(embed.identity(self.config))}"
        return self.cache / self.name / "images" / f"{name}.safetensors"

    def hashes(self) -> dict[str, str]:
        """Return each indexed image's hash by its path below the root, in the order of paths."""
        return {path: record["hash"] for path, record in sorted(_by_path(self.listing).items())}

    def features(self) -> FeatureFile:
        """Return the features on disk; raises MissingStageError where there are none."""
        if not self.feature_file.exists():
            raise MissingStageError(
                f"{self.root} has no index for CLIP {self.config.clip.model} "
                f"({self.feature_file} does not exist). {self.advice}"
            )
        return FeatureFile(self.feature_file)

    def file(self, path: str) -> Path:
        """Return the file of ``path`` below the root; raises InputError if it leads elsewhere."""
        file = (self.root / path).resolve()
        if not file.is_relative_to(self.root):
            raise InputError(f"{self.root / path} leads out of the folder.")
        return file

    def read(self, path: str, content_hash: str) -> bytes:
        """Return the bytes of an indexed image; raises InputError if they are no longer those."""
        try:
            content = self.file(path).read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.root / path} cannot be read: {error.strerror}. {self.advice}"
            ) from None
        if hash_of(content) != content_hash:
            raise InputError(f"{self.root / path} has changed since it was indexed. {self.advice}")
        return content


def open_folder(root: Path, config: Config, cache: Path, command: str = "") -> Folder:
    """Return the folder at ``root``; raises InputError if there is none."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder.")
    return Folder(root.resolve(), config, cache, command)


def hash_of(content: bytes) -> str:
    """Return the name of an image of these bytes: SHA-256 in 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def index(folder: Folder) -> StageReport:
    """Bring the index up to date with the folder: embed new and changed images, drop removed ones.

    Stopped at any moment it loses at most the batch in flight. Raises InputError if the folder
    holds no image that can be read.
    """
    with stage("index", folder, [folder.root], folder.feature_file) as report:
        for note in folder.notes:
            log.warning("%s", note)
        hashes = _update_listing(folder, report)
        if not hashes:
            raise InputError(
                f"There is no image below {folder.root}. Known endings: "
                f"{', '.join(sorted(endings()))}; hidden files and folders are left out."
            )
        paths: dict[str, str] = {}
        for path, content_hash in hashes.items():
            paths.setdefault(content_hash, path)
        read = functools.partial(_content, folder, paths)
        broken = StageReport("index", folder.name, [], "")
        config, told = embed.settle(folder.config, folder.feature_file)
        encode = functools.partial(embed.encode_images, config, read, report=broken)
        kind = embed.identity(folder.config) | {"stage": "index", "folder": str(folder.root)} | told
        size = folder.config.runtime.embed_batch  # a shard a batch, so that a kill loses no more
        try:
            embed.encode_missing(
                folder.feature_file, list(paths), encode, kind, size, report, "image"
            )
        finally:
            report.failed |= {paths[name]: reason for name, reason in broken.failed.items()}
    if not folder.feature_file.exists():
        reason = next(iter(report.failed.values()))
        raise InputError(f"None of {len(paths)} images could be read. The first: {reason}")
    return report


def _content(folder: Folder, paths: dict[str, str], content_hash: str) -> tuple[Path, bytes]:
    path = paths[content_hash]
    return folder.root / path, folder.read(path, content_hash)


def watch(folder: Folder, updated: Callable[[StageReport], Any]) -> None:
    """Index the folder, then again after every change below it, until Ctrl-C.

    A change that leaves nothing to index is reported and waited out.
    """
    import watchfiles

    cache = folder.cache.resolve()

    def matters(change: watchfiles.Change, path: str) -> bool:
        changed = Path(path)
        inside = changed.parts[len(folder.root.parts) :]
        return not changed.is_relative_to(cache) and not any(p.startswith(".") for p in inside)

    updated(index(folder))
    log.info("Watches %s; Ctrl-C ends it.", folder.root)
    for _ in watchfiles.watch(folder.root, watch_filter=matters, raise_interrupt=True):
        try:
            updated(index(folder))
        except InputError as error:
            log.warning("%s", error)


def _by_path(listing: RecordFile) -> dict[str, FileRecord]:
    return {record["path"]: record for record in typed(listing, FileRecord)}


def _update_listing(folder: Folder, report: StageReport) -> dict[str, str]:
    """Bring the listing up to date; return each image's hash by its path, in order of paths.

    Only files whose size or time of modification changed are read.
    """
    with folder.listing as listing:
        known = _by_path(listing)
        found = {path: status for path, status in sorted(_scan(folder.root, report))}
        fresh = [path for path, status in found.items() if not _same(known.get(path), status)]
        with progress(len(found), len(found) - len(fresh), "file", "read files") as bar:
            for path in fresh:
                record = _read(folder, path, found[path], report)
                if record is not None:
                    listing.append(dict(record))
                    known[path] = record
                else:
                    known.pop(path, None)
                bar.update()
        current = [known[path] for path in found if path in known]
        if len(current) < len(listing.read()):  # removed files, and lines that later ones replaced
            write_records(listing.file, listing.header, map(dict, current))
    return {record["path"]: record["hash"] for record in current}


def _scan(root: Path, report: StageReport) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path below ``root`` and the status of every image file.

    Hidden files and folders are left out. Links to folders are not followed, links to files only
    inside ``root``.
    """
    known = endings()
    for folder, folders, files in os.walk(root, onerror=lambda error: _unread(report, error)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(folder, name)
            if name.startswith(".") or file.suffix.lower() not in known:
                continue
            path = file.relative_to(root).as_posix()
            try:
                path.encode()
                if file.is_symlink() and not file.resolve().is_relative_to(root):
                    report.failed[path] = "it is a link to a file outside the folder"
                elif file.is_file():
                    yield path, file.stat()
            except UnicodeEncodeError:
                report.failed[os.fsencode(path).decode(errors="replace")] = "its name is not UTF-8"
            except OSError as error:
                _unread(report, error)


def _unread(report: StageReport, error: OSError) -> None:
    report.failed[str(error.filename)] = f"it cannot be read: {error.strerror}"


def _same(record: FileRecord | None, status: os.stat_result) -> bool:
    return record is not None and (record["size"], record["mtime_ns"]) == (
        status.st_size,
        status.st_mtime_ns,
    )


def _read(
    folder: Folder, path: str, status: os.stat_result, report: StageReport
) -> FileRecord | None:
    try:
        with folder.file(path).open("rb") as stream:
            content_hash = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, InputError) as error:
        report.failed[path] = str(error)
        return None
    # A file modified just now may change again without a new time: it is read again next time.
    settled = time.time_ns() - status.st_mtime_ns > SETTLED
    mtime = status.st_mtime_ns if settled else -1
    return {"path": path, "size": status.st_size, "mtime_ns": mtime, "hash": content_hash}
