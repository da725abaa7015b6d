"""Retrieval methods: each is one function from a query's features to the ends of its score."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
    edits: list[Tensor]
    """For each query, its edited captions one by one (edits, d)."""
    largest_drops: Callable[[int], list[Tensor]]
    """For k, the sums over each query's gallery of the k largest max(s_before − s_after, 0) of
    every caption and its edit: one float32 (edits) a query, in the order of ``edits``."""


@dataclass(frozen=True)
class Parameters:
    """What methods can be tuned by: α⁺ and α⁻ of SEIZE, k and τ of LDRE."""

    positive: float
    negative: float
    drops: int
    temperature: float


Method = Callable[[QueryFeatures, Parameters], Ends]

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
def seize(query: QueryFeatures, parameters: Parameters) -> Ends:
    """Absolute similarity plus semantic editing increment (SEIZE, section 3.3)."""
    return increment_ends(query.content, query.composed, parameters.positive, parameters.negative)


@method("mean-ensemble")
def mean_ensemble(query: QueryFeatures, parameters: Parameters) -> Ends:
    """Absolute similarity of the mean of all edited captions, without the increment."""
    return _same(query.composed)


@method("ldre")
def ldre(query: QueryFeatures, parameters: Parameters) -> Ends:
    """Edits weighted by how much they took away (LDRE, SIGIR 2024).

    For caption j, u_j is the sum of the k largest drops over the gallery; the weights are
    softmax((u / max u) / τ), normalised for each query as the paper says.
    """
    composed = []
    drops = query.largest_drops(parameters.drops)
    for fallback, edits, u in zip(query.composed, query.edits, drops, strict=True):
        if len(edits) == 0:
            composed.append(fallback)
            continue
        share = u / u.max().clamp(min=torch.finfo(u.dtype).tiny)
        composed.append(torch.softmax(share / parameters.temperature, dim=0) @ edits)
    return _same(torch.stack(composed))


@method("cirevl")
def cirevl(query: QueryFeatures, parameters: Parameters) -> Ends:
    """One caption and its edit only (CIReVL, ICLR 2024)."""
    return _same(query.first_edit)


@method("image")
def image(query: QueryFeatures, parameters: Parameters) -> Ends:
    """The reference image alone."""
    return _same(query.reference)


@method("text")
def text(query: QueryFeatures, parameters: Parameters) -> Ends:
    """The relative caption alone."""
    return _same(query.relative)


@method("image+text")
def image_and_text(query: QueryFeatures, parameters: Parameters) -> Ends:
    """The mean of reference image and relative caption."""
    return _same(normalise(query.reference + query.relative))
