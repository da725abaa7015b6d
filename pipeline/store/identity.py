"""What a stored result was made by: fingerprints for file names, versions for headers."""

import contextlib
import hashlib
import json
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import Any


def fingerprint(content: Any) -> str:
    """Return 12 hex digits that identify JSON-able ``content``, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def provenance() -> dict[str, Any]:
    """Return versions and time for a file's header; they do not enter the fingerprint."""
    packages = ("torch", "transformers", "open_clip_torch", "seize")
    versions = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"versions": versions, "created": datetime.now(UTC).isoformat(timespec="seconds")}
