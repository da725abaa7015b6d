"""Rankings by way of a quick product are exact and the same by each, whatever the features."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.retrieval import bounded, products, ranking, trials
from pipeline.retrieval.scoring import Ends, increment_ends, normalise

WIDTH, IMAGES, COUNT = 48, 700, 40
KINDS = ("random", "near ties", "duplicates", "few directions", "rising", "opposite", "coarse")
HERE = [kind for kind in products.PRODUCTS if trials.holds(kind, WIDTH)]

Found = tuple[Tensor, Tensor]


class Stored:
    """Gallery features, read in slices."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features
        self.shape = features.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.features[start:stop]

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.features[rows]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let small searches take the way by quick products, in small blocks."""
    monkeypatch.setattr(bounded, "MULTIPLY_ADDS", 0)
    monkeypatch.setattr(bounded, "QUERIES", 1)
    for module in (bounded, ranking):
        monkeypatch.setattr(module, "FIRST", 64)
        monkeypatch.setattr(module, "BLOCK", 192)
    return monkeypatch


def by(
    patch: pytest.MonkeyPatch, kinds: tuple[type[products.Product], ...], *arguments: object
) -> Found:
    """Search by certain products."""
    patch.setattr(trials, "ranked", lambda width: kinds)
    return ranking.top_images(*arguments)


def drawn(rng: np.random.Generator, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a gallery and vectors that lie near some of its images; some of either are zero."""
    gallery = rng.normal(size=(IMAGES, WIDTH))
    if kind == "near ties":
        gallery = rng.normal(size=(1, WIDTH)) + gallery * 10.0 ** rng.uniform(-7, -1)
    elif kind == "duplicates":
        gallery = gallery[rng.integers(0, 25, IMAGES)]
    elif kind == "few directions":
        gallery = np.eye(WIDTH)[rng.integers(0, 4, IMAGES)]
    elif kind == "coarse":  # the last place of bfloat16 is what tells images apart
        gallery = 1 + rng.integers(-2, 3, (IMAGES, WIDTH)) * 2.0**-9
    gallery[rng.integers(0, IMAGES, 9)] = 0
    vectors = gallery[rng.integers(0, IMAGES, COUNT)] + rng.normal(size=(COUNT, WIDTH)) * 0.3
    if kind == "opposite":
        vectors, gallery = -np.abs(vectors), np.abs(gallery)
    elif kind == "rising":
        gallery = gallery[np.argsort(gallery @ vectors[0])]
    vectors[0 if kind == "opposite" else -1] = 0
    lengths = np.linalg.norm(gallery, axis=1, keepdims=True)
    return (gallery / np.where(lengths, lengths, 1)).astype(np.float32), vectors.astype(np.float32)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.sampled_from([1e-6, 1.0, 1e6, 1e14]),
    st.sampled_from([np.float16, np.float32]),
    st.booleans(),
)
@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_product_finds_what_float64_finds_and_all_find_the_same(
    small: pytest.MonkeyPatch,
    seed: int,
    kind: str,
    positive: float,
    negative: float,
    length: float,
    dtype: type,
    filtered: bool,
) -> None:
    rng = np.random.default_rng(seed)
    gallery, vectors = drawn(rng, kind)
    stored = Stored(gallery.astype(dtype))
    composed = torch.from_numpy(vectors)
    content = composed + torch.from_numpy(rng.normal(size=vectors.shape)).float() * 0.2
    ends = increment_ends(content, composed, positive, negative)
    ends = ends.map(lambda vectors: vectors * length)
    k = int(rng.integers(1, 4))
    inside = rng.random(IMAGES) < 0.9 if filtered else None
    excluded = torch.from_numpy(rng.integers(-1, IMAGES, (COUNT, 1))) if filtered else None
    small.setattr(bounded, "SHARE", 1)  # nobody is left out
    found = [by(small, (one,), ends, stored, k, inside, excluded) for one in HERE]
    found.append(by(small, tuple(HERE), ends, stored, k, inside, excluded))
    for (scores, rows), (others, other_rows) in pairwise(found):
        assert torch.equal(scores, others)
        assert torch.equal(rows, other_rows)
    scores, rows = found[0]
    features = normalise(torch.from_numpy(stored.features).double())
    exact = ends.map(lambda vectors: vectors.double()).scores(features)
    if inside is not None:
        exact[:, ~torch.from_numpy(inside)] = -torch.inf
    exact = ranking.without(exact, torch.arange(IMAGES), excluded)
    size = 4e-6 * max(float(end.norm(dim=1).max()) for end in (ends.positive, ends.negative))
    torch.testing.assert_close(scores.double(), exact.gather(1, rows), atol=size, rtol=0)
    torch.testing.assert_close(scores.double(), exact.topk(k).values, atol=size, rtol=0)
    assert all(len(set(row)) == k for row in rows.tolist())
    plain, _ = by(small, (), ends, stored, k, inside, excluded)
    torch.testing.assert_close(scores, plain, atol=size, rtol=0)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.sampled_from(HERE))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_equal_scores_keep_gallery_order(
    small: pytest.MonkeyPatch,
    seed: int,
    take_max: bool,
    shared: bool,
    kind: type[products.Product],
) -> None:
    rng = np.random.default_rng(seed)
    # Sums are exact, and most of them equal to others.
    gallery = np.zeros((IMAGES, WIDTH), np.float32)
    for row in gallery:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    positive, negative = torch.from_numpy(rng.integers(-3, 4, (2, COUNT, WIDTH))).float()
    ends = Ends(positive, positive if shared else negative, take_max)
    scores, rows = by(small, (kind,), ends, Stored(gallery), 3)
    expected = ends.scores(torch.from_numpy(gallery)).sort(dim=1, descending=True, stable=True)
    assert torch.equal(rows, expected.indices[:, :3])
    assert torch.equal(scores, expected.values[:, :3])


