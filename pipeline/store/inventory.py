"""What is in a cache, and what of it is not current any more."""

import contextlib
import glob
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.errors import InputError
from pipeline.store.files import UNFINISHED, lock, remove_left, storage_errors
from pipeline.store.jsonl import read_header

OUTPUT = re.compile(
    r"(?P<output>(?:.*/)?(?P<name>[^/]+)-(?P<fingerprint>[0-9a-f]{12})\.[a-z]+)"
    r"(?P<part>\.shard-\d+|\.made-from|\.parts/.+|/.+)?"
)
"""A path below a cache that a stage wrote: its output, or a part of one on its way there."""
INDEXES = (".faiss", ".db")
"""How indexes end, which have no header."""
FINGERPRINT = re.compile("[0-9a-f]{12}")
MAKERS = ("method", "model", "imported")
"""Fields of a header that say what made an output; within a field, its model and name."""
LISTING = "files.jsonl"
"""The file in a cache that says of which folder of one's own images it is."""
DIGEST = re.compile("@[0-9a-f]{12}")
"""Stands behind a model's name in a header, and tells its files' content."""


@dataclass
class Entry:
    """One output of a stage, with the parts of it that are not merged yet, or another file."""

    file: Path
    folder: str
    """Dataset and split, or a folder of one's own images; "" for what several share."""
    stage: str
    paths: list[Path] = field(default_factory=list)
    bytes: int = 0
    modified: float = 0.0
    """When it was last written, in seconds since 1970."""
    header: dict[str, Any] = field(default_factory=dict)
    """What it was made by; empty where that cannot be read."""
    name: str = ""
    fingerprint: str = ""
    reason: str = ""
    """Why it is not current; "" where it is."""

    @property
    def is_output(self) -> bool:
        """Whether a stage wrote it: its name and its header say so, or that it is an index."""
        return bool(self.fingerprint) and (bool(self.header) or self.file.suffix in INDEXES)

    @property
    def made_by(self) -> str:
        """The method, models and prompts of the header in words, or the import's name."""
        values = [value for key, value in self.header.items() if key in MAKERS]
        for value in self.header.values():
            if isinstance(value, dict):
                values += [value[key] for key in ("model", "name") if key in value]
        return ", ".join(dict.fromkeys(value for value in values if isinstance(value, str)))

    @property
    def kind(self) -> str:
        """What two outputs share of which the newer one takes the other's place.

        Another method, model, prompt's name, protocol or --limit is something else to have.
        """
        chosen = [self.header.get(key) for key in ("protocol", "limited_to")]
        made_by = DIGEST.sub("", self.made_by)
        return json.dumps([str(self.file.parent), self.name, made_by, *chosen], default=str)

    def cites(self) -> set[str]:
        """Return the fingerprints of the outputs that this one was made from."""
        return {text for text in _texts(self.header) if FINGERPRINT.fullmatch(text)}


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)


def entries(cache: Path) -> list[Entry]:
    """Return what is in ``cache``, in the order of paths. Links are not followed, and left out.

    Raises InputError where there is no such folder.
    """
    if not cache.is_dir():
        raise InputError(f"There is no cache {cache}. Is --cache right?")
    root = cache.resolve()
    found: dict[Path, Entry] = {}
    for path in _files(root):
        match = OUTPUT.fullmatch(path.relative_to(root).as_posix())
        file = root / match["output"] if match else path
        if file not in found:
            found[file] = _entry(root, file, match)
        with contextlib.suppress(FileNotFoundError):  # another process finished it meanwhile
            status = path.stat()
            found[file].paths.append(path)
            found[file].bytes += status.st_size
            found[file].modified = max(found[file].modified, status.st_mtime)
    listed = [entry for _, entry in sorted(found.items()) if entry.paths]
    for entry in listed:
        entry.header = _header(entry)
    _judge(listed)
    return listed


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            hidden = name.startswith(".") and not name.endswith(UNFINISHED)  # locks
            if not hidden and not path.is_symlink() and path.is_file():
                yield path


