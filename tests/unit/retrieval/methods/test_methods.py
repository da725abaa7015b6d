"""Every method against a slow float64 NumPy version written from the papers, on random features.

The reference starts from raw embeddings and shares no code with the pipeline. Rankings are compared
ties aside: the image at each place must have the score that the reference has at that place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval import methods, ranking
from pipeline.retrieval.clues import Clue, Clues, Texts
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, RankEnds, Score

Array = NDArray[np.float64]

OF_FEATURES = [
    name
    for name in methods.names()
    if methods.find(name).lists is None
    and not any(clue.by_model or clue.settings for clue in methods.clues_of(name).values())
]
"""Methods that score by features alone: no model, trained head or LLM's plan takes part."""


@dataclass(frozen=True)
class Parameters:
    """Every weight of every method."""

    positive: float = 0
    negative: float = 0
    rank_positive: float = 0
    rank_negative: float = 0
    drops: int = 5
    temperature: float = 0.04
    anchor: float = 0
    debias: float = 0
    pdv_blend: float = 0
    pdv_image: float = 0
    pdv_text: float = 0
    desired: float = 0
    preserve: float = 0
    forbidden: float = 0

    def of(self, section: str, field: str) -> float:
        """The weight that a section's field stands for."""
        prefixes = {"rank_increment": "rank_", "pdv": "pdv_"}
        value: float = getattr(self, prefixes.get(section, "") + field)
        return value


@dataclass
class Case:
    """Queries as (captions, edits or None, relative caption, reference image, roles' texts)."""

    queries: list[tuple[Array, list[Array | None], Array, Array, dict[str, Array]]]
    gallery: Array
    parameters: Parameters


class ArrayGallery:
    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        return self.array[start:stop]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.array[rows]


def unit(vector: Array) -> Array:
    """The direction of a vector; zero for a zero one. A vector whose parts cancelled has only
    rounding's direction, which no tolerance can judge: such cases are drawn anew."""
    length = np.linalg.norm(vector)
    assume(length == 0 or length > 0.05)
    return vector / length if length > 0 else vector


def mean(rows: list[Array]) -> Array:
    return unit(np.sum(rows, axis=0) / len(rows))


def places(scores: Array) -> Array:
    """Place of every image in a ranking, equal scores in gallery order."""
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return np.array([ranked.index(i) for i in range(len(scores))])


def reference_scores(name: str, case: Case, query: int) -> Array:
    captions, edits, relative, image, said = case.queries[query]
    p = case.parameters
    x = np.array([unit(row) for row in case.gallery])
    done = [(c, e) for c, e in zip(captions, edits, strict=True) if e is not None]
    edited = [e for _, e in done]
    a = mean(edited) if edited else unit(relative)
    b = mean(list(captions)) if len(captions) else unit(relative)
    after, before = x @ a, x @ b
    r, m = unit(image), unit(relative)
    change = after - before
    released = p.positive * np.maximum(change, 0) + p.negative * np.minimum(change, 0)
    mixed = (1 - p.pdv_blend) * (r + p.pdv_image * (a - b))
    mixed = mixed + p.pdv_blend * (b + p.pdv_text * (a - b))
    pdv = unit(mixed) if "pdv" in name else mixed
    anchored = (1 - p.anchor) * after + p.anchor * (x @ r)
    texts = {role: mean(list(rows)) if len(rows) else 0 * a for role, rows in said.items()}
    roles = after + p.desired * (x @ texts["desired"]) + p.preserve * (x @ texts["preserve"])
    roles = roles - p.forbidden * (x @ texts["forbidden"])
    sdr = (1 + p.debias) * anchored - p.debias * (after - x @ m)
    known = {
        "seize": after + released,
        "pdv": x @ pdv,
        "sdr": sdr,
        "seize+image": anchored + released,
        "seize+sdr": sdr + released,
        "seize+pdv": x @ pdv + released,
        "mean-ensemble": after,
        "roles": roles,
        "seize+roles": roles + released,
    }
    if name in known:
        return known[name]
    if name == "seize-rank":
        rises = places(before) - places(after)
        return np.array(
            [
                s + (p.rank_positive if d > 0 else p.rank_negative) * d
                for s, d in zip(after, rises, strict=True)
            ]
        )
    if name == "ldre" and not edited:
        return after
    if name == "ldre":
        u = []
        for c, e in done:
            drops = sorted(np.maximum(x @ unit(c) - x @ unit(e), 0), reverse=True)
            u.append(sum(drops[: p.drops]))
        top = max(u) if max(u) > 0 else 1.0
        powers = [np.exp(value / top / p.temperature) for value in u]
        weights = [power / sum(powers) for power in powers]
        return x @ np.sum([w * unit(e) for w, e in zip(weights, edited, strict=True)], axis=0)
    if name == "cirevl":
        return x @ (unit(edited[0]) if edited else unit(relative))
    if name == "image":
        return x @ unit(image)
    if name == "text":
        return x @ unit(relative)
    if name == "image+text":
        return x @ unit(unit(image) + unit(relative))
    if name == "sum":
        return x @ unit(image + relative)
    raise AssertionError(f"write the reference of {name} here")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.integers(2, 12))
    images = draw(st.integers(1, 40))
    gallery = rng.normal(size=(images, width))
    if draw(st.booleans()):
        gallery[rng.integers(images)] = 0
    if draw(st.booleans()):
        gallery[rng.integers(images)] = gallery[rng.integers(images)]
    queries = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 5))  # n = 1 and no captions at all among them
        captions = rng.normal(size=(count, width))
        edits: list[Array | None] = [rng.normal(size=width) for _ in range(count)]
        for i in range(count):
            kind = draw(st.sampled_from(["edit", "edit", "missing", "zero", "same"]))
            if kind == "missing":
                edits[i] = None
            elif kind == "zero":
                edits[i] = np.zeros(width)
            elif kind == "same":
                captions[i], edits[i] = captions[0], captions[0].copy()
        image = np.zeros(width) if draw(st.booleans()) else rng.normal(size=width)
        roles = {role: rng.normal(size=(draw(st.integers(0, 2)), width)) for role in ROLES}
        queries.append((captions, edits, rng.normal(size=width), image, roles))
    weight = st.floats(-3, 3, allow_nan=False)
    place_weight = st.floats(-1e-6, 1e-6, allow_nan=False)
    parameters = Parameters(
        draw(weight),
        draw(weight),
        draw(place_weight),
        draw(place_weight),
        draw(st.integers(1, 8)),
        draw(st.floats(0.02, 2.0)),
        *(draw(st.sampled_from([0.0, 0.15, 0.35, 0.75, 1.0, 1.4])) for _ in range(8)),
    )
    return Case(queries, gallery, parameters)


