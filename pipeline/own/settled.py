"""Whether nothing is left to do for a folder's index: it is what the last complete one left.

A note beside the feature file is a fingerprint of all that an index reads and writes but the images
themselves, whose status the listing has. Where it does not fit, or is not there, all is looked at.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from pipeline.errors import InputError, StorageError
from pipeline.own import metadata
from pipeline.own.attributes import States
from pipeline.store import segments
from pipeline.store.features import FeatureFile
from pipeline.store.files import write_text
from pipeline.store.identity import fingerprint

if TYPE_CHECKING:
    from pipeline.own.folder import Folder


def is_so(folder: "Folder", decoder: str, beside: Mapping[str, States]) -> bool:
    """Whether features, listing and metadata are undamaged and as they were, as are the sidecars.

    ``decoder`` is what decides which images are broken.
    """
    try:
        said = _note(folder).read_bytes()
    except OSError:
        return False
    return said.decode(errors="replace") == _state(folder, decoder, beside)


def keep(folder: "Folder", decoder: str, beside: Mapping[str, States]) -> None:
    """Note that nothing is left to do, where the cache can be written."""
    state = _state(folder, decoder, beside)
    if state is not None:
        with contextlib.suppress(StorageError):
            write_text(_note(folder), state)


def _note(folder: "Folder") -> Path:
    file = folder.feature_file
    return file.with_name(f"{file.name}.made-from")


def _state(folder: "Folder", decoder: str, beside: Mapping[str, States]) -> str | None:
    """Return what tells all that an index depends on; None where something is damaged."""
    file = folder.feature_file
    contents: list[str] = []
    for place in (folder.listing.file, metadata.file_of(folder.root, folder.cache)):
        with contextlib.suppress(FileNotFoundError):
            contents.append(xxhash.xxh3_64_hexdigest(place.read_bytes()))
    stored: dict[str, str] = {}
    try:
        manifest = segments.read_manifest(file)
        for path in (file, *sorted(segments.folder_of(file).glob("*.safetensors"))):
            part = FeatureFile(path)
            if part.damaged():
                return None
            stored[path.name] = part.identity
    except InputError:
        return None
    published = manifest and manifest.checksum
    return fingerprint([decoder, contents, stored, published, beside])