def _entry(root: Path, file: Path, output: re.Match[str] | None) -> Entry:
    folder, stage, *_ = (*file.relative_to(root).parts[:-1], "", "")
    if output is None:
        return Entry(file, folder, stage)
    if not stage:  # as the texts' features, which all datasets share
        folder, stage = "", folder
    return Entry(file, folder, stage, name=output["name"], fingerprint=output["fingerprint"])


def _header(entry: Entry) -> dict[str, Any]:
    """Return the header of an output or of its first part; empty where there is none to read."""
    for path in entry.paths:
        with contextlib.suppress(InputError, SafetensorError, OSError, ValueError, KeyError):
            if ".jsonl" in path.suffixes:
                return read_header(path)
            if ".safetensors" in path.suffixes:
                with safe_open(path, "numpy") as opened:
                    header = json.loads((opened.metadata() or {})["header"])
                    return header if isinstance(header, dict) else {}
    return {}


def _judge(listed: list[Entry]) -> None:
    """Say of each entry why it is not current, if it is not."""
    outputs = [entry for entry in listed if entry.fingerprint and entry.header]
    newest: dict[str, Entry] = {}
    for entry in outputs:
        if entry.kind not in newest or entry.modified > newest[entry.kind].modified:
            newest[entry.kind] = entry
    by_fingerprint: dict[str, list[Entry]] = {}
    for entry in outputs:
        by_fingerprint.setdefault(entry.fingerprint, []).append(entry)
    kept: dict[Path, Entry] = {}
    todo = list(newest.values())
    while todo:
        entry = todo.pop()
        if entry.file not in kept:
            kept[entry.file] = entry
            todo += [one for name in entry.cites() for one in by_fingerprint.get(name, [])]
    for entry in outputs:
        if entry.file not in kept:
            entry.reason = f"{newest[entry.kind].file.name} is newer"
    for entry in listed:
        if entry.file.name.endswith(UNFINISHED):
            entry.reason = "left by a process that was stopped"
    for folder, path in _gone(listed).items():
        for entry in listed:
            if entry.folder == folder:
                entry.reason = f"{path} is gone"


def _gone(listed: Iterable[Entry]) -> dict[str, str]:
    """Return the folders of one's own images that are not there any more, by the cache's name."""
    return {
        entry.file.parent.name: str(entry.header["folder"])
        for entry in listed
        if entry.file.name == LISTING
        and entry.header.get("stage") == "index"
        and not os.path.exists(str(entry.header.get("folder", "")))
    }


def remove(entry: Entry, cache: Path) -> bool:
    """Delete an entry; return False, and delete nothing, where another process holds it.

    Its locks stay, empty files: another process may be waiting for one. Raises StorageError where
    it cannot be deleted, and InputError for one that is not in ``cache``.
    """
    root = cache.resolve()
    for path in entry.paths:
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{path} is not in the cache {cache}: it was left as it is.")
    if entry.file.name.endswith(UNFINISHED):
        remove_left(entry.file)
        return not entry.file.exists()
    with contextlib.ExitStack() as locks:
        for file in _locked(entry.file):
            if not locks.enter_context(lock(file, wait=False)):
                return False
        for path in entry.paths:
            with storage_errors(path):
                path.unlink(missing_ok=True)
        for place in (entry.file, entry.file.with_name(f"{entry.file.name}.parts")):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
    return True


def _locked(file: Path) -> list[Path]:
    """Return what has to be held to delete ``file``: itself, and what locks there are of parts."""
    pattern = f".{glob.escape(file.name)}.*lock"
    parts = [path.name[1:].removesuffix(".lock") for path in file.parent.glob(pattern)]
    return [file, *(file.with_name(part) for part in sorted(parts) if part != file.name)]
