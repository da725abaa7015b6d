"""Multi-turn FashionIQ (Yuan & Lam, SIGIR 2021): sessions of two to four turns of feedback.

Layout: ``data/all.SPLIT.json``, a list of ``{"target": [url, id], "reference": [[url, [text, text],
id], …]}`` in the order of time; ``image_splits/split.all.SPLIT.json``, the gallery; ``images/``,
with FashionIQ's files. What a turn asks for is the next turn's reference, the last one's the
target. Recall is of the last turns at 5, 8 and 10, as it is published; that by turn is this
project's. Published rows mask no reference: give ``--keep-reference`` beside them.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.datasets.multi_turn import MultiTurn
from pipeline.datasets.reading import Entry, existing_ending, parse_entry
from pipeline.errors import InputError
from pipeline.records import Query


class _Session(Entry):
    target: tuple[str, str]
    reference: list[tuple[str, list[str], str]] = Field(min_length=1)


class MtFashionIq(MultiTurn):
    """One split, of all three categories. Query ids are ``SESSION-TURN``."""

    name = "mtfashioniq"
    folder = "MT-FashionIQ"
    splits = ("val", "train")
    choices = ("caption_separator", "both_orders")
    cutoffs = (5, 8, 10)
    headline = "recall@5"

    def read(self) -> None:
        """Read sessions and the gallery; an image that only a session names is in no gallery."""
        file = f"data/all.{self.split}.json"
        content = self.read_annotations(file)
        if not isinstance(content, list):
            raise InputError(f"{self.root / file} must be a list of sessions.")
        self.queries = []
        for number, entry in enumerate(content):
            where = f"{self.root / file}, entry {number}"
            self.queries += _turns(str(number), parse_entry(_Session, entry, where))
        listing_file = f"image_splits/split.all.{self.split}.json"
        listing = self.read_listing(listing_file)
        if not isinstance(listing, list) or not all(isinstance(name, str) for name in listing):
            raise InputError(f"{self.root / listing_file} must be a list of image names.")
        gallery = list(dict.fromkeys(listing))
        named = dict.fromkeys([*gallery, *(query.reference for query in self.queries)])
        bare: dict[str, Path] = {n: self.inside(n, listing_file, "images") for n in named}
        ending = existing_ending(bare.values(), (".jpg", ".png", ".jpeg"))
        self.images = {name: path.with_name(path.name + ending) for name, path in bare.items()}
        self.galleries = {"all": gallery}
        self.gallery_name = f"mtfashioniq-{self.split}"

    def parse(self, entry: Any, where: str) -> Query:
        """Return a session's first turn, without an id; raises InputError."""
        return _turns("", parse_entry(_Session, entry, where))[0]


def _turns(session: str, found: _Session) -> list[Query]:
    asked = [name for _, _, name in found.reference[1:]] + [found.target[1]]
    return [
        Query(
            f"{session}-{turn}",
            name,
            tuple(texts),
            target=target,
            session=session,
            turn=turn,
        )
        for turn, ((_, texts, name), target) in enumerate(
            zip(found.reference, asked, strict=True), 1
        )
    ]
