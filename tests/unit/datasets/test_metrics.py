"""Metrics against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.metrics import average_precision_at_k, interval, recall_at_k, resample

IDS = [str(number) for number in range(12)]


@given(st.permutations(IDS), st.sets(st.sampled_from(IDS), min_size=1), st.integers(1, 12))
def test_average_precision_follows_circos_definition(
    ranking: list[str], relevant: set[str], k: int
) -> None:
    precisions = [
        len(relevant & set(ranking[: i + 1])) / (i + 1) if ranking[i] in relevant else 0.0
        for i in range(k)
    ]
    expected = sum(precisions) / min(k, len(relevant))
    value = average_precision_at_k(ranking, relevant, k)
    assert abs(value - expected) < 1e-12
    assert 0 <= value <= 1


@given(st.sets(st.sampled_from(IDS), min_size=1), st.integers(1, 12))
def test_average_precision_is_one_when_the_relevant_come_first(relevant: set[str], k: int) -> None:
    ranking = sorted(relevant) + [name for name in IDS if name not in relevant]
    assert average_precision_at_k(ranking, relevant, k) == 1.0


def test_average_precision_by_hand() -> None:
    assert average_precision_at_k(["a", "x", "b"], {"a", "b", "c"}, 5) == (1 + 2 / 3) / 3
    assert average_precision_at_k(["x", "a"], {"a", "b", "c"}, 2) == 0.5 / 2


@given(st.permutations(IDS), st.integers(1, 12))
def test_recall_counts_the_target_within_the_first_k(ranking: list[str], k: int) -> None:
    assert recall_at_k(ranking, "3", k) == float(ranking.index("3") < k)


@given(st.integers(0, 2**32 - 1))
def test_resampling_keeps_every_category_its_size(seed: int) -> None:
    weights = resample([[0, 1, 2, 3], [4, 5, 6]], list("abcdefg"), 50, seed)
    assert weights.shape == (50, 7)
    assert (weights[:, :4].sum(axis=1) == 4).all()
    assert (weights[:, 4:].sum(axis=1) == 3).all()
    assert (weights >= 0).all()


@given(st.lists(st.sampled_from("abcd"), min_size=1), st.integers(0, 2**32 - 1))
def test_queries_of_one_unit_are_drawn_together(units: list[str], seed: int) -> None:
    weights = resample([range(len(units))], units, 50, seed)
    firsts = [units.index(unit) for unit in dict.fromkeys(units)]
    assert (weights[:, firsts].sum(axis=1) == len(firsts)).all()
    for query, unit in enumerate(units):
        assert (weights[:, query] == weights[:, units.index(unit)]).all()


def test_the_interval_of_a_recall_is_as_wide_as_the_binomial_says() -> None:
    rng = np.random.default_rng(0)
    hits = (rng.random(2000) < 0.3).astype(float)
    weights = resample([range(2000)], [str(n) for n in range(2000)], 3000)
    low, high = interval(weights @ hits / 2000)
    expected = 1.96 * np.sqrt(0.3 * 0.7 / 2000)
    assert low < hits.mean() < high
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
