"""The fast formulas against slow ones written from the paper, on random features."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.retrieval import ranking
from pipeline.retrieval.scoring import Ends, increment_ends, mean_feature, normalise, top_k

WEIGHT = st.floats(-3, 3, allow_nan=False)
SEED = st.integers(0, 2**32 - 1)


def unit(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = rng.normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def paper_score(b: np.ndarray, a: np.ndarray, x: np.ndarray, pos: float, neg: float) -> float:
    """SEIZE section 3.3, one query and one image, float64."""
    before, after = float(b @ x), float(a @ x)
    change = after - before
    return after + pos * max(change, 0.0) + neg * min(change, 0.0)


@given(SEED, WEIGHT, WEIGHT)
@settings(deadline=None)
def test_two_inner_products_give_the_papers_score_for_weights_of_any_sign_and_order(
    seed: int, positive: float, negative: float
) -> None:
    rng = np.random.default_rng(seed)
    content, composed, gallery = unit(rng, 3, 8), unit(rng, 3, 8), unit(rng, 20, 8)
    content[0] = 0  # a query without captions
    ends = increment_ends(torch.from_numpy(content), torch.from_numpy(composed), positive, negative)
    slow = [
        [paper_score(b, a, x, positive, negative) for x in gallery]
        for b, a in zip(content, composed, strict=True)
    ]
    np.testing.assert_allclose(ends.scores(torch.from_numpy(gallery)).numpy(), slow, atol=1e-9)


def test_increment_lifts_what_the_edit_added_and_punishes_what_it_took_away() -> None:
    content, composed = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    gained, lost = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    plain = Ends(composed, composed)
    seize = increment_ends(content, composed, positive=0.13, negative=2.1)
    assert seize.scores(gained).item() > plain.scores(gained).item()
    assert seize.scores(lost).item() < plain.scores(lost).item()


@given(
    hnp.arrays(np.float32, (4, 30), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_top_k_orders_equal_scores_by_row_even_at_the_cut(scores: np.ndarray, k: int) -> None:
    rows = torch.arange(100, 130)
    values, found = top_k(torch.from_numpy(scores), rows, k)
    for query in range(4):
        order = sorted(range(30), key=lambda i: (-scores[query, i], i))[:k]
        assert found[query].tolist() == [100 + i for i in order]
        assert values[query].tolist() == [scores[query, i] for i in order]


def test_mean_feature_averages_raw_embeddings_unless_asked() -> None:
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    raw = mean_feature(embeddings)
    np.testing.assert_allclose(raw.numpy(), np.array([3.0, 1.0]) / np.sqrt(10), rtol=1e-6)
    even = mean_feature(embeddings, normalise_first=True)
    np.testing.assert_allclose(even.numpy(), np.array([1.0, 1.0]) / np.sqrt(2), rtol=1e-6)


def test_normalise_keeps_zero_rows_finite() -> None:
    assert normalise(torch.zeros(2, 3)).abs().sum().item() == 0


class InMemory:
    """Gallery features, read in slices."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features
        self.shape = features.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.features[start:stop]


@given(st.integers(0, 10_000), st.integers(1, 7))
@settings(deadline=None, max_examples=30)
def test_places_are_those_of_the_whole_ranking(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    # Unit vectors of few directions, so that many similarities are exactly equal.
    features = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 30)]
    vectors = rng.integers(-2, 3, (3, 4)).astype(np.float32)
    inside = rng.random(30) < 0.8
    excluded = torch.from_numpy(rng.integers(-1, 30, (3, 1)))
    asked = torch.from_numpy(rng.integers(-1, 30, (3, 5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FIRST", block)
        patch.setattr(ranking, "BLOCK", block)
        found = ranking.places_of(
            torch.from_numpy(vectors), InMemory(features), asked, inside, excluded
        )
    for query in range(3):
        score = features @ vectors[query]
        kept = [i for i in range(30) if inside[i] and i != excluded[query, 0]]
        order = sorted(kept, key=lambda i: (-score[i], i))
        for row, place in zip(asked[query].tolist(), found[query].tolist(), strict=True):
            if row == -1 or not inside[row]:
                assert place == 0
            elif row in order:
                assert place == order.index(row) + 1
