"""What an image's file says besides its pixels: size, date, camera; kept with the folder's index.

Only the beginning of a file is read, and only of files that are new or changed. What stands beside
the image (``own.attributes``) is kept with it.
"""

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngImageFile

from pipeline.errors import InputError
from pipeline.images.files import FORMATS, ORIENTATION
from pipeline.own import attributes
from pipeline.own.attributes import States
from pipeline.own.settings import cache_name
from pipeline.run import log, progress
from pipeline.store.columns import Rows
from pipeline.store.journal import Journal
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import MetadataRecord

if TYPE_CHECKING:
    from pipeline.own.folder import Folder
    from pipeline.store.schema import FileRecord

SIDEWAYS = (5, 6, 7, 8)
"""Orientations of EXIF whose width is what is stored as height."""
EXIF_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)", re.ASCII)
LONGEST = 200
"""Characters kept of a camera's name."""


@dataclass
class Exif:
    """What is taken of a file's EXIF; None for what it does not say."""

    taken: str | None = None
    """DateTimeOriginal, in the camera's own time, as ISO 8601."""
    make: str | None = None
    model: str | None = None
    lens: str | None = None
    iso: float | None = None
    orientation: int = 1


def file_of(root: Path, cache: Path) -> Path:
    """Return where a folder's metadata are kept."""
    return cache / cache_name(root.resolve()) / "metadata.jsonl"


def _records(folder: "Folder") -> RecordFile:
    header = {"stage": "metadata", "folder": str(folder.root)}
    return RecordFile(file_of(folder.root, folder.cache), header)


def by_path(file: Path) -> dict[str, MetadataRecord]:
    """Return what is kept in a file by path; raises InputError where it is damaged."""
    return Journal(RecordFile(file, {}), MetadataRecord).read().records()


def update(
    folder: "Folder", listing: Rows["FileRecord"], beside: Mapping[str, States]
) -> Rows[MetadataRecord]:
    """Bring the metadata up to date with a folder's listing and sidecars; return them by path.

    A file that is gone, or no longer what was listed, has none until the next index.
    """
    records = _records(folder)
    journal = Journal(records, MetadataRecord)
    if not listing and not records.file.exists():
        return journal.current
    with contextlib.suppress(InputError):  # what is damaged is dropped below, and read again
        known = journal.read()
        if not (_todo(listing, known, beside) or known.keys() - listing.keys() or journal.is_slow):
            return known
    found: Counter[str] = Counter()
    with journal:
        known = journal.current
        for path in known.keys() - listing.keys():
            journal.drop(path)
        todo = _todo(listing, known, beside)
        with progress(len(listing), len(listing) - len(todo), "file", "read metadata") as bar:
            for path in todo:
                record = _read(folder, listing[path], beside.get(path, {}))
                if record is not None:
                    journal.put(record)
                    found["EXIF"] += record["broken"]
                    found["sidecars"] += record["unread"]
                elif path in known:
                    journal.drop(path)
                bar.update()
    if found["EXIF"]:
        log.warning("The EXIF of %d images is damaged and says nothing.", found["EXIF"])
    if found["sidecars"]:
        log.warning("%d texts or JSON files beside images cannot be read.", found["sidecars"])
    return known


def _todo(
    listing: Rows["FileRecord"], known: Rows[MetadataRecord], beside: Mapping[str, States]
) -> list[str]:
    """Return the images whose metadata are missing, or of other files than those listed."""
    fields = ("hash", "mtime_ns", "ctime_ns")
    listed, made = (
        dict(zip(rows, zip(*map(rows.column, fields), strict=True), strict=True))
        for rows in (listing, known)
    )
    had = zip(known, known.column("sidecars"), strict=True)
    others = {path for path, sidecars in had if sidecars or path in beside}
    return [
        path
        for path, state in listed.items()
        if (made.get(path) != state or path in others)
        and not _is_current(listing[path], known.get(path), beside.get(path, {}))
    ]


def _is_current(listed: "FileRecord", record: MetadataRecord | None, beside: States) -> bool:
    """Whether metadata are those of a listed file and its sidecars."""
    return (
        record is not None
        and record["hash"] == listed["hash"]
        and _same_time(listed, record["mtime_ns"], record["ctime_ns"])
        and record["sidecars"] == beside
    )


def _same_time(listed: "FileRecord", mtime_ns: int, ctime_ns: int) -> bool:
    """Whether times are the listed ones; a file that had just changed was listed without one, and
    earlier versions without the other."""
    return listed["mtime_ns"] in (-1, mtime_ns) and listed.get("ctime_ns", ctime_ns) == ctime_ns


def _read(folder: "Folder", listed: "FileRecord", beside: States) -> MetadataRecord | None:
    """Return what a listed file says, None where it is gone or another one by now."""
    path = listed["path"]
    try:
        size, mtime_ns, ctime_ns, *_ = folder.state(path)
        if size != listed["size"] or not _same_time(listed, mtime_ns, ctime_ns):
            return None
        with folder.stream(path) as stream:
            width, height, exif = read_image(stream)
    except (InputError, OSError):
        return None
    text, said, unread = attributes.read_sidecars(folder, beside)
    own = exif or Exif()
    if own.orientation in SIDEWAYS:
        width, height = height, width
    return MetadataRecord(
        path=path,
        hash=listed["hash"],
        bytes=size,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        width=width,
        height=height,
        taken=own.taken,
        make=own.make,
        model=own.model,
        lens=own.lens,
        iso=own.iso,
        broken=exif is None,
        text=text,
        attributes=said,
        sidecars=beside,
        unread=unread,
    )


def read_image(stream: Any) -> tuple[int, int, Exif | None]:
    """Return an image's width and height as stored, and its EXIF; None where that is damaged.

    An image that cannot be decoded has a width and height of 0.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, which is counted
        try:
            opened = Image.open(stream, formats=FORMATS)
        except Exception:  # whatever a decoder makes of bytes from elsewhere
            return 0, 0, Exif()
        with opened:
            try:
                return *opened.size, _exif(opened)
            except Exception:
                return *opened.size, None


def _exif(opened: Image.Image) -> Exif:
    """Return what is taken of EXIF; raises whatever its reader does where it is damaged."""
    if isinstance(opened, PngImageFile):  # Pillow would decode the picture to look behind it
        exif = Image.Exif()
        if content := opened.info.get("exif"):
            exif.load(content)
    else:
        exif = opened.getexif()
    if not exif and opened.info.get("exif", b"")[6:]:
        raise ValueError("there is EXIF, and nothing in it can be read")
    detail = exif.get_ifd(IFD.Exif)
    iso = detail.get(Base.ISOSpeedRatings)
    orientation = exif.get(ORIENTATION, 1)
    return Exif(
        _date(detail.get(Base.DateTimeOriginal)),
        _text(exif.get(Base.Make)),
        _text(exif.get(Base.Model)),
        _text(detail.get(Base.LensModel)),
        float(iso) if isinstance(iso, int) else None,
        orientation if isinstance(orientation, int) else 1,
    )


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    text = value.replace("\0", " ").strip()[:LONGEST] if isinstance(value, str) else ""
    return text or None


def _date(value: Any) -> str | None:
    """Return a date of EXIF, 2024:05:03 12:30:00, as ISO 8601; cameras without a clock say 0000."""
    found = EXIF_DATE.match(_text(value) or "")
    if found is None:
        return None
    try:
        return datetime(*map(int, found.groups())).isoformat()  # type: ignore[arg-type]
    except ValueError:
        return None
