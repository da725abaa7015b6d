"""What a clue is, what it is made from, and how methods are handed the clues they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from pipeline.errors import ConfigError, nearest
from pipeline.retrieval.scoring import mean_feature
from pipeline.retrieval.sections import Kind, Section
from pipeline.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.config import Config
    from pipeline.models.encoders._open_clip import Clip

Training = Literal["training-free", "few-label", "trained"]
"""What was trained for composed retrieval: nothing; a few labelled triplets chose or tuned it; or
weights of its own were (φ, a composer, a joint embedder), on whatever data."""
TRAINING: tuple[Training, ...] = get_args(Training)
"""The least first."""

Texts = Sequence[Sequence[str | None]]
"""For each query its texts of one kind, in order; None stands for one that failed."""


class Source(Protocol):
    """Queries that clues are made for: those of a run, or the one of `seize query` and the page."""

    @property
    def count(self) -> int:
        """How many queries there are."""

    @property
    def normalise_texts(self) -> bool:
        """Whether normalised text embeddings are averaged instead of raw ones."""

    def texts(self, kind: str) -> Texts:
        """Return the queries' texts of a kind: ``captions``, ``edits`` (aligned with the captions,
        repeated as often as each was edited), ``relative_captions`` (joined where there are two),
        ``relative_parts`` (one by one), ``shared_concepts`` (CIRCO's, if they are told), or a
        role of ``prompts.ROLES``. Raises MissingStageError where a stage has to run first."""

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return raw text embeddings, float32 (texts, d); no text gives (0, d)."""

    def references(self) -> Tensor:
        """Return raw features of the reference images, float32 (queries, d): the mean where a
        query has several, zeros where none could be read."""

    def reference_lists(self) -> list[Tensor]:
        """Return each query's reference images' raw features (images, d), those that could be
        read."""

    def pictures(self) -> Iterator[tuple[list[list[tuple[int, int]]], Tensor]]:
        """Yield the reference images as the encoder prepares them, by the batch, each with where
        it belongs: a query's place, and its own in that query's list of ``reference_lists``.
        Those that cannot be read are left out."""

    def joint(self, asked: Sequence[tuple[int, str]], instruction: str) -> Tensor:
        """Return raw features, float32 (asked, d), each of a query's reference image, given by the
        query's place, with a text; of several images the mean. Where one cannot be read, its text
        stands alone."""

    def drops(self, differences: list[Tensor], k: int) -> list[Tensor]:
        """Return, for each query, the k largest positive inner products of every row of its
        ``differences`` (edits, d) with the images of its gallery, falling (edits, up to k)."""

    def computed(self, clue: Clue, make: Callable[[], Tensor]) -> Tensor:
        """Return a clue that only a model can make (queries, d), kept from an earlier stage."""

    @property
    def dataset(self) -> str:
        """The name by which settings differ: the benchmark's, or ``config.OWN_IMAGES``."""

    def settings(self, kind: type[Kind]) -> Kind:
        """Return a section of settings as it is for these queries."""

    def encoder(self) -> Clip:
        """Return the encoder, loaded now if it was not before."""

    def note(self, said: str) -> None:
        """Keep something that whoever looks at these queries should know."""


def nothing(run: Run) -> dict[str, Any]:
    """Return no header."""
    return {}


def unplanned(run: Run) -> dict[str, int]:
    """Return nothing to plan."""
    return {}


def anything(config: Config, dataset: str) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Clue:
    """Something known about every query, as vectors."""

    name: str
    make: Callable[[Clues], Any]
    """Returns float32 (queries, d), or a list with one tensor a query."""
    needs: tuple[str, ...] = ()
    """Other clues that it is made from."""
    reads: tuple[str, ...] = ()
    """Kinds of texts that it is made from: these are embedded, and what makes them has to run."""
    header: Callable[[Run], dict[str, Any]] = nothing
    """What else changes it; enters the fingerprint of a ranking whose method uses it."""
    by_model: bool = False
    """Whether a model has to make it: the embed stage does so and keeps it in a file."""
    settings: type[Section] | None = None
    """What its user chooses about it; ``header`` tells what of that changes it."""
    check: Callable[[Config, str], None] = anything
    """Raises what making it would end in, as far as configuration and dataset's name tell."""
    training: Training = "training-free"
    """What was trained to make it; told beside every figure of a method that uses it."""
    by_part: bool = False
    """Whether it is made of some queries at a time, so that a stopped run resumes."""
    joint: bool = False
    """Whether it asks the encoder for images with texts: that is tried before anything is made."""
    looks: bool = False
    """Whether it looks at the reference images, as joint ones do: no feature can stand for them."""
    plan: Callable[[Run], dict[str, int]] = unplanned
    """Returns how much making it is, by quantity, for ``seize plan``."""


CLUES: dict[str, Clue] = {}


def clue(
    name: str,
    needs: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
    header: Callable[[Run], dict[str, Any]] = nothing,
    by_model: bool = False,
    settings: type[Section] | None = None,
    check: Callable[[Config, str], None] = anything,
    training: Training = "training-free",
    by_part: bool = False,
    joint: bool = False,
    looks: bool = False,
    plan: Callable[[Run], dict[str, int]] = unplanned,
) -> Callable[[Callable[[Clues], Any]], Callable[[Clues], Any]]:
    """Register what makes a clue under its name; see ``Clue``."""

    def register(make: Callable[[Clues], Any]) -> Callable[[Clues], Any]:
        own = (by_model, settings, check, training, by_part, joint, looks or joint, plan)
        CLUES[name] = Clue(name, make, needs, reads, header, *own)
        return make

    return register


def find(name: str) -> Clue:
    """Return the clue of that name; raises ConfigError with the nearest one."""
    try:
        return CLUES[name]
    except KeyError:
        raise ConfigError(f"There is no clue {name!r}.{nearest(name, CLUES)}") from None


def closure(names: Iterable[str]) -> dict[str, Clue]:
    """Return the clues of these names and all that they are made from, those first."""
    found: dict[str, Clue] = {}
    for name in names:
        if name not in found:
            one = find(name)
            found |= closure(one.needs)
            found[name] = one
    return found


class Clues:
    """The clues of some queries, each made when it is first asked for and then kept.

    ``only`` names those that may be asked for: what a method did not declare is an error, so that
    a ranking's fingerprint cannot miss it.
    """

    def __init__(self, source: Source, only: Iterable[str] | None = None) -> None:
        self.source = source
        self._made: dict[str, Any] = {}
        self._drops: dict[int, list[Tensor]] = {}
        self._only = None if only is None else frozenset(only)

    def restricted(self, names: Iterable[str]) -> Clues:
        """Return the same clues, of which only those of these names may be asked for."""
        other = Clues(self.source, names)
        other._made, other._drops = self._made, self._drops
        return other

    def _get(self, name: str) -> Any:
        if self._only is not None and name not in self._only:
            raise ConfigError(f"The clue {name!r} is used but not declared in `needs`.")
        if name not in self._made:
            one = find(name)
            own = self.restricted(one.needs)
            if one.by_model:
                made = self.source.computed(one, lambda: one.make(own))
            else:
                made = one.make(own)
            self._made[name] = made
        return self._made[name]

    def vectors(self, name: str) -> Tensor:
        """Return a clue with one vector a query, float32 (queries, d)."""
        made: Tensor = self._get(name)
        return made

    def lists(self, name: str) -> list[Tensor]:
        """Return a clue with several vectors a query, a list of float32 (n, d)."""
        made: list[Tensor] = self._get(name)
        return made

    def largest_drops(self, k: int) -> list[Tensor]:
        """Return the k largest max(s_before − s_after, 0) over a query's gallery of every edit and
        the caption it was made from, falling: one (edits, up to k) a query; needs
        ``differences``."""
        if k > max(self._drops, default=0):
            self._drops[k] = self.source.drops(self.lists("differences"), k)
        return [rows[:, :k] for rows in self._drops[max(self._drops)]]

    def mean(self, embeddings: Tensor) -> Tensor:
        """Return the normalised mean (d) of text embeddings (texts, d), as the queries' settings
        have it."""
        return mean_feature(embeddings, self.source.normalise_texts)


def good(texts: Sequence[str | None]) -> list[str]:
    """Return the texts that did not fail."""
    return [text for text in texts if text is not None]
