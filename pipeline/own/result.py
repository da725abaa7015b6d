"""What a query of one's own images found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.config import SearchConfig
from pipeline.errors import InputError
from pipeline.own import dialogue
from pipeline.own.unwanted import NOTHING, Unwanted
from pipeline.retrieval import turns
from pipeline.retrieval.methods.increment import Increment, RankIncrement

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from pipeline.own.filters import Matching
    from pipeline.own.gallery import Gallery


@dataclass(frozen=True)
class Retrieved:
    """One image of a ranking."""

    path: str
    """Below the gallery's folder, with forward slashes; the first of several equal files."""
    hash: str
    """SHA-256 of the file's bytes."""
    score: float
    """What the method ranks by."""
    similarity: float
    """Absolute similarity: cosine of composed feature and image."""
    increment: float
    """Semantic editing increment: what the edit added to the similarity."""
    copies: tuple[str, ...] = ()
    """Other files with the same bytes."""
    members: "tuple[Retrieved, ...]" = ()
    """Near-duplicates that were found behind it and are not shown alone, best first."""


@dataclass(frozen=True, repr=False)
class Result:
    """The images found for one query, and the texts that led there.

    >>> import seize
    >>> gallery = seize.load("photos", config="demo")
    >>> report = gallery.index()
    >>> result = gallery.query("dog.jpg", "has a dark background")
    >>> table = result.frame()
    >>> table.columns.tolist()
    ['path', 'score', 'similarity', 'increment']
    >>> table["path"].tolist() == result.paths
    True
    """

    reference: str
    """SHA-256 of the reference image's bytes; empty where the query is a text alone."""
    relative_caption: str
    """Empty where the query is an image alone."""
    captions: tuple[str, ...]
    edited_captions: tuple[str | None, ...]
    """Aligned with ``captions`` (repeated where each is edited several times); None failed."""
    images: tuple[Retrieved, ...]
    """Best first."""
    settings: SearchConfig
    notes: tuple[str, ...]
    """What was missing, in words."""
    gallery: "Gallery" = field(repr=False, compare=False)
    contents: tuple[bytes, ...] = field(default=(), repr=False, compare=False)
    """The reference images' files, where the result comes from a query with them."""
    further: tuple[str, ...] = ()
    """SHA-256 of the reference images behind the first."""
    unwanted: Unwanted = NOTHING
    vector: "Tensor | None" = field(default=None, repr=False, compare=False)
    """The query (d) that the gallery was ranked by, before any increment."""
    asked: SearchConfig | None = field(default=None, repr=False, compare=False)
    """The settings that were asked for, where image or text was missing and another method ranks;
    the next turn, which has both, goes by them."""
    matching: "Matching | None" = field(default=None, repr=False, compare=False)
    """The images that met the conditions, where there were any."""

    def __repr__(self) -> str:
        best = f", the best {self.paths[0]!r}" if self.images else ""
        return f"<Result {self.relative_caption!r}: {len(self.images)} images{best}>"

    def _repr_html_(self) -> str:
        """Return the ranking as a notebook shows it: pictures with score and path."""
        from pipeline.own.notebook import html_of

        return html_of(self)

    @property
    def references(self) -> tuple[str, ...]:
        """SHA-256 of every reference image's bytes."""
        return (self.reference, *self.further) if self.reference else ()

    @property
    def candidates(self) -> dict[str, Any]:
        """The conditions, how many images meet them, and how many there are."""
        total = len(self.gallery)
        if self.matching is None:
            return {"where": [], "matching": total, "total": total}
        asked = [str(condition) for condition in self.matching.conditions]
        return {"where": asked, "matching": len(self.matching.paths), "total": total}

    @property
    def paths(self) -> list[str]:
        """The images' paths below the gallery's folder, best first."""
        return [image.path for image in self.images]

    def frame(self) -> "pd.DataFrame":
        """Return the images as a table by rank (from 1): path, score, similarity, increment."""
        import pandas as pd

        lines = [(i.path, i.score, i.similarity, i.increment) for i in self.images]
        ranks = pd.RangeIndex(1, len(lines) + 1, name="rank")
        columns = ["path", "score", "similarity", "increment"]
        return pd.DataFrame(lines, index=ranks, columns=columns)

    @property
    def increment(self) -> Increment | RankIncrement | None:
        """α⁺ and α⁻ in use: of similarity, or of places for the rank variant; None without one."""
        return self.gallery.increment

    def rerank(
        self,
        *,
        method: str | None = None,
        alpha_pos: float | None = None,
        alpha_neg: float | None = None,
        top_k: int | None = None,
        keep_reference: bool | None = None,
        captions: Sequence[str] | None = None,
        edited_captions: Sequence[str | None] | None = None,
    ) -> "Result":
        """Rank again with what is changed here; only CLIP is called, for texts that are new.

        Raises ConfigError for settings that cannot be used.
        """
        gallery = self.gallery.with_search(
            self.settings, method, alpha_pos, alpha_neg, top_k, keep_reference
        )
        ranked = gallery.rank(
            self.references,
            self.relative_caption,
            self.captions if captions is None else captions,
            self.edited_captions if edited_captions is None else edited_captions,
            unwanted=self.unwanted,
        )
        asked = ranked.asked
        if method is None and self.asked is not None:
            other = gallery.with_search(self.asked, top_k=top_k, keep_reference=keep_reference)
            asked = other.config.search
        return replace(ranked, contents=self.contents, asked=asked)

    def turn(self, relative_caption: str, state: turns.State = "image", place: int = 0) -> "Result":
        """Return the next turn of a dialogue: what should differ from where this one ended.

        ``state`` says what is carried on: the image retrieved at ``place`` (0 is the best), the
        query's vector, or the edited captions; a text that was searched by alone is its own. Raises
        ConfigError for a state that the method cannot begin with, InputError for a place where
        there is no image.

        >>> gallery.query("dog.jpg", "on a beach").turn("with a ball", "caption")
        <Result 'with a ball': 50 images, the best '...'>
        """
        gallery = self.gallery.with_search(self.asked or self.settings)
        turns.check(gallery.config.search.method, state)
        if state in ("given", "image"):
            if not 0 <= place < len(self.images):
                raise InputError(f"There is no image at place {place} of {len(self.images)}.")
            found = self.images[place]
            return gallery.search([gallery.content(found.hash)], relative_caption, [found.path])
        assert self.vector is not None
        edits = self.edited_captions if self.reference else (self.relative_caption,)
        left = turns.carried(self.paths, self.vector, edits, None)
        return dialogue.go_on(gallery, self.references, relative_caption, left, state)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the gallery as JSON-able data."""
        return {
            "gallery": str(self.gallery.folder.root),
            "reference": self.reference,
            **({"further": list(self.further)} if self.further else {}),
            "relative_caption": self.relative_caption,
            **({"unlike": asdict(self.unwanted)} if self.unwanted != NOTHING else {}),
            "method": self.settings.method,
            "captions": list(self.captions),
            "edited_captions": list(self.edited_captions),
            "notes": list(self.notes),
            **self.candidates,
            "images": [asdict(image) for image in self.images],
        }


def shown(result: Result) -> dict[str, Any]:
    """Return everything that the command line prints of a result, as JSON-able data."""
    alpha = result.increment
    return {
        "result": result.as_json(),
        "told": "" if result.matching is None else result.matching.told,
        "weights": None if alpha is None else [alpha.positive, alpha.negative],
    }
