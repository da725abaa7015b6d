"""What a stored result was made by: fingerprints for file names, versions for headers."""

import contextlib
import hashlib
import itertools
import json
import os
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError

MOST_FILES = 1_000
"""Files of a model's folder."""


def fingerprint(content: Any) -> str:
    """Return 12 hex digits that identify JSON-able ``content``, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def model_identity(model: str) -> str:
    """Return ``model`` for a hub name; for a local path add a hash that changes with its files.

    Names, sizes and the first and last MiB of each file are hashed: weights of any size stay cheap.
    Raises ModelError for a folder that holds so much that it is no model's.
    """
    path = Path(model)
    if not os.path.exists(model):  # False for a name that no file can have, too
        return model
    digest = hashlib.sha256()
    inside = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())
    files = sorted(itertools.islice(inside, MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise ModelError(
            f"{path.resolve()} holds more than {MOST_FILES:,} files, so it is no model's folder."
        )
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return f"{path.name}@{digest.hexdigest()[:12]}"


def provenance() -> dict[str, Any]:
    """Return versions and time for a file's header; they do not enter the fingerprint."""
    packages = ("torch", "transformers", "open_clip_torch", "seize")
    versions = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"versions": versions, "created": datetime.now(UTC).isoformat(timespec="seconds")}