class Vectors:
    """Queries whose texts are names of given embeddings; see ``retrieval.clues.Source``."""

    normalise_texts = False

    def __init__(self, case: Case) -> None:
        self.gallery = ArrayGallery(case.gallery.astype(np.float32))
        self.width = case.gallery.shape[1]
        self.count = len(case.queries)
        self.known: dict[str, Array] = {}
        self.said: dict[str, list[list[str | None]]] = {}
        for captions, edits, relative, image, roles in case.queries:
            self._say("captions", list(captions))
            self._say("edits", edits)
            self._say("relative_captions", [relative])
            self._say("images", [image])
            for role in ROLES:
                self._say(role, list(roles.get(role, ())))

    def _say(self, kind: str, vectors: Sequence[Array | None]) -> None:
        names: list[str | None] = []
        for vector in vectors:
            name = None if vector is None else f"text {len(self.known)}"
            if name is not None and vector is not None:
                self.known[name] = vector
            names.append(name)
        self.said.setdefault(kind, []).append(names)

    def texts(self, kind: str) -> Texts:
        return self.said[kind]

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        rows = np.array([self.known[text] for text in texts]).reshape(len(texts), self.width)
        return torch.from_numpy(rows).float()

    def references(self) -> torch.Tensor:
        return torch.cat(
            [self.embed([str(name) for name in names]) for names in self.said["images"]]
        )

    def drops(self, differences: list[torch.Tensor], k: int) -> list[torch.Tensor]:
        return [
            top_images(Ends(rows, rows), self.gallery, k)[0].clamp(min=0) for rows in differences
        ]

    def computed(self, clue: Clue, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        return make()


def scored(name: str, case: Case) -> Score:
    """What a method makes of a case, at its parameters."""
    method = methods.find(name)
    weights = tuple(
        kind(**{field: case.parameters.of(kind.name, field) for field in kind.model_fields})
        for kind in method.sections
    )
    return methods.scored(method, Clues(Vectors(case)), weights)


def total_weight(name: str, parameters: Parameters) -> float:
    """How much a float32 error of a similarity can grow in a score."""
    if name.startswith(("seize", "sdr", "roles")):
        largest = max(abs(parameters.positive), abs(parameters.negative))
        return 8 + 2 * largest
    if name == "ldre":
        return 1 + 1 / parameters.temperature
    return 1


@pytest.mark.parametrize("name", OF_FEATURES)
@given(case=cases(), k=st.integers(1, 50), block=st.integers(1, 50))
@settings(deadline=None, max_examples=150)
def test_ranking_is_the_references(name: str, case: Case, k: int, block: int) -> None:
    gallery = ArrayGallery(case.gallery.astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", block)
        patch.setattr(ranking, "MERGED", 3)
        patch.setattr(ranking, "QUERIES", 2)
        patch.setattr(ranking, "WHOLE", 8 * len(case.gallery) * 2)  # two queries at a time
        score = scored(name, case)
        values, rows = top_images(score, gallery, k)
    assert rows.shape == (len(case.queries), min(k, len(case.gallery)))
    tolerance = 2e-5 * total_weight(name, case.parameters)
    if name == "seize-rank":  # float32 ties may swap places, each worth up to 1e-6
        tolerance += 1e-6 * 2 * len(case.gallery)
    for query in range(len(case.queries)):
        expected = reference_scores(name, case, query)
        best = np.sort(expected)[::-1][: rows.shape[1]]
        assert len(set(rows[query].tolist())) == rows.shape[1]
        np.testing.assert_allclose(values[query].numpy(), best, atol=tolerance)
        np.testing.assert_allclose(expected[rows[query].numpy()], best, atol=tolerance)


def test_rank_variant_moves_images_by_the_places_they_rise() -> None:
    gallery = ArrayGallery(np.eye(3, dtype=np.float32))
    content = np.array([[0.9, 0.3, 0.1]])  # ranks 0, 1, 2
    composed = np.array([0.1, 0.3, 0.9])  # ranks 2, 1, 0
    query = (content, [composed], content[0], content[0], dict[str, Array]())
    parameters = Parameters(rank_positive=0.5, rank_negative=0.25)
    score = scored("seize-rank", Case([query], np.eye(3), parameters))
    values, rows = top_images(score, gallery, 3)
    length = float(np.linalg.norm([0.1, 0.3, 0.9]))
    assert rows.tolist() == [[2, 1, 0]]
    expected = [0.9 / length + 0.5 * 2, 0.3 / length, 0.1 / length - 0.25 * 2]
    np.testing.assert_allclose(values[0].numpy(), expected, atol=1e-6)


def test_ldre_weighs_most_the_edit_that_took_most_away() -> None:
    gallery = ArrayGallery(np.eye(3, dtype=np.float32))
    captions = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    edits: list[Array | None] = [captions[0], np.array([0.0, 0.0, 1.0])]  # one changed nothing
    query = (captions, edits, captions[0], captions[0], dict[str, Array]())
    score = scored("ldre", Case([query], np.eye(3), Parameters()))
    _, rows = top_images(score, gallery, 1)
    assert rows.item() == 2


def test_excluded_rows_are_never_retrieved_by_either_kind_of_score() -> None:
    gallery = ArrayGallery(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    vectors = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    excluded = torch.tensor([[3, 4], [-1, 8]])
    rank_score = RankEnds(vectors, vectors.flip(0), 1e-6, 1e-6)
    for score in (Ends(vectors, vectors), rank_score):
        values, rows = top_images(score, gallery, 9, excluded=excluded)
        assert set(rows[0, :7].tolist()) == set(range(9)) - {3, 4}
        assert set(rows[1, :8].tolist()) == set(range(8))
        assert values[0, 7:].tolist() == [float("-inf")] * 2


@given(
    vectors=st.integers(1, 100_000),
    width=st.integers(1, 4_096),
    free=st.integers(1 << 20, 1 << 36),
    most=st.integers(1, 1 << 20),
)
def test_a_block_and_its_scores_fit_into_what_is_free(
    vectors: int, width: int, free: int, most: int
) -> None:
    size = ranking.block_size(vectors, width, free, most)
    assert 1 <= size <= most
    # A feature in two or four bytes, as float32 and normalised; a bound, its comparison, and where
    # every image exceeds it, two numbers and a score, on the device and on the CPU.
    per_image = (4 + 4 + 4) * width + (4 + 1 + 2 * (8 + 8 + 4)) * vectors
    assert size == 1 or size * per_image <= free
    assert size == most or (size + 1) * 1.1 * per_image > free


def test_many_queries_take_several_passes_that_count_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "QUERIES", 3)
    rng = np.random.default_rng(0)
    gallery = ArrayGallery(rng.normal(size=(5_000, 4)).astype(np.float32))
    vectors = torch.from_numpy(rng.normal(size=(8, 4)).astype(np.float32))
    told: list[int] = []
    ends = Ends(vectors, vectors)
    _, rows = top_images(ends, gallery, 1, advance=told.append)
    assert sum(told) == 5_000
    unit_rows = gallery.array / np.linalg.norm(gallery.array, axis=1, keepdims=True)
    assert rows[:, 0].tolist() == (vectors.numpy() @ unit_rows.T).argmax(axis=1).tolist()


def test_blocks_grow_to_the_largest_and_cover_the_gallery_once() -> None:
    gallery = ArrayGallery(np.ones((30_000, 2), dtype=np.float32))
    read: list[int] = []
    rows = [r for r, _ in ranking.blocks(gallery, None, "cpu", read.append)]
    assert torch.equal(torch.cat(rows), torch.arange(30_000))
    assert read[:3] == [ranking.FIRST, ranking.FIRST, 2 * ranking.FIRST]
    assert max(read) == ranking.BLOCK
