"""The ranking of one query of one's own images, by texts that are there."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.config import OWN_IMAGES
from pipeline.errors import InputError
from pipeline.images.files import open_image
from pipeline.models.composers.phrases import entities
from pipeline.own import grouping
from pipeline.own.answers import Shared
from pipeline.own.describing import Pictures
from pipeline.own.filters import Matching
from pipeline.own.loaded import Images
from pipeline.own.query import OneQuery
from pipeline.own.result import Result, Retrieved
from pipeline.own.unwanted import NOTHING, Unwanted, away_from
from pipeline.retrieval import methods, turns
from pipeline.retrieval.clues import Clues
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Score

if TYPE_CHECKING:
    from pipeline.own.gallery import Gallery


@dataclass(frozen=True)
class Asked:
    """A query whose texts are there."""

    references: Sequence[str]
    """Hashes of images of the gallery or of an earlier query."""
    relative_caption: str
    captions: Sequence[str] = ()
    edits: Sequence[str | None] = ()
    """One a caption, or each the same number; None failed."""
    notes: Sequence[str] = ()
    pictures: Pictures = field(default_factory=dict)
    """Those of the references that are at hand."""
    unwanted: Unwanted = NOTHING
    vector: Tensor | None = None
    """What stands for the references' feature (d)."""


def rank(
    gallery: "Gallery", shared: Shared, images: Images, asked: Asked, matching: Matching | None
) -> Result:
    """Rank the images of an index that match; only CLIP is called, for texts that are new.

    Raises InputError where a reference is not known, where edited captions do not match captions,
    or for a vector of another width.
    """
    edits = _edits(asked)
    if matching is not None and not matching.paths:
        return _result(gallery, asked, edits, (), list(asked.notes), matching, None)
    notes = [*asked.notes, *_missing(asked, edits, gallery.needs)]
    if asked.vector is not None and asked.vector.shape != images.gallery.shape[1:]:
        raise InputError("The turn before was by another encoder: ask it again.")
    for reference in asked.references:
        if reference not in images.row:
            shared.image(reference)  # raises where it is not known
    inside = _inside(images, matching)

    def picture(reference: str) -> Image.Image:
        if reference in asked.pictures:
            return asked.pictures[reference]()
        limit = gallery.config.runtime.max_pixels
        return open_image(Path("the image"), gallery.content(reference), max_pixels=limit)

    caption = asked.relative_caption
    made = {
        "captions": asked.captions,
        "edits": edits,
        "relative_captions": [caption] if caption else [],
        "relative_parts": [caption] if caption else [],
        "entities": entities(caption),
    }
    own = OneQuery(
        *(shared, images, gallery.config, asked.references, picture, made, notes, asked.vector),
        inside=inside,
    )
    clues = Clues(own)
    scored = methods.score(gallery.config, gallery.config.search.method, OWN_IMAGES, clues)
    query = turns.fused(scored)[0]
    scored = _away_from(asked.unwanted, scored, shared, images)
    best, rows, groups = _found(gallery, images, scored, asked, inside)
    near = images.gallery.features[rows]
    if asked.captions or edits:
        after = near @ clues.vectors("composed")[0]
        before = near @ clues.vectors("content")[0]
    else:  # nothing was edited: what the method itself compares with
        after = before = best
    values = torch.stack([best, after, after - before], dim=1).tolist()
    every = [
        _retrieved(images, row, matching, score, similarity, increment)
        for row, (score, similarity, increment) in zip(rows.tolist(), values, strict=True)
    ]
    found = [_with_members(every, places) for places in groups]
    return _result(gallery, asked, edits, found, notes, matching, query)


