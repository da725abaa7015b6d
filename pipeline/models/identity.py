"""What identifies a result: the models that made it by all their bytes, and how they computed.

What a header says of the first enters the fingerprint, so that other weights make another file. The
precision that ``auto`` comes to is the machine's: it is written into the file that is begun with it
and kept to by all who go on with that file, whatever machine reads or finishes it.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import xxhash
from safetensors import SafetensorError, safe_open

from pipeline.config import Computed, Precision, RuntimeConfig, in_precision
from pipeline.errors import ModelError
from pipeline.store.identity import fingerprint

MOST_FILES = 1_000
"""Files of a model's folder."""

UNREAD = {".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf"}
"""Endings of what stands beside a model for people."""

PART = 1 << 20
"""Bytes that are read at a time."""

SETTLED = 2_000_000_000
"""Nanoseconds after which a file counts as done with: one changed just now may change again without
a new time, so its hash is not remembered."""

COMPUTED = "computed"
"""The field of a header that says how the content is computed; it is not in the fingerprint."""


def model_identity(model: str) -> str:
    """Return ``model`` for a hub name; for a local path add a hash of all its bytes.

    A folder is its files' names and contents, but for hidden ones (``.git``) and those for people
    (``UNREAD``, licences). Hashes are remembered in the user's cache folder by path, size, times
    and inode, so that each file is read once (4 GB a second and core, where the disk is as fast). A
    hub's name stays what it is: what is on this
    machine must not change what a result is called. Raises ModelError for a folder that holds so
    much that it is no model's, or for files that cannot be read.
    """
    path = Path(model)
    if not os.path.exists(model):  # False for a name that no file can have, too
        return model
    inside = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())
    files = sorted(itertools.islice(inside, MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise ModelError(
            f"{path.resolve()} holds more than {MOST_FILES:,} files, so it is no model's folder."
        )
    digest = hashlib.sha256()
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        if file == path or _counts(name):
            digest.update(f"{name}\0{_hash_of(file)}\n".encode(errors="surrogateescape"))
    return f"{path.name}@{digest.hexdigest()[:12]}"


def _counts(name: str) -> bool:
    """Return whether a file of a model's folder may change what the model does."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    licence = name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
    return not (hidden or licence or Path(name).suffix.lower() in UNREAD)


def _hash_of(file: Path) -> str:
    """Return a hash of all bytes of a file in 32 hexadecimal digits; raises ModelError."""
    try:
        place = str(file.resolve())
        state = _state(os.stat(place))
        known = _remembered if _settled(state) else _remembered.__wrapped__
        return known(place, state)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}.") from None


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes with a file's content."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _settled(state: tuple[int, ...]) -> bool:
    return time.time_ns() - max(state[1], state[2]) > SETTLED


@functools.lru_cache(maxsize=10_000)
def _remembered(place: str, state: tuple[int, ...]) -> str:
    note = _notes() / f"{xxhash.xxh3_128_hexdigest(os.fsencode(place))}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(note.read_bytes())
        if known == _noted(place, state, str(known["hash"])):
            return str(known["hash"])
    found = _read(place)
    if _settled(state) and state == _state(os.stat(place)):
        _note(note, _noted(place, state, found))
    return found


def _noted(place: str, state: tuple[int, ...], found: str) -> dict[str, Any]:
    """Return what a note holds; a damaged one fails its checksum, and the file is read again."""
    content = {"file": place, "state": list(state), "hash": found}
    checksum = fingerprint([os.fsencode(place).hex(), *state, found])  # a name may be any bytes
    return content | {"checksum": checksum}


def _read(place: str) -> str:
    checksum, part = xxhash.xxh3_128(), bytearray(PART)
    with open(place, "rb", buffering=0) as stream:
        while count := stream.readinto(part):
            checksum.update(memoryview(part)[:count])
    return checksum.hexdigest()


def _notes() -> Path:
    """Return where hashes of this user's files are remembered, a small file each."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "seize" / "models"


def _note(file: Path, content: dict[str, Any]) -> None:
    """Write a note at once or not at all; where that cannot be, the file is read again next time.

    Several processes may write the same one: the last wins, and they agree.
    """
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
                json.dump(content, stream)
            os.replace(name, file)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)


def settle(
    model: Computed, runtime: RuntimeConfig, begun: Mapping[str, Any]
) -> tuple[Computed, dict[str, Any]]:
    """Return ``model`` with the precision to compute in, and what a header is to say of it.

    ``begun`` is the header of the file that is gone on with, empty where there is none. ``auto`` is
    what that file was begun in, so that a file never holds two precisions; else what suits the
    device.
    """
    before = begun.get(COMPUTED)
    told = before.get("precision") if isinstance(before, dict) else None
    if model.precision == "auto" and told in get_args(Precision) and told != "auto":
        settled = model.model_copy(update={"precision": told})
    else:
        settled = in_precision(model, runtime)
    return settled, {COMPUTED: {"precision": settled.precision}}


def begun_records(file: Path) -> dict[str, Any]:
    """Return the header of a file of records as it stands there; {} where there is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError), file.open("rb") as stream:
        header = json.loads(stream.readline()).get("header")
        return header if isinstance(header, dict) else {}
    return {}


def begun_features(files: list[Path]) -> dict[str, Any]:
    """Return the header of the first of ``files`` that is one of features; {} where none is."""
    for file in files:
        with (
            contextlib.suppress(OSError, ValueError, TypeError, KeyError, SafetensorError),
            safe_open(file, framework="numpy") as stream,
        ):
            header = json.loads(stream.metadata()["header"])
            if isinstance(header, dict):
                return header
    return {}
