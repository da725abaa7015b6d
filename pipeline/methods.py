"""Retrieval methods: each is one function from a query's features to the ends of its score."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.config import Increment
from pipeline.errors import ConfigError, nearest
from pipeline.scoring import Ends, increment_ends, normalise


@dataclass(frozen=True)
class QueryFeatures:
    """Normalised float32 features (queries, d) of what is known about the queries."""

    content: Tensor
    """Mean of the captions."""
    composed: Tensor
    """Mean of the edited captions."""
    first_edit: Tensor
    """The first edited caption alone."""
    relative: Tensor
    """The relative caption."""
    reference: Tensor
    """The reference image."""


Method = Callable[[QueryFeatures, Increment], Ends]

METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register a method under the name that ``--method`` takes."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


def find(name: str) -> Method:
    """Return the method of that name; raises ConfigError with the nearest one."""
    try:
        return METHODS[name]
    except KeyError:
        raise ConfigError(f"There is no method {name!r}.{nearest(name, METHODS)}") from None


def _same(vectors: Tensor) -> Ends:
    return Ends(vectors, vectors)


@method("seize")
def seize(query: QueryFeatures, increment: Increment) -> Ends:
    """Absolute similarity plus semantic editing increment (SEIZE, section 3.3)."""
    return increment_ends(query.content, query.composed, increment.positive, increment.negative)


@method("mean-ensemble")
def mean_ensemble(query: QueryFeatures, increment: Increment) -> Ends:
    """Absolute similarity of the mean of all edited captions, without the increment."""
    return _same(query.composed)


@method("cirevl")
def cirevl(query: QueryFeatures, increment: Increment) -> Ends:
    """One caption and its edit only (CIReVL, ICLR 2024)."""
    return _same(query.first_edit)


@method("image")
def image(query: QueryFeatures, increment: Increment) -> Ends:
    """The reference image alone."""
    return _same(query.reference)


@method("text")
def text(query: QueryFeatures, increment: Increment) -> Ends:
    """The relative caption alone."""
    return _same(query.relative)


@method("image+text")
def image_and_text(query: QueryFeatures, increment: Increment) -> Ends:
    """The mean of reference image and relative caption."""
    return _same(normalise(query.reference + query.relative))
