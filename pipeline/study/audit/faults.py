"""Copies of the reference in the gallery, and ground truths that cannot or should not be found."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.errors import InputError, SeizeError
from pipeline.images.files import open_image
from pipeline.records import ImageFile, file_of
from pipeline.run import Run
from pipeline.stages import embeddings
from pipeline.store.features import FeatureFile

NEAR = 0.98
"""Cosine of two images' features from which on they are called near-duplicates."""
CHUNK = 8192
"""Images of a gallery that are compared with the references at a time."""
DECODED = 64
"""Pictures of which the pixels are remembered."""


@dataclass(frozen=True)
class Copy:
    """An image of a query's gallery that is, or looks like, one of its reference images."""

    query: str
    reference: str
    image: str
    cosine: float | None
    """Of the encoder's features; None where there are none."""
    same_bytes: bool
    same_pixels: bool
    relevant: bool
    """Whether it is a ground truth of the query."""


@dataclass(frozen=True)
class Faults:
    """What is odd about the queries, by query id."""

    near: float
    copies: list[Copy]
    reference_is_truth: list[str]
    """Queries that have a reference image among their ground truths."""
    absent: dict[str, list[str]] = field(default_factory=dict)
    """Ground truths that are not in the query's gallery."""
    without_feature: dict[str, list[str]] = field(default_factory=dict)
    """Ground truths in the gallery that have no feature: their image is broken or missing."""


def faults(run: Run, near: float, notes: list[str]) -> Faults:
    """Look for faults; what cannot be looked at is said in ``notes``."""
    galleries = {name: set(images) for name, images in run.dataset.galleries.items()}
    features = _features(run, notes)
    known = None if features is None else set(features.names)
    absent = {q.id: [i for i in q.relevant if i not in galleries[q.gallery]] for q in run.queries}
    lost = {
        q.id: [i for i in q.relevant if i in galleries[q.gallery] and i not in (known or ())]
        for q in (run.queries if known is not None else ())
    }
    return Faults(
        near,
        _copies(run, features, near, notes),
        [q.id for q in run.queries if not set(q.references).isdisjoint(q.relevant)],
        {name: images for name, images in absent.items() if images},
        {name: images for name, images in lost.items() if images},
    )


def _features(run: Run, notes: list[str]) -> FeatureFile | None:
    try:
        file = embeddings.image_file(run)
    except SeizeError as error:
        notes.append(f"Not compared by the encoder, which is not here: {error}")
        return None
    if not file.exists():
        notes.append("Not compared by the encoder: the gallery has no features (seize embed).")
        return None
    return FeatureFile(file)


def _copies(run: Run, features: FeatureFile | None, near: float, notes: list[str]) -> list[Copy]:
    cosines = {} if features is None else near_duplicates(run, features, near)
    equal = same_bytes(run, notes)
    alike = _same_pixels(run.dataset.images, run.config.runtime.max_pixels)
    galleries = {name: set(images) for name, images in run.dataset.galleries.items()}
    found = []
    for query in run.queries:
        members = galleries[query.gallery]
        for reference in query.references:
            by_bytes = equal.get(reference, set()) & members
            by_cosine = cosines.get((query.gallery, reference), {})
            for image in dict.fromkeys((*by_cosine, *sorted(by_bytes))):
                if image not in query.references:
                    same = image in by_bytes
                    pixels = same or alike(reference, image)
                    cosine, relevant = by_cosine.get(image), image in query.relevant
                    found.append(Copy(query.id, reference, image, cosine, same, pixels, relevant))
    return found


