"""Which images a folder of one's own holds: the listing, and the walk that brings it up to date."""

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.images import files as images
from pipeline.run import StageReport, progress
from pipeline.store.journal import Journal
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import FileRecord

if TYPE_CHECKING:
    from pipeline.own.folder import Folder

LONGEST_ENDING = 12
"""Characters of an ending that is named; longer ones are parts of a name."""
SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a file surely shows in its times."""


def by_path(listing: RecordFile) -> dict[str, FileRecord]:
    """Return the last record of each file that is there; raises InputError as ``typed``."""
    return Journal(listing, FileRecord).read()


def without_file(folder: "Folder", path: str, reason: str) -> str:
    """Return why a file was left out without the file, which is named beside it."""
    bare = reason.removeprefix(f"{folder.root / path} ")
    return reason if bare == reason else f"it {bare}"


def update_listing(folder: "Folder", report: StageReport) -> list[FileRecord]:
    """Bring the listing up to date; return its records in the order of paths.

    Only files whose status changed are read, and only what changed is written.
    """
    with Journal(folder.listing, FileRecord) as journal:
        known = journal.current
        scanned = dict(_scan(folder, report))
        found = {path: scanned[path] for path in sorted(scanned)}
        fresh = [path for path, status in found.items() if not _same(known.get(path), status)]
        with progress(len(found), len(found) - len(fresh), "file", "read files") as bar:
            for path in fresh:
                record = _read(folder, path, found[path], known.get(path), report)
                if record is not None:
                    journal.put(record)
                elif path in known:
                    journal.drop(path)
                bar.update()
        for path in known.keys() - found.keys():
            journal.drop(path)
        return [known[path] for path in found if path in known]


def files_of(folder: "Folder") -> list[str]:
    """Return the paths of all image files, in their order; nothing is read or kept."""
    return sorted(path for path, _ in _scan(folder, StageReport("index", folder.name, [], "")))


def _scan(folder: "Folder", report: StageReport) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path below the root and the status of every image file.

    Hidden files and folders are left out. Links to folders are not followed, links to files only
    inside the root. Any depth will do: no function calls itself.
    """
    waiting = [""]
    endings = images.endings()
    known = endings | {ending.upper() for ending in endings}
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(folder.root / place) as listed:
                entries = [entry for entry in listed if not entry.name.startswith(".")]
        except OSError as error:
            report.failed[_shown(place) or "."] = f"it cannot be read: {error.strerror}"
            continue
        for entry in entries:
            path = f"{place}/{entry.name}" if place else entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif path[path.rfind(".") :] in known and _is_plain(path, entry):  # as nearly all
                    yield path, entry.stat()
                elif (status := _image_status(folder, path, entry, report)) is not None:
                    yield path, status
            except OSError as error:
                report.failed[_shown(path)] = f"it cannot be read: {error.strerror}"


def _is_plain(path: str, entry: "os.DirEntry[str]") -> bool:
    """Whether it is a file, no link, of a name that is surely UTF-8."""
    return path.isascii() and entry.is_file(follow_symlinks=False)


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


def _same(record: FileRecord | None, status: os.stat_result) -> bool:
    """Whether a file is as it was read; listings of earlier versions do not tell."""
    try:
        return (
            record is not None
            and record["mtime_ns"] == status.st_mtime_ns
            and record["size"] == status.st_size
            and record["ctime_ns"] == status.st_ctime_ns
            and record["inode"] == status.st_ino
        )
    except KeyError:
        return False


def state_of(status: os.stat_result) -> dict[str, int]:
    """Return what changes with a file's bytes; the time of modification alone can be set back."""
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def _read(
    folder: "Folder",
    path: str,
    status: os.stat_result,
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
    # A file changed just now may change again without a new time: it is read again next time.
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED
    record = FileRecord(
        path=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns if settled else -1,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        hash=content_hash,
    )
    if known is not None and known["hash"] == content_hash and "broken" in known:
        record["broken"], record["decoder"] = known["broken"], known["decoder"]
    return record
