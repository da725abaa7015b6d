"""What is wrong with a submission file, before a server says so."""

import contextlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.datasets.reading import is_id_list, read_json
from pipeline.errors import SeizeError
from pipeline.records import Query

if TYPE_CHECKING:
    from pipeline.datasets.base import Dataset


@dataclass
class Findings:
    """What is wrong with a submission file, and what is merely unwise."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(dataset: "Dataset", file: Path) -> Findings:
    """Return what ``Dataset.check`` does."""
    found = Findings()
    content = read_json(file)
    size = file.stat().st_size
    if dataset.max_bytes is not None and size > dataset.max_bytes:
        found.errors.append(f"the file has {size:,} bytes, more than {dataset.max_bytes:,}")
    if not isinstance(content, dict):
        found.errors.append("the file must be a JSON object of query ids and lists")
        return found
    kind, lists = dataset.check_header(content, found)
    known = {query.id: query for query in dataset.queries}
    if split := _split_of(dataset, lists, known):
        found.errors.append(
            f"its queries are those of {dataset.name} {split}, not of {dataset.split}: check it "
            f"with --split {split}"
        )
        return found
    for name in known:
        if name not in lists:
            found.errors.append(f"query {name} is missing")
    for name, images in lists.items():
        if name not in known:
            found.errors.append(f"query {name} is not in {dataset.name} {dataset.split}")
        else:
            _check_list(dataset, known[name], images, kind, found)
    return found


def _split_of(dataset: "Dataset", lists: Collection[str], known: Collection[str]) -> str | None:
    """Return the other split whose queries ``lists`` are about, None where they are ours."""
    if _alike(lists, known) > 0.5:
        return None
    for split in dataset.splits:
        with contextlib.suppress(SeizeError):  # it may not be on this machine
            other = type(dataset)(split, dataset.root, dataset.gallery, follow_links=True)
            if split != dataset.split and _alike(lists, [q.id for q in other.queries]) > 0.9:
                return split
    return None


def _check_list(dataset: "Dataset", query: Query, images: Any, kind: str, found: Findings) -> None:
    where = f"query {query.id}"
    if not is_id_list(images):
        found.errors.append(f"{where}: expected a list of image ids")
        return
    names = [str(image) for image in images]
    count = dataset.lengths[kind]
    if len(names) < count or (len(names) > count and kind != "recall"):
        found.errors.append(f"{where}: {len(names)} images instead of {count}")
    elif len(names) > count:
        found.warnings.append(f"{where}: {len(names)} images, only the first {count} count")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        found.errors.append(f"{where}: image {twice[0]} is there more than once")
    for name in names:
        if name not in dataset.images:
            found.errors.append(f"{where}: image {name} is not in the gallery")
        elif problem := dataset.misplaced(kind, query, name):
            found.errors.append(f"{where}: image {name} {problem}")
    for name in set(query.references) & set(names):
        text = f"{where}: its own reference image {name} is listed"
        (found.warnings if dataset.reference_allowed else found.errors).append(text)


def _alike(first: Collection[str], second: Collection[str]) -> float:
    """Return how many of all names are in both, from 0 to 1."""
    both = set(first) & set(second)
    return len(both) / max(len(set(first) | set(second)), 1)
