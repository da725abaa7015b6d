"""Retrieval methods: each is one function from a query's features to the ends of its score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.config import VERIFIED
from pipeline.errors import ConfigError, nearest
from pipeline.prompts import ROLES
from pipeline.scoring import Ends, RankEnds, Score, increment_ends, mean_feature, normalise


@dataclass(frozen=True)
class QueryEmbeddings:
    """What is known about one query, as raw CLIP embeddings float32 of d dimensions."""

    captions: Tensor
    """The captions of the reference image (captions, d)."""
    edits: Tensor
    """The edited captions that the LLM delivered (edits, d)."""
    edited: Sequence[int]
    """For each edit, the row of the caption it was made from."""
    relative: Tensor
    """The relative caption (1, d), or its two orders (2, d)."""
    reference: Tensor
    """The reference image (d); zeros where it could not be read."""
    roles: Mapping[str, Tensor] = field(default_factory=dict)
    """The texts of each of ``prompts.ROLES`` (texts, d), where the LLM was asked for roles."""

    @classmethod
    def of(
        cls,
        embed: Callable[[Sequence[str]], Tensor],
        captions: Sequence[str],
        edits: Sequence[str | None],
        relative_captions: Sequence[str],
        reference: Tensor,
        roles: Mapping[str, Sequence[str]] | None = None,
    ) -> "QueryEmbeddings":
        """Embed a query's texts with ``embed``, texts to (texts, d).

        ``edits`` are aligned with ``captions``, repeated as often as each was edited; None failed.
        """
        good = [i for i, edit in enumerate(edits) if edit is not None]
        return cls(
            embed(captions),
            embed([edit for edit in edits if edit is not None]),
            [i % len(captions) for i in good],
            embed(relative_captions),
            reference,
            {role: embed(texts) for role, texts in (roles or {}).items()},
        )


@dataclass(frozen=True)
class QueryFeatures:
    """Normalised float32 features (queries, d) of what is known about the queries.

    Without captions the relative caption stands for the content feature, without edits for the
    composed feature.
    """

    content: Tensor
    """Mean of the captions."""
    composed: Tensor
    """Mean of the edited captions."""
    first_edit: Tensor
    """The edit of the first caption alone."""
    relative: Tensor
    """The relative caption."""
    reference: Tensor
    """The reference image."""
    edits: list[Tensor]
    """For each query, its edited captions one by one (edits, d)."""
    desired: Tensor
    """Mean of what the LLM said the target must have anew; zeros where it said nothing."""
    preserve: Tensor
    """Mean of what it said must stay; zeros likewise."""
    forbidden: Tensor
    """Mean of what it said must be gone; zeros likewise."""
    largest_drops: Callable[[int], list[Tensor]]
    """For k, the k largest max(s_before − s_after, 0) over a query's gallery of every edit and the
    caption it was made from, falling: one float32 (edits, up to k) a query."""


Drops = Callable[[list[Tensor], int], list[Tensor]]
"""Takes, a query, the vectors (edits, d) whose inner product with an image is an edit's drop, and
k; returns the k largest drops (edits, up to k) a query."""


def gather(
    queries: Sequence[QueryEmbeddings], drops: Drops, normalise_first: bool = False
) -> QueryFeatures:
    """Return the features of ``queries`` that methods work on.

    ``normalise_first`` averages normalised text embeddings instead of raw ones.
    """

    def mean(embeddings: Tensor) -> Tensor:
        return mean_feature(embeddings, normalise_first)

    def role(query: QueryEmbeddings, name: str) -> Tensor:
        texts = query.roles.get(name)
        return torch.zeros_like(query.reference) if texts is None or not len(texts) else mean(texts)

    def first(query: QueryEmbeddings) -> Tensor:
        rows = [i for i, caption in enumerate(query.edited) if caption == query.edited[0]]
        return query.edits[rows] if rows else query.relative

    found: dict[int, list[Tensor]] = {}  # the largest k so far holds those of every smaller one

    def largest_drops(k: int) -> list[Tensor]:
        if k > max(found, default=0):
            found[k] = drops(differences, k)
        return [rows[:, :k] for rows in found[max(found)]]

    edits = [normalise(query.edits) for query in queries]
    before = [normalise(query.captions)[list(query.edited)] for query in queries]
    differences = [b - a for b, a in zip(before, edits, strict=True)]
    return QueryFeatures(
        torch.stack([mean(q.captions if len(q.captions) else q.relative) for q in queries]),
        torch.stack([mean(q.edits if len(q.edits) else q.relative) for q in queries]),
        torch.stack([mean(first(q)) for q in queries]),
        torch.stack([mean(q.relative) for q in queries]),
        normalise(torch.stack([q.reference for q in queries])),
        edits,
        torch.stack([role(q, "desired") for q in queries]),
        torch.stack([role(q, "preserve") for q in queries]),
        torch.stack([role(q, "forbidden") for q in queries]),
        largest_drops,
    )


@dataclass(frozen=True)
class Parameters:
    """What methods can be tuned by."""

    positive: float
    """α⁺ of SEIZE."""
    negative: float
    """α⁻ of SEIZE."""
    rank_positive: float
    """α⁺ of the rank variant, a place."""
    rank_negative: float
    """α⁻ of the rank variant, a place."""
    drops: int
    """k of LDRE."""
    temperature: float
    """τ of LDRE."""
    anchor: float
    """Weight of the reference image in SDR-CIR's anchored query (its α), and in seize+image."""
    debias: float
    """How much SDR-CIR takes of what the edit says but the relative caption does not (its β)."""
    pdv_blend: float
    """Weight of the text side in PDV's query (its β)."""
    pdv_image: float
    """Steps that PDV takes from the reference image along the edit's direction (its α_I)."""
    pdv_text: float
    """Steps that PDV takes from the caption along the edit's direction (its α_T)."""
    desired: float
    """Weight of what must be there anew, in roles."""
    preserve: float
    """Weight of what must stay, in roles."""
    forbidden: float
    """Weight of what must be gone, in roles; it is subtracted."""


