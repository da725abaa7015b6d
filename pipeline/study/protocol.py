"""What a reader has to know beside a figure: five conditions that explain most differences.

One vocabulary for rankings made here, for files of others, and for published rows: whether the
reference image could be retrieved, whether CIRCO's shared concept was in the query, which of
FashionIQ's two galleries was searched, how many images that were, and what was trained. What is
not told is ``UNKNOWN``, what a benchmark does not have is ``NONE``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import Predictions
from pipeline.errors import ConfigError
from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval import methods
from pipeline.retrieval.clues import TRAINING, Training
from pipeline.run import Run

UNKNOWN = "unknown"
NONE = "n/a"
"""The benchmark has no such thing."""

COLUMNS = {
    "reference": "reference",
    "concept": "shared concept",
    "fashioniq_split": "FashionIQ split",
    "gallery_size": "gallery size",
    "training": "training",
}
"""Field of ``Conditions`` to what people read above its column, in order."""
TOLD = {"exclude_reference", "shared_concept", "gallery"}
"""Settings of ``Run.protocol`` that these columns tell in words."""

MOST_GALLERIES = 3
"""Sizes of so many galleries are listed; of more, the smallest and the largest are told."""


@dataclass(frozen=True)
class Conditions:
    """The five conditions of one row, in words."""

    reference: str = UNKNOWN
    """``masked``: never retrieved; ``kept``: it may be retrieved."""
    concept: str = UNKNOWN
    """``yes`` or ``no``: whether the shared concept was in the query."""
    fashioniq_split: str = UNKNOWN
    """``original``: the split's files; ``union``: of references and targets (VAL split)."""
    gallery_size: str = UNKNOWN
    """How many images a query is ranked among, ``123,403``."""
    training: str = UNKNOWN
    """One of ``TRAINING``."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a word that is none of a field's."""
        for field, known in WORDS.items():
            word = getattr(self, field)
            if word not in (*known, UNKNOWN):
                raise ConfigError(f"{field} is {word!r}: say {', '.join(known)} or {UNKNOWN}.")

    @property
    def cells(self) -> dict[str, str]:
        """The conditions by what people read above their columns."""
        return {heading: getattr(self, field) for field, heading in COLUMNS.items()}

    def as_json(self) -> dict[str, str]:
        """Return the conditions by field."""
        return asdict(self)


WORDS: Mapping[str, tuple[str, ...]] = {
    "reference": ("masked", "kept"),
    "concept": ("yes", "no", NONE),
    "fashioniq_split": ("original", "union", NONE),
    "training": TRAINING,
}
"""What each condition but the gallery's size may be."""


UNTOLD = Conditions()
"""Those of a row of which nothing is known."""


def of_run(run: Run) -> Conditions:
    """Return the conditions of the ranking by the run's method; raises ConfigError."""
    return told(run.dataset, run.protocol, run.config.search.method)


def of_header(dataset: Dataset, header: Mapping[str, Any]) -> Conditions:
    """Return the conditions of a ranking that its header describes; UNKNOWN for what it does not.

    ``header`` is that of a ranking of the search stage, or of the file beside a submission.
    """
    protocol, method = header.get("protocol"), header.get("method")
    known = protocol if isinstance(protocol, dict) else {}
    return told(dataset, known, method if isinstance(method, str) else None)


def told(dataset: Dataset, protocol: Mapping[str, Any], method: str | None) -> Conditions:
    """Return the conditions that settings (``Run.protocol``) and a method's name tell."""
    masked, gallery = protocol.get("exclude_reference"), protocol.get("gallery")
    with_split = len(dataset.gallery_choices) > 1
    searched = gallery == dataset.gallery if with_split else bool(protocol)
    return Conditions(
        "masked" if masked is True else "kept" if masked is False else UNKNOWN,
        _concept(dataset, protocol, method),
        _split(gallery) if with_split else NONE,
        gallery_size(dataset) if searched else UNKNOWN,
        UNKNOWN if method is None else _training(method),
    )


def _split(gallery: Any) -> str:
    return "original" if gallery == "split" else "union" if gallery == "union" else UNKNOWN


def seen(
    conditions: Conditions, dataset: Dataset, predictions: Mapping[str, Predictions]
) -> Conditions:
    """Return the conditions with what prediction lists themselves tell.

    A list that holds a reference of its query says that it was kept; none that does says nothing.
    """
    own = {query.id: set(query.references) for query in dataset.queries}
    lists = (pair for kind in predictions.values() for pair in kind.items())
    kept = any(not own.get(query, set()).isdisjoint(images) for query, images in lists)
    return replace(conditions, reference="kept") if kept else conditions


def gallery_size(dataset: Dataset) -> str:
    """Return how many images a query is ranked among, gallery by gallery where there are few."""
    searched = {query.gallery for query in dataset.queries}
    sizes = [len(images) for name, images in dataset.galleries.items() if name in searched]
    if len(set(sizes)) == 1:
        return f"{sizes[0]:,}"
    if len(sizes) <= MOST_GALLERIES:
        return " / ".join(f"{size:,}" for size in sizes)
    return f"{min(sizes):,} to {max(sizes):,}"


def most_trained(kinds: Iterable[Training]) -> Training:
    """Return what is to be said of a method with several parts: the most that one of them took."""
    return max(kinds, key=TRAINING.index, default=TRAINING[0])


def _training(method: str) -> str:
    try:
        return most_trained(clue.training for clue in methods.clues_of(method).values())
    except ConfigError:  # a method that is not installed here
        return UNKNOWN


def _concept(dataset: Dataset, protocol: Mapping[str, Any], method: str | None) -> str:
    """Return whether a query's texts held the shared concept: LLMs and joint embedders are told."""
    if "shared_concept" not in dataset.choices:
        return NONE
    given = protocol.get("shared_concept")
    if given is None or method is None:
        return UNKNOWN
    try:
        asked = methods.reads(method) & {"edits", *ROLES} or "joint" in methods.clues_of(method)
    except ConfigError:
        return UNKNOWN
    return "yes" if given and asked else "no"
