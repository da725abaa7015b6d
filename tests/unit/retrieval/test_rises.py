"""The rank variant finds, to the last bit, what sorting the whole gallery for every query finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.retrieval import ranking, rises
from pipeline.retrieval.scoring import RankEnds, top_k
from tests.unit.retrieval.test_bounded import Stored

IMAGES, COUNT = 300, 4
KINDS = ("random", "near ties", "copies", "few values", "zero", "alike")
WEIGHT = st.one_of(st.just(0.0), st.floats(-1, 1).map(lambda number: number**5))


def places(similarity: Tensor) -> Tensor:
    """Return each image's place (queries, n), 0 for the best, by a stable sort of all of them."""
    order = similarity.sort(dim=1, descending=True, stable=True).indices
    return order.argsort(dim=1)


def sorted_out(score: RankEnds, after: Tensor, before: Tensor) -> Tensor:
    """Return all scores (queries, n)."""
    risen = (places(before) - places(after)).float()
    gained, lost = risen.clamp(min=0), risen.clamp(max=0)
    return after + score.positive * gained + score.negative * lost


def drawn(rng: np.random.Generator, kind: str) -> tuple[Tensor, Tensor]:
    """Return similarities before and after the edit, float32 (COUNT, IMAGES) each."""
    both = rng.normal(size=(2, COUNT, IMAGES)) * 0.1
    if kind == "near ties":
        both = 0.3 + both * 10.0 ** rng.uniform(-7, -3)
    elif kind == "copies":
        both = both[:, :, rng.integers(0, 30, IMAGES)]
    elif kind == "few values":
        both = rng.integers(-3, 4, both.shape) / 8
    elif kind == "zero":
        both[int(rng.integers(0, 2))] *= -0.0
    elif kind == "alike":
        both[1] = both[0] + rng.normal(size=(COUNT, IMAGES)) * 1e-3
    before, after = torch.from_numpy(both.astype(np.float32))
    return before, after


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
    WEIGHT,
    WEIGHT,
    st.integers(1, IMAGES + 20),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=150)
def test_no_image_that_is_left_out_and_no_place_that_is_looked_up_changes_the_best(
    seed: int, kind: str, positive: float, negative: float, k: int, never: int
) -> None:
    rng = np.random.default_rng(seed)
    before, after = drawn(rng, kind)
    rows = torch.from_numpy(np.sort(rng.permutation(2 * IMAGES)[:IMAGES]))
    excluded = torch.from_numpy(rng.integers(-1, 2 * IMAGES, (COUNT, never))) if never else None
    score = RankEnds(torch.zeros(COUNT, 1), torch.zeros(COUNT, 1), positive, negative)
    every = sorted_out(score, after, before)
    expected = top_k(ranking.without(every.clone(), rows, excluded), rows, k)
    values, best = rises.best(score, after, before, rows, k, excluded)
    good = values > -torch.inf
    assert torch.equal(values, expected[0])
    assert torch.equal(best[good], expected[1][good])
    columns = torch.from_numpy(rng.integers(0, IMAGES, 7))
    own = rises.scored(score, after[0], before[0], columns)
    assert torch.equal(own, every[0, columns])


def test_where_places_count_for_little_few_images_are_placed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = drawn(np.random.default_rng(1), "random")
    score = RankEnds(torch.zeros(COUNT, 1), torch.zeros(COUNT, 1), 1e-6, 1e-6)
    counts = []

    def spied(similarity: Tensor) -> Tensor:
        counts.append(len(similarity))
        return found(similarity)

    found = rises.places
    monkeypatch.setattr(rises, "places", spied)
    rises.best(score, after, before, torch.arange(IMAGES), 5, None)
    assert counts.count(IMAGES) == COUNT
    assert sum(counts) < 1.1 * COUNT * IMAGES


@given(st.integers(0, 2**32 - 1), WEIGHT, WEIGHT, st.sampled_from([np.float16, np.float32]))
@settings(deadline=None, max_examples=30)
def test_a_search_in_portions_is_that_of_all_queries_at_once_in_the_whole_gallery(
    seed: int, positive: float, negative: float, dtype: type
) -> None:
    rng = np.random.default_rng(seed)
    # Sums are exact, and most of them equal to others.
    gallery = np.zeros((IMAGES, 8), np.float32)
    for row in gallery[: IMAGES - 2]:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    content, composed = torch.from_numpy(rng.integers(-3, 4, (2, COUNT, 8))).float() / 8
    inside = rng.random(IMAGES) < 0.8
    rows = torch.from_numpy(np.flatnonzero(inside))
    score = RankEnds(content, composed, positive, negative)
    chosen = torch.from_numpy(gallery)[rows]
    every = sorted_out(score, composed @ chosen.T, content @ chosen.T)
    asked = [rng.choice(rows.numpy(), size).tolist() for size in (0, 1, 5, 9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FIRST", 50)
        patch.setattr(ranking, "WHOLE", 3 * 8 * IMAGES)
        stored = Stored(gallery.astype(dtype))
        scores, best = ranking.top_images(score, stored, 9, inside)
        own = ranking.scores_of(score, stored, asked, inside)
    expected = top_k(every, rows, 9)
    assert torch.equal(scores, expected[0])
    assert torch.equal(best, expected[1])
    for given_rows, found, all_scores in zip(asked, own, every, strict=True):
        columns = torch.searchsorted(rows, torch.tensor(given_rows, dtype=torch.long))
        assert torch.equal(found, all_scores[columns])