@pytest.mark.parametrize("kind", HERE)
def test_copies_of_an_image_have_equal_scores_in_gallery_order(
    small: pytest.MonkeyPatch, kind: type[products.Product]
) -> None:
    rng = np.random.default_rng(3)
    gallery, _ = drawn(rng, "random")
    copies = np.sort(rng.permutation(IMAGES)[:3])
    gallery[copies] = gallery[copies[0]]
    vectors = torch.from_numpy(gallery[np.full(COUNT, copies[0])])
    scores, rows = by(small, (kind,), Ends(vectors, vectors * 0.9), Stored(gallery), 3)
    assert rows.tolist() == [copies.tolist()] * COUNT
    assert (scores == scores[:, :1]).all()


def test_a_query_as_good_as_much_of_the_gallery_is_left_out_and_searched_plainly(
    small: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(4)
    gallery, vectors = drawn(rng, "random")
    vectors[[0, 7, -1]] = 0
    ends, told = Ends(torch.from_numpy(vectors), torch.from_numpy(vectors * 2)), []
    search = bounded.search

    def spied(*arguments: object) -> np.ndarray:
        told.append(search(*arguments))
        return told[-1]

    small.setattr(bounded, "search", spied)
    small.setattr(bounded, "SHARE", 4)
    _, rows = by(small, (products.Single,), ends, Stored(gallery), 3)
    assert told[0].nonzero()[0].tolist() == [0, 7, COUNT - 1]
    assert rows[[0, 7, -1]].tolist() == [[0, 1, 2]] * 3
    gallery[:] = np.eye(WIDTH)[3]  # sums are exact in whatever order
    _, rows = by(small, (products.Single,), ends, Stored(gallery), 3)
    assert told[1].all()
    assert rows.tolist() == [[0, 1, 2]] * COUNT


def test_a_more_exact_product_takes_over_where_the_quick_one_tells_little_apart(
    small: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(5)
    gallery = rng.normal(size=(1, WIDTH)) + rng.normal(size=(IMAGES, WIDTH)) * 1e-3
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    used: list[str] = []

    class Noted(products.Single):
        name = "noted"

        def load(self, features: Tensor, longest: float) -> None:
            used.append(self.name)
            super().load(features, longest)

    vectors = torch.from_numpy(gallery[:COUNT]).float()
    ends = Ends(vectors, vectors)
    stored = Stored(gallery.astype(np.float32))
    scores, rows = by(small, (products.Int7, Noted), ends, stored, 1)
    assert used
    assert rows[:, 0].tolist() == list(range(COUNT))
    plain, _ = by(small, (), ends, stored, 1)
    torch.testing.assert_close(scores, plain, atol=4e-6, rtol=0)


def test_large_searches_take_this_way_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: tuple[type[products.Product], ...] = (products.Single,)
    monkeypatch.setattr(trials, "ranked", lambda width: kinds)
    vectors = torch.randn(800, 768)
    ends = Ends(vectors, vectors)
    assert bounded.pays(ends, 123_403, 50, None)
    assert not bounded.pays(ends, 123_403, 5_000, None)
    assert not bounded.pays(ends, 8_000, 50, None)
    assert not bounded.pays(ends.map(lambda some: some[:20]), 123_403, 50, None)
    assert not bounded.pays(ends.map(lambda some: some * 1e30), 123_403, 50, None)
    assert not bounded.pays(ends.map(lambda some: some * torch.nan), 123_403, 50, None)
    kinds = ()
    assert not bounded.pays(ends, 123_403, 50, None)