def _result(
    gallery: "Gallery",
    asked: Asked,
    edits: list[str | None],
    found: Sequence[Retrieved],
    notes: list[str],
    matching: Matching | None,
    query: Tensor | None,
) -> Result:
    return Result(
        asked.references[0] if asked.references else "",
        asked.relative_caption,
        tuple(asked.captions),
        tuple(edits),
        tuple(found),
        gallery.config.search,
        (*notes, *(matching.notes if matching else ()), *gallery.folder.notes),
        gallery,
        further=tuple(asked.references[1:]),
        unwanted=asked.unwanted,
        vector=query,
        matching=matching,
    )


def _edits(asked: Asked) -> list[str | None]:
    """Return the edited captions, empty ones as None; raises InputError as ``rank``."""
    count = len(asked.captions)
    if len(asked.edits) % max(count, 1) or (asked.edits and not count):
        raise InputError(
            f"{len(asked.edits)} edited captions do not match {count} captions: each "
            "caption has one, or each the same number."
        )
    return [text.strip() or None if text else None for text in asked.edits]


def _missing(asked: Asked, edits: Sequence[str | None], needs: set[str]) -> list[str]:
    """Say which of the texts that the method reads are not there."""
    notes = []
    count = len(asked.captions)
    if count and all(text is None for text in edits):
        notes.append("No caption could be edited; the relative caption alone is used.")
    elif None in edits:
        notes.append(f"{list(edits).count(None)} of {len(edits)} edited captions are missing.")
    if not count and needs & {"captions", "edits"}:
        notes.append(
            "There are no captions of the image: the relative caption stands for them. Ask "
            "again to have it described."
        )
    return notes


def _inside(images: Images, matching: Matching | None) -> NDArray[np.bool_] | None:
    """Return which rows of the index (images) match; None for all."""
    if matching is None:
        return None
    return np.array([name in matching.paths for name in images.hashes], dtype=np.bool_)


def _found(
    gallery: "Gallery",
    images: Images,
    score: Score,
    asked: Asked,
    inside: NDArray[np.bool_] | None,
) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Return scores and rows (n) of what was found, best first, and how they are grouped.

    More images are looked at until there are ``top_k`` groups or no more images.
    """
    settings, threshold = gallery.config.search, gallery.config.own.group_at
    names = (*asked.references, *asked.unwanted.images)
    excluded = torch.tensor([[images.row.get(name, -1) for name in names] or [-1]])
    k, never = settings.top_k, excluded if settings.excludes(OWN_IMAGES) else None
    count = k if threshold is None else grouping.enough(k)
    while True:
        best, rows = top_images(score, images.gallery, count, inside, never)
        there = torch.isfinite(best[0])
        scores, kept = best[0][there], rows[0][there]
        if threshold is None:
            return scores, kept, [[place] for place in range(len(kept))]
        groups = grouping.group(images.gallery.features[kept], threshold, k)
        if len(groups) == k or len(kept) < count:
            return scores, kept, groups
        count *= 2


def _with_members(every: Sequence[Retrieved], places: Sequence[int]) -> Retrieved:
    """Return the first image of a group with the others as its members."""
    first, *members = (every[place] for place in places)
    return replace(first, members=tuple(members)) if members else first


def _retrieved(
    images: Images,
    row: int,
    matching: Matching | None,
    score: float,
    similarity: float,
    increment: float,
) -> Retrieved:
    """Return an image of the index by its row; of equal files those that match come first."""
    content_hash = images.hashes[row]
    paths = images.paths[content_hash]
    first = matching.paths[content_hash] if matching else []
    path, *copies = [*first, *(own for own in paths if own not in first)]
    return Retrieved(path, content_hash, score, similarity, increment, tuple(copies))


def _away_from(unwanted: Unwanted, score: Score, shared: Shared, images: Images) -> Score:
    """Return a score less the weighted similarity to what is not wanted."""

    def feature(content_hash: str) -> Tensor:
        row = images.row.get(content_hash)
        return shared.image(content_hash) if row is None else images.raw(row)

    features = [feature(name) for name in unwanted.images]
    if unwanted.texts:
        features += list(shared.embed_texts(unwanted.texts))
    return away_from(features, score)