Method = Callable[[QueryFeatures, Parameters], Score]

METHODS: dict[str, Method] = {}

NEED_ROLES = {"roles", "seize+roles"}
"""Methods for edits whose prompt asks for roles."""

GRIDS: dict[str, dict[str, list[float]]] = {}
"""For each method that can be tuned, the values of ``Parameters`` that are tried by default."""


def method(name: str, **grid: list[float]) -> Callable[[Method], Method]:
    """Register a method under the name that ``--method`` takes; ``grid`` is what to tune."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        if grid:
            GRIDS[name] = grid
        return function

    return register


def _steps(start: float, stop: float, step: float) -> list[float]:
    return [round(start + i * step, 10) for i in range(round((stop - start) / step) + 1)]


def find(name: str) -> Method:
    """Return the method of that name; raises ConfigError with the nearest one."""
    if name == "all" or "," in name:
        raise ConfigError(f"--method {name}: only search and compare take several methods.")
    if name.endswith(VERIFIED):
        raise ConfigError(f"{name} is made by the verify stage, from the ranking by {base(name)}.")
    try:
        return METHODS[name]
    except KeyError:
        raise ConfigError(f"There is no method {name!r}.{nearest(name, METHODS)}") from None


def selection(names: str, with_roles: bool) -> list[str]:
    """Return the methods of a comma-separated list, or every one for ``all``.

    Those that need roles count only ``with_roles``. Names may end in ``+verify``; raises
    ConfigError for unknown ones.
    """
    every = [name for name in METHODS if with_roles or name not in NEED_ROLES]
    chosen = every if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        find(base(name))
        if base(name) in NEED_ROLES and not with_roles:
            raise ConfigError(
                f"The method {name} needs edits with roles: edit with --prompt roles, or another "
                "prompt that has `answer: roles`."
            )
    return list(dict.fromkeys(chosen))


def check_one(name: str) -> None:
    """Raise ConfigError unless ``name`` is one method that works without roles."""
    find(name)
    selection(name, with_roles=False)


def base(name: str) -> str:
    """Return a method's name without the mark of the verify stage."""
    return name.removesuffix(VERIFIED)


