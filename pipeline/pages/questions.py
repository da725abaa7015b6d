"""What the page may ask, as pydantic reads it: settings, a query, and what a turn before left.

The server keeps no sessions, so a query's vector goes to the page with its result and comes back.
"""

import base64
import binascii
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from pipeline.errors import InputError
from pipeline.own.gallery import LONGEST_TEXT
from pipeline.own.result import Result
from pipeline.own.unwanted import Unwanted
from pipeline.pages import bodies
from pipeline.retrieval import turns
from pipeline.retrieval.turns import Carried

MOST_IMAGES = 240
"""Images that one answer shows: a page of a ranking."""
LAST = 1_000_000 - MOST_IMAGES
"""The last place of a ranking that an answer may begin behind."""
HASHES = r"^([0-9a-f]{64}(,[0-9a-f]{64})*)?$"
LONGEST_CONDITIONS = 4_000
"""Characters of all conditions."""
Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT)]
LONGEST_VECTOR = 1 << 15
"""Characters of a vector: 6,144 dimensions."""
LONGEST_CAPTIONS = 1 << 15
"""Characters of all captions that a turn carries on."""


class Choices(BaseModel):
    """The settings of a search that the page offers."""

    model_config = ConfigDict(extra="forbid")

    method: Annotated[str, StringConstraints(max_length=64)] | None = None
    alpha_pos: FiniteFloat | None = None
    alpha_neg: FiniteFloat | None = None
    top_k: int = Field(default=24, ge=1, le=MOST_IMAGES)
    """Images of one answer."""
    start: int = Field(default=0, ge=0, le=LAST)
    """Images of the ranking before them, which earlier answers hold."""
    where: Annotated[str, StringConstraints(max_length=LONGEST_CONDITIONS)] = ""
    """Conditions that images meet, a line each, as `seize query --where` takes them; see /fields"""
    group: bool = True
    """Whether near-duplicates are one result, with the others as its members."""


class Turn(BaseModel):
    """What a query begins with: an image, or what the turn before left."""

    state: Literal["image", "query", "caption"] = "image"
    vector: Annotated[str, StringConstraints(max_length=LONGEST_VECTOR)] = ""
    """The turn before's ``vector`` as its result has it, for the states ``query``, ``caption``."""
    carried_captions: Annotated[str, StringConstraints(max_length=LONGEST_CAPTIONS)] = ""
    """The turn before's edited captions, a line each, for the state ``caption``."""

    def left(self, method: str) -> Carried | None:
        """Return what the turn before left; None where the query begins with an image.

        Raises InputError where it has no vector, or ``method`` cannot begin with the state.
        """
        if self.state == "image":
            return None
        if self.state not in (possible := states(method)):
            raise InputError(
                f"A turn cannot begin with the state {self.state} by the method {method}: choose "
                f"{' or '.join(possible)}, or another method."
            )
        lines = (line.strip() for line in self.carried_captions.splitlines())
        return Carried(None, vector_of(self.vector), tuple(dict.fromkeys(filter(None, lines))))


class Question(Choices, Turn):
    """A query; its image is a file beside it, or ``reference``, an image of the gallery.

    Without an image the text alone is searched by, without a text the image alone. It may begin
    with what a turn before left instead, see ``state``; its references are then not retrieved.
    """

    relative_caption: Text = ""
    reference: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    further: Annotated[str, StringConstraints(pattern=HASHES, max_length=1_000)] = ""
    """Further reference images of the gallery, with commas between them."""
    unlike: Text = ""
    """A text of what is not wanted."""
    unlike_images: Annotated[str, StringConstraints(pattern=HASHES, max_length=1_000)] = ""
    """Images of the gallery that are not wanted, with commas between them."""

    @property
    def more(self) -> list[str]:
        """The further reference images."""
        return [one for one in self.further.split(",") if one]

    @property
    def references(self) -> list[str]:
        """Every reference image of the gallery or of an earlier query."""
        return [*([self.reference] if self.reference else ()), *self.more]

    @property
    def unwanted(self) -> Unwanted:
        """What is not wanted."""
        texts = (self.unlike.strip(),) if self.unlike.strip() else ()
        return Unwanted(texts, tuple(filter(None, self.unlike_images.split(","))))


class Texts(Question):
    """A ranking by texts that were made before, or edited by hand."""

    captions: list[Text] = Field(max_length=bodies.MOST_ITEMS)
    edited_captions: list[Text | None] = Field(max_length=bodies.MOST_ITEMS)


def text_of(vector: torch.Tensor) -> str:
    """Return a vector (d) as text: its float32 numbers, little-endian, in base64."""
    return base64.b64encode(vector.float().numpy().astype("<f4").tobytes()).decode()


def vector_of(text: str) -> torch.Tensor:
    """Return the vector (d) of such a text, of length 1; raises InputError for any other text."""
    try:
        numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (ValueError, binascii.Error):
        numbers = np.zeros(0, np.float32)
    length = float(np.linalg.norm(numbers.astype(np.float64)))
    if not np.isfinite(length) or not length:
        raise InputError("vector is none of a result: ask the turn before again.")
    return torch.from_numpy((numbers / length).astype(np.float32))


def states(method: str) -> list[str]:
    """Return the states that the page offers for a method."""
    return [state for state in turns.possible(method) if state != "given"]


def vector_in(result: Result) -> dict[str, Any]:
    """Return what a result has for the turn after it."""
    return {} if result.vector is None else {"vector": text_of(result.vector)}
