"""Which images a folder of one's own holds: the listing, and the walk that brings it up to date."""

import contextlib
import hashlib
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.images import files as images
from pipeline.own import attributes
from pipeline.own.attributes import States
from pipeline.run import StageReport, progress
from pipeline.store.columns import Rows
from pipeline.store.journal import Journal
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import FileRecord

if TYPE_CHECKING:
    from pipeline.own.folder import Folder

LONGEST_ENDING = 12
"""Characters of an ending that is named; longer ones are parts of a name."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a file surely shows in its times."""


FileState = tuple[int, int, int, int]
"""What changes with a file's bytes, by ``FIELDS``; the time of modification alone can be set
back."""
FIELDS = ("size", "mtime_ns", "ctime_ns", "inode")


@dataclass
class Found:
    """What is below a folder: images by their path, and texts and JSON files by their folder."""

    images: dict[str, FileState] = field(default_factory=dict)
    beside: dict[str, States] = field(default_factory=dict)


def by_path(listing: RecordFile) -> Rows[FileRecord]:
    """Return the last record of each file that is there; raises InputError as ``typed``."""
    return Journal(listing, FileRecord).read()


def without_file(folder: "Folder", path: str, reason: str) -> str:
    """Return why a file was left out without the file, which is named beside it."""
    bare = reason.removeprefix(f"{folder.root / path} ")
    return reason if bare == reason else f"it {bare}"


def update_listing(
    folder: "Folder", report: StageReport
) -> tuple[Rows[FileRecord], dict[str, States]]:
    """Bring the listing up to date; return its records in the order of paths, and the sidecars.

    Only files whose status changed are read, and only what changed is written.
    """
    with Journal(folder.listing, FileRecord) as journal:
        known = journal.current
        found = _walk(folder, report)
        # What earlier versions did not keep is None, and a file that had just changed has no time.
        states = zip(*(known.column(name) for name in FIELDS), strict=True)
        listed = dict(zip(known, states, strict=True))
        fresh = []
        if found.images != listed:  # compared at once where nothing changed, as most often
            fresh = [path for path, state in found.images.items() if listed.get(path) != state]
        unchanged = len(found.images) - len(fresh)
        with progress(len(found.images), unchanged, "file", "read files") as bar:
            for path in sorted(fresh):
                record = _read(folder, path, found.images[path], known.get(path), report)
                if record is not None:
                    journal.put(record)
                elif path in known:
                    journal.drop(path)
                bar.update()
        for path in listed.keys() - found.images.keys():
            journal.drop(path)
        listing = journal.current.in_order()
        return listing, attributes.matched(listing, found.beside)


def files_of(folder: "Folder") -> list[str]:
    """Return the paths of all image files, in their order; nothing is read or kept."""
    return sorted(_walk(folder, StageReport("index", folder.name, [], "")).images)


def _walk(folder: "Folder", report: StageReport) -> Found:
    """Return every image file below the root with its status.

    Hidden files and folders are left out. Links to folders are not followed, links to files only
    inside the root. Any depth will do: no function calls itself.
    """
    found = Found()
    images_, waiting = found.images, [""]
    endings = images.endings()
    known = endings | {ending.upper() for ending in endings}
    while waiting:
        place = waiting.pop()
        prefix = f"{place}/" if place else ""
        try:
            with os.scandir(folder.root / place) as listed:
                entries = list(listed)
        except OSError as error:
            report.failed[_shown(place) or "."] = f"it cannot be read: {error.strerror}"
            continue
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            path = prefix + name
            try:
                if entry.is_file(follow_symlinks=False):  # no link, as nearly all
                    if name[name.rfind(".") :] in known and path.isascii():
                        own = entry.stat(follow_symlinks=False)
                        images_[path] = (
                            *(own.st_size, own.st_mtime_ns, own.st_ctime_ns, own.st_ino),
                        )
                        continue
                    if name.endswith(attributes.ENDINGS):
                        found.beside.setdefault(place, {})[path] = attributes.state_of(entry)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                    continue
                if (status := _image_status(folder, path, entry, report)) is not None:
                    images_[path] = state_of(status)
            except OSError as error:
                report.failed[_shown(path)] = f"it cannot be read: {error.strerror}"
    return found


def _image_status(
    folder: "Folder", path: str, entry: "os.DirEntry[str]", report: StageReport
) -> os.stat_result | None:
    """Return an image file's status; for any other, None, and it is named or counted."""
    if entry.is_dir():
        kind: str | None = "links to folders"
    else:
        kind = _unknown_kind(folder, path)
    if kind is not None:
        report.skipped[kind] = report.skipped.get(kind, 0) + 1
        return None
    try:
        path.encode()
        if entry.is_symlink():
            folder.file(path)
        status = entry.stat()
        reason = "" if stat.S_ISREG(status.st_mode) else "it is no regular file"
    except UnicodeEncodeError:
        reason = "its name is not UTF-8"
    except FileNotFoundError:
        reason = "it is a link to a file that is not there"
    except InputError:
        reason = "it is a link to a file outside the folder"
    if reason:
        report.failed[_shown(path)] = reason
        return None
    return status


def _unknown_kind(folder: "Folder", path: str) -> str | None:
    """Return the ending of a file that is no image, or None for an image.

    A file without ending is one if it begins like one.
    """
    ending = Path(path).suffix.lower()
    if ending in images.endings():
        return None
    if not ending:
        with contextlib.suppress(InputError), folder.stream(path) as stream:
            if images.looks_like_image(stream.read(images.START)):
                return None
        return "without ending"
    return _shown(ending) if len(ending) <= LONGEST_ENDING else "of other endings"


def _shown(path: str) -> str:
    """Return a path as a text, whatever bytes are in it."""
    return os.fsencode(path).decode(errors="replace")


def state_of(status: os.stat_result) -> FileState:
    """Return what changes with a file's bytes."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read(
    folder: "Folder",
    path: str,
    state: FileState,
    known: FileRecord | None,
    report: StageReport,
) -> FileRecord | None:
    """Return a file's record, from ``known`` where its bytes are the same; None if unreadable."""
    try:
        with folder.stream(path) as stream:
            content_hash = hashlib.file_digest(stream, "sha256").hexdigest()
    except InputError as error:
        report.failed[path] = without_file(folder, path, str(error))
        return None
    size, mtime_ns, ctime_ns, inode = state
    # A file changed just now may change again without a new time: it is read again next time.
    settled = time.time_ns() - max(mtime_ns, ctime_ns) > SETTLED
    record = FileRecord(
        path=path,
        size=size,
        mtime_ns=mtime_ns if settled else -1,
        ctime_ns=ctime_ns,
        inode=inode,
        hash=content_hash,
    )
    if known is not None and known["hash"] == content_hash and "broken" in known:
        record["broken"], record["decoder"] = known["broken"], known["decoder"]
    return record