def verified(name: str) -> str:
    """Return a method's name with the mark of the verify stage."""
    return base(name) + VERIFIED


def _same(vectors: Tensor) -> Ends:
    return Ends(vectors, vectors)


@method("seize", positive=_steps(0, 1, 0.1), negative=_steps(0, 3, 0.25))
def seize(query: QueryFeatures, parameters: Parameters) -> Score:
    """Absolute similarity plus semantic editing increment (SEIZE, section 3.3)."""
    return increment_ends(query.content, query.composed, parameters.positive, parameters.negative)


@method(
    "seize-rank",
    rank_positive=[0, 1e-7, 5e-7, 1e-6, 5e-6, 1e-5, 1e-4],
    rank_negative=[0, 1e-7, 5e-7, 1e-6, 5e-6, 1e-5, 1e-4],
)
def seize_rank(query: QueryFeatures, parameters: Parameters) -> Score:
    """Absolute similarity plus an increment in places risen, not in similarity gained (SEIZE)."""
    weights = parameters.rank_positive, parameters.rank_negative
    return RankEnds(query.content, query.composed, *weights)


@method("mean-ensemble")
def mean_ensemble(query: QueryFeatures, parameters: Parameters) -> Score:
    """Absolute similarity of the mean of all edited captions, without the increment."""
    return _same(query.composed)


@method("ldre", drops=[1, 2, 5, 10, 20, 50], temperature=[0.01, 0.02, 0.04, 0.1, 0.3, 1, 3])
def ldre(query: QueryFeatures, parameters: Parameters) -> Score:
    """Edits weighted by how much they took away (LDRE, SIGIR 2024).

    For caption j, u_j is the sum of the k largest drops over the gallery; the weights are
    softmax((u / max u) / τ), normalised for each query as the paper says.
    """
    composed = []
    drops = [rows.sum(dim=1) for rows in query.largest_drops(parameters.drops)]
    for fallback, edits, u in zip(query.composed, query.edits, drops, strict=True):
        if len(edits) == 0:
            composed.append(fallback)
            continue
        share = u / u.max().clamp(min=torch.finfo(u.dtype).tiny)
        composed.append(torch.softmax(share / parameters.temperature, dim=0) @ edits)
    return _same(torch.stack(composed))


@method("cirevl")
def cirevl(query: QueryFeatures, parameters: Parameters) -> Score:
    """One caption and its edit only (CIReVL, ICLR 2024)."""
    return _same(query.first_edit)


@method("image")
def image(query: QueryFeatures, parameters: Parameters) -> Score:
    """The reference image alone."""
    return _same(query.reference)


@method("text")
def text(query: QueryFeatures, parameters: Parameters) -> Score:
    """The relative caption alone."""
    return _same(query.relative)


@method("image+text")
def image_and_text(query: QueryFeatures, parameters: Parameters) -> Score:
    """The mean of reference image and relative caption."""
    return _same(normalise(query.reference + query.relative))


def _pdv_query(query: QueryFeatures, parameters: Parameters) -> Tensor:
    direction = query.composed - query.content
    image = query.reference + parameters.pdv_image * direction
    text = query.content + parameters.pdv_text * direction
    blend = parameters.pdv_blend
    return normalise((1 - blend) * image + blend * text)


def _anchored(query: QueryFeatures, parameters: Parameters) -> Tensor:
    return (1 - parameters.anchor) * query.composed + parameters.anchor * query.reference


