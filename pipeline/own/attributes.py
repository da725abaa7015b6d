"""What people say of their images beside the pictures: a CSV, and sidecar files of each image."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import nesting
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.own.folder import Folder

FILE = "attributes.csv"
"""The file of a folder that is read where none is named."""
COLUMN = "path"
"""The column that says which image a row is about."""
LARGEST = 1 << 16
"""Bytes of a sidecar; larger ones are counted as not read."""
DELIMITERS = ",;\t"

ENDINGS = (".txt", ".json")
"""How sidecars end."""

States = dict[str, list[int]]
"""An image's sidecars by their path below the folder: size, and time of change in nanoseconds."""


@dataclass
class Table:
    """The rows of a CSV of attributes by the path of their image, all values as texts."""

    name: str
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    """By path, then by column in lower case; empty cells are left out."""
    columns: dict[str, str] = field(default_factory=dict)
    """Each column's name in lower case, and as it is written."""
    repeated: int = 0
    """Rows whose image had one before; the last one counts."""


def find(root: Path, named: Path | None) -> Path | None:
    """Return the CSV of a folder: the one that is named, else its own, None for none.

    Raises InputError where the one that is named is not there, or the folder's own leads out of it.
    """
    if named is not None:
        if not named.is_file():
            raise InputError(f"{named} does not exist.")
        return named
    own = root / FILE
    if not own.is_file():
        return None
    if not own.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{own} leads out of the folder: name it with --attributes.")
    return own


def read(file: Path, root: Path) -> Table:
    """Return the attributes in a CSV in UTF-8, divided by commas, semicolons or tabs.

    Its column ``path`` names images below ``root``, or absolutely. Raises InputError for a file
    that is none such.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        head = text.partition("\n")[0]
        divider = max(DELIMITERS, key=head.count)
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True))
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a CSV in UTF-8: {error}.") from None
    header = [name.strip() for name in lines[0]] if lines else []
    names = [name.casefold() for name in header]
    if COLUMN not in names:
        raise InputError(f"{file} needs a header with the column {COLUMN}, and others.")
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise InputError(f"{file} has the column {twice} twice.")
    table = Table(file.name)
    table.columns = {
        key: name for key, name in zip(names, header, strict=True) if key not in ("", COLUMN)
    }
    place, base = names.index(COLUMN), f"{root.resolve().as_posix()}/"
    for cells in lines[1:]:
        if len(cells) <= place or not cells[place].strip():
            continue
        path = _path(cells[place], base)
        table.repeated += path in table.rows
        table.rows[path] = {
            key: cell.strip()
            for key, cell in zip(names, cells, strict=False)
            if key in table.columns and cell.strip()
        }
    return table


def _path(cell: str, base: str) -> str:
    """Return a path as the index has it: below the folder, with forward slashes."""
    path = cell.strip().replace("\\", "/").removeprefix(base)
    while path.startswith("./"):
        path = path[2:]
    return path


def sidecars(folder: "Folder", paths: Iterable[str]) -> dict[str, States]:
    """Return the sidecars of the images that have some: ``a.jpg.txt``, ``a.txt``, and ``.json``.

    Each folder is listed once; hidden files and links are left out.
    """
    paths = list(paths)
    places = {path.rpartition("/")[0] for path in paths}
    return matched(paths, {place: _beside(folder.root / place, place) for place in places})


def matched(paths: Iterable[str], beside: Mapping[str, States]) -> dict[str, States]:
    """Return what belongs to which image, of texts and JSON files by folder; see ``sidecars``."""
    found: dict[str, States] = {}
    for path in paths if any(beside.values()) else ():
        own = beside.get(path.rpartition("/")[0])
        states = {name: own[name] for name in names(path) if name in own} if own else None
        if states:
            found[path] = states
    return found


def state_of(entry: "os.DirEntry[str]") -> list[int]:
    """Return what changes with a sidecar."""
    status = entry.stat(follow_symlinks=False)
    return [status.st_size, status.st_mtime_ns]


def names(path: str) -> Iterator[str]:
    """Yield what an image's sidecars are called, those of its whole name first."""
    folder, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    for ending in ENDINGS:
        yield path + ending
        if stem:
            yield f"{folder}{slash}{stem}{ending}"


def _beside(folder: Path, place: str) -> States:
    """Return the texts and JSON files in a folder, by their path."""
    states = {}
    prefix = f"{place}/" if place else ""
    try:
        with os.scandir(folder) as listed:
            for entry in listed:
                if entry.name.startswith(".") or not entry.name.endswith(ENDINGS):
                    continue
                if entry.is_file(follow_symlinks=False):
                    states[prefix + entry.name] = state_of(entry)
    except OSError:
        return {}  # a folder that cannot be listed is named where its images are looked for
    return states


def read_sidecars(folder: "Folder", files: States) -> tuple[str, dict[str, str], int]:
    """Return an image's text, its attributes, and how many of its sidecars could not be read.

    Texts are joined by lines. A JSON file holds one object; of it count texts, numbers, yes and no,
    and lists of these; the first file that has an attribute counts.
    """
    texts: list[str] = []
    said: dict[str, str] = {}
    failed = 0
    for path, (size, _) in files.items():
        try:
            if size > LARGEST:
                raise InputError(f"{path} is larger than {LARGEST} bytes.")
            with folder.stream(path) as stream:
                content = stream.read(LARGEST).decode("utf-8-sig")
            if path.endswith(".txt"):
                texts.append(content.strip())
            else:
                said = _flat(nesting.loads(content)) | said
        except (InputError, OSError, ValueError):
            failed += 1
    return "\n".join(texts), said, failed


def _flat(content: Any) -> dict[str, str]:
    """Return an object's plain values as texts; raises ValueError for what is no object."""
    if not isinstance(content, dict):
        raise ValueError("no object")
    shown = {_shown(name).casefold(): _shown(value) for name, value in content.items()}
    return {name: value for name, value in shown.items() if name and value}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value).encode(errors="replace").decode().strip()  # no half of a surrogate pair
    if isinstance(value, list):
        return ", ".join(filter(None, map(_shown, (v for v in value if not isinstance(v, list)))))
    return ""
