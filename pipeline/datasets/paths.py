"""Where a benchmark's images are: paths in its listings stay inside the folder of its images."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError

LONGEST_NAME = 255
"""Bytes of a file's name, as nearly every file system has it."""


def relative(path: str, where: str) -> PurePosixPath:
    """Return a path of a listing; raises InputError with ``where`` for one that leaves the folder
    it is below, or cannot be a path at all."""
    pure = PurePosixPath(path)
    try:
        longest = max(len(part.encode()) for part in pure.parts)
    except ValueError:  # no part at all, or characters that UTF-8 does not have
        longest = 0
    if not 0 < longest <= LONGEST_NAME or "\0" in path:
        raise InputError(f"{where}: {path[:100]!r} is no path of a file.")
    if pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{where}: the path {path!r} leaves the dataset's folder.")
    return pure


def check_links(folders: Mapping[Path, Path], files: Iterable[Path]) -> None:
    """Refuse images whose file is, or lies behind, a link out of their folder; raises InputError.

    ``folders`` maps each folder that holds images to the one that the benchmark's layout names.
    That one itself may be a link: whoever set up the data made it, for instance to another disk.
    """
    listed: set[Path] | None = None
    for folder, own in folders.items():
        real = os.path.realpath(own)
        links = [folder] if folder != own else []
        try:
            with os.scandir(folder) as found:
                names = [entry.name for entry in found if entry.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):  # said when an image is opened
            continue
        except OSError as error:
            raise InputError(f"{folder} cannot be read: {error.strerror}.") from None
        if names:
            listed = set(files) if listed is None else listed
            links += [folder / name for name in names if folder / name in listed]
        for link in links:
            target = os.path.realpath(link)
            if os.path.commonpath([real, target]) != real:
                raise InputError(
                    f"{link} is a link out of {own}, to {target}. If these links are yours, "
                    "allow them with --follow-links."
                )