def _sdr_query(query: QueryFeatures, parameters: Parameters) -> Tensor:
    surplus = query.composed - query.relative
    anchored = _anchored(query, parameters)
    return (1 + parameters.debias) * anchored - parameters.debias * surplus


PDV_GRID: dict[str, list[float]] = {
    "pdv_blend": [0, 0.1, 0.2, 0.3, 0.4, 0.55, 0.75, 1],
    "pdv_image": [0.6, 1, 1.4, 2],
    "pdv_text": [1, 1.4],
}
SDR_GRID: dict[str, list[float]] = {
    "anchor": [0, 0.05, 0.1, 0.15, 0.2, 0.3],
    "debias": [0, 0.2, 0.35, 0.5, 0.75],
}
INCREMENT_GRID: dict[str, list[float]] = {"positive": [0, 0.13], "negative": [0, 0.25, 1, 2]}


@method("pdv", **PDV_GRID)
def pdv(query: QueryFeatures, parameters: Parameters) -> Score:
    """Reference image and caption, both moved along the edit's direction a − b, fused.

    PDV-F (Tursun et al., WACV 2026, arXiv 2502.07215).
    """
    return _same(_pdv_query(query, parameters))


@method("sdr", **SDR_GRID)
def sdr(query: QueryFeatures, parameters: Parameters) -> Score:
    """The composed feature anchored in the reference image, less what the edit adds to the
    relative caption: (1 + β)·q·x − β(a·x − m·x), q = (1 − α)a + α·r (SDR-CIR, arXiv 2602.04451).
    """
    return _same(_sdr_query(query, parameters))


def _incremented(query: QueryFeatures, parameters: Parameters, linear: Tensor) -> Score:
    weights = parameters.positive, parameters.negative
    return increment_ends(query.content, query.composed, *weights, query=linear)


@method("seize+image", anchor=[0, 0.05, 0.1, 0.15, 0.2, 0.3], **INCREMENT_GRID)
def seize_image(query: QueryFeatures, parameters: Parameters) -> Score:
    """SEIZE's increment on a composed feature anchored in the reference image."""
    return _incremented(query, parameters, _anchored(query, parameters))


@method("seize+sdr", anchor=[0, 0.05, 0.15, 0.2], debias=[0, 0.2, 0.35, 0.5], **INCREMENT_GRID)
def seize_sdr(query: QueryFeatures, parameters: Parameters) -> Score:
    """SEIZE's increment on SDR-CIR's query."""
    return _incremented(query, parameters, _sdr_query(query, parameters))


@method("seize+pdv", pdv_blend=[0.1, 0.2, 0.3, 0.4, 0.55, 0.75], **INCREMENT_GRID)
def seize_pdv(query: QueryFeatures, parameters: Parameters) -> Score:
    """SEIZE's increment on PDV's query."""
    return _incremented(query, parameters, _pdv_query(query, parameters))


ROLES_GRID: dict[str, list[float]] = {
    "desired": [0, 0.1, 0.2, 0.4, 0.8],
    "preserve": [0, 0.1, 0.2, 0.4, 0.8],
    "forbidden": [0, 0.1, 0.2, 0.4, 0.8],
}


def _roles_query(query: QueryFeatures, parameters: Parameters) -> Tensor:
    wanted = parameters.desired * query.desired + parameters.preserve * query.preserve
    return query.composed + wanted - parameters.forbidden * query.forbidden


@method("roles", **ROLES_GRID)
def roles(query: QueryFeatures, parameters: Parameters) -> Score:
    """The composed feature, with what is desired and preserved added and what is forbidden
    subtracted (after MulVec, arXiv 2608.25305, whose weights and patch vectors are others).
    """
    return _same(_roles_query(query, parameters))


@method("seize+roles", **{n: [0, 0.2, 0.4] for n in ROLES}, **INCREMENT_GRID)
def seize_roles(query: QueryFeatures, parameters: Parameters) -> Score:
    """SEIZE's increment on the query of roles."""
    return _incremented(query, parameters, _roles_query(query, parameters))
