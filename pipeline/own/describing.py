"""What the models say of one query's images: captions, their edits, and features of what is new."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from pipeline.models import captioners
from pipeline.own.answers import Shared

Pictures = Mapping[str, Callable[[], Image.Image]]
"""A query's images by the hash of their bytes, each opened where it is looked at."""


@dataclass
class Described:
    """The texts that a query is ranked by."""

    captions: list[str] = field(default_factory=list)
    edits: list[str | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def describe(
    shared: Shared,
    needs: set[str],
    pictures: Pictures,
    relative_caption: str,
    tell: Callable[[str], Any],
) -> Described:
    """Return the captions of all images and their edits, as far as the method ``needs`` them.

    ``tell`` hears each step as it begins. Raises ModelError for a model.
    """
    made = Described()
    if needs & {"captions", "edits"}:
        tell("caption")
        for reference, picture in pictures.items():
            described = shared.caption(reference, picture)
            if isinstance(described, captioners.Failure):
                made.notes.append(f"The image has no captions ({described.reason}).")
            else:
                made.captions += described
    if "edits" in needs:
        tell("edit")
        made.edits = shared.edit(made.captions, relative_caption)
        if reason := shared.why_missing(made.captions, relative_caption):
            made.notes.append(f"Why edited captions are missing, most often: {reason}.")
    return made


def embed(
    shared: Shared, known: Mapping[str, int], pictures: Pictures, texts: Sequence[str | None]
) -> None:
    """Embed the images that are not ``known`` to the index, and the texts that there are."""
    for reference, picture in pictures.items():
        if reference not in known:
            shared.embed_image(reference, picture)
    said = [text for text in texts if text]
    if said:
        shared.embed_texts(said, keep=True)
