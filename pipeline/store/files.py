"""Files that are written completely or not at all, one process at a time, and sealed ones."""

import contextlib
import errno
import functools
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import xxhash
from safetensors import SafetensorError

from pipeline.errors import InputError, StorageError

log = logging.getLogger("seize")

UNFINISHED = ".unfinished"
"""How files end while they are written."""

UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What a cache that may only be read answers."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk answers, or one on which no more is allowed."""

SEAL = b"\nxxh3-64:"
"""What stands before the checksum at the end of a file that another library wrote."""


@contextlib.contextmanager
def atomic(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``file`` and rename it there at the end: all or nothing.

    It is on the disk before it is renamed, so a failure of power leaves no half file either. The
    file keeps the mode that it had; a new one gets what the umask leaves.
    """
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(file.parent)
        temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            mode = _mode_for(file, handle)
            with contextlib.suppress(OSError):  # not every file system has locks
                filelock.lock_descriptor(handle, blocking=False)  # until it is closed
            yield temporary
            with contextlib.suppress(OSError):  # not every file system has modes
                temporary.chmod(mode)  # again: a library may have written a new file
            _to_disk(temporary)
            temporary.replace(file)
            with contextlib.suppress(OSError):  # not every system can do this with folders
                _to_disk(file.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _mode_for(file: Path, handle: int) -> int:
    """Give the new, still empty file at ``handle`` the mode of ``file``, and return its mode."""
    with contextlib.suppress(OSError):  # a new file, or a file system without modes
        os.fchmod(handle, stat.S_IMODE(file.stat().st_mode) & 0o777)
    return stat.S_IMODE(os.fstat(handle).st_mode)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@functools.cache  # once a process: listing a folder of many files takes time
def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote into ``folder``.

    Those of living ones are locked.
    """
    for file in folder.glob(f".*{UNFINISHED}"):
        remove_left(file)


def remove_left(file: Path) -> None:
    """Delete a temporary file, unless the process that writes it lives."""
    with contextlib.suppress(OSError):
        handle = os.open(file, os.O_RDWR)
        try:
            if filelock.lock_descriptor(handle, blocking=False):
                file.unlink()
        finally:
            os.close(handle)


def write_text(file: Path, text: str) -> None:
    """Write ``text``, completely or not at all."""
    with atomic(file) as temporary, storage_errors(file):
        temporary.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` as JSON, completely or not at all."""
    write_text(file, json.dumps(content, ensure_ascii=False))


@contextlib.contextmanager
def storage_errors(file: Path) -> Iterator[None]:
    """Turn a failed write (disk full, read-only) into one StorageError that names the file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        full = isinstance(error, SafetensorError) or error.errno in FULL
        raise StorageError(
            f"Cannot write {file}: {reason}. What was computed before is kept; "
            f"{'make room or ' if full else ''}choose another --cache folder, then run the same "
            "command again."
        ) from error


@contextlib.contextmanager
def lock(file: Path, wait: bool = True) -> Iterator[bool]:
    """Hold ``file`` for one process; a second one waits and then finds the work done.

    Without ``wait`` it goes on without the lock, and yields False; likewise where ``file`` cannot
    be written, so that what is there can be read. Raises StorageError where the file can be
    written but its lock cannot be opened, as one of another user: to write beside its holder would
    damage the file. The operating system frees the lock when its holder dies, so a kill leaves
    nothing behind.
    """
    held = filelock.FileLock(file.parent / f".{file.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(blocking=False)
    except filelock.Timeout:
        if wait:
            log.info("Another process is writing %s; waiting for it.", file)
            with storage_errors(file):
                held.acquire()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            with storage_errors(file):
                raise
        if _is_writable(file):
            raise StorageError(
                f"Cannot lock {file}: {error.strerror} ({held.lock_file}, perhaps of another "
                "user). Give yourself the right to write that lock, or choose another --cache "
                "folder, then run the same command again."
            ) from error
    try:
        yield held.is_locked
    finally:
        held.release()


def _is_writable(file: Path) -> bool:
    """Whether ``file`` can be written, made or replaced."""
    folder = next(place for place in file.absolute().parents if place.exists())
    return (file.exists() and os.access(file, os.W_OK)) or os.access(folder, os.W_OK)


def seal(file: Path) -> None:
    """Append a checksum of its content to a file that another library wrote and reads."""
    checksum = _checksum_of_file(file, file.stat().st_size)
    with file.open("ab") as stream:
        stream.write(SEAL + checksum)


def is_intact(file: Path) -> bool:
    """Return whether a file is byte for byte as it was sealed; InputError if it cannot be read."""
    try:
        end = file.stat().st_size - len(SEAL) - 8
        if end < 0:
            return False
        with file.open("rb") as stream:
            stream.seek(end)
            return stream.read() == SEAL + _checksum_of_file(file, end)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None


def is_ready(file: Path) -> bool:
    """Return whether there is a sealed file that is as it was written; a damaged one is not used.

    Who reads it memory-mapped believes what stands there: damaged, it crashes the process or gives
    wrong results.
    """
    if not file.exists():
        return False
    if is_intact(file):
        return True
    log.warning("%s is damaged; it is built again.", file)
    return False


def _checksum_of_file(file: Path, end: int) -> bytes:
    checksum = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while part := stream.read(min(1 << 20, end - stream.tell())):
            checksum.update(part)
    return checksum.digest()