def near_duplicates(
    run: Run, features: FeatureFile, near: float
) -> dict[tuple[str, str], dict[str, float]]:
    """Return, by gallery and reference image, the gallery's images of at least that cosine."""
    row = features.row
    asked: dict[str, dict[str, None]] = {}
    for query in run.queries:
        own = asked.setdefault(query.gallery, {})
        own |= dict.fromkeys(image for image in query.references if image in row)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for gallery, wanted in ((name, list(images)) for name, images in asked.items() if images):
        names = [name for name in run.dataset.galleries[gallery] if name in row]
        references = _unit(features, [row[name] for name in wanted])
        for start in range(0, len(names), CHUNK):
            some = names[start : start + CHUNK]
            cosines = references @ _unit(features, [row[name] for name in some]).T
            for i, j in zip(*np.nonzero(cosines >= near), strict=True):
                if wanted[i] != some[j]:
                    near_it = found.setdefault((gallery, wanted[i]), {})
                    near_it[some[j]] = float(cosines[i, j])
    return found


def _unit(features: FeatureFile, rows: list[int]) -> np.ndarray:
    taken = features.take(np.array(rows, dtype=np.int64)).astype(np.float32)
    return np.asarray(taken / np.maximum(np.linalg.norm(taken, axis=1, keepdims=True), 1e-12))


def same_bytes(run: Run, notes: list[str]) -> dict[str, set[str]]:
    """Return, by reference image, the images whose files have the very same bytes."""
    by_size: dict[int, list[str]] = {}
    missing = 0
    for name, file in run.dataset.images.items():
        try:
            size = os.stat(file_of(file)).st_size
        except OSError:
            missing += 1
            continue
        if isinstance(file, Path):  # crops of one file differ though their bytes are the same
            by_size.setdefault(size, []).append(name)
    if missing:
        count = len(run.dataset.images)
        notes.append(f"{missing:,} of {count:,} image files are not here: not compared by content.")
    references = {name for query in run.queries for name in query.references}
    found: dict[str, set[str]] = {}
    for names in by_size.values():
        if len(names) > 1 and not references.isdisjoint(names):
            by_digest: dict[bytes, set[str]] = {}
            for name in names:
                digest = _digest(file_of(run.dataset.images[name]))
                by_digest.setdefault(digest, set()).add(name)
            for same in by_digest.values():
                found |= {name: same - {name} for name in same & references if len(same) > 1}
    return found


def _digest(file: Path) -> bytes:
    """Return a digest of a file's bytes; one that cannot be read is like no other file."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return str(file).encode()


def _same_pixels(images: Mapping[str, ImageFile], most: int) -> Callable[[str, str], bool]:
    @lru_cache(DECODED)
    def pixels(name: str) -> tuple[object, ...]:
        try:
            picture = open_image(images[name], max_pixels=most)
        except InputError:
            return (name,)  # like no other
        return picture.size, hashlib.sha256(picture.tobytes()).digest()

    return lambda one, other: pixels(one) == pixels(other)


def lines(found: Faults) -> list[dict[str, str]]:
    """Return the table: how many queries and images each fault is about."""

    def copies(title: str, wanted: Callable[[Copy], bool]) -> dict[str, str]:
        some = [copy for copy in found.copies if wanted(copy)]
        queries, images = {c.query for c in some}, {c.image for c in some}
        return {"found": title, "queries": f"{len(queries):,}", "images": f"{len(images):,}"}

    def listed(title: str, by_query: Mapping[str, list[str]]) -> dict[str, str]:
        images = {image for own in by_query.values() for image in own}
        return {"found": title, "queries": f"{len(by_query):,}", "images": f"{len(images):,}"}

    near = f"near-duplicate of the reference (cosine at least {found.near:g})"
    return [
        copies("copy of the reference in the gallery, same bytes", lambda c: c.same_bytes),
        copies("copy of the reference in the gallery, same pixels", lambda c: c.same_pixels),
        copies(near, lambda c: c.cosine is not None and c.cosine >= found.near),
        copies("any of these that is a ground truth", lambda c: c.relevant),
        listed("the reference is a ground truth", {q: [q] for q in found.reference_is_truth}),
        listed("ground truth that is not in its gallery", found.absent),
        listed("ground truth without a feature", found.without_feature),
    ]
