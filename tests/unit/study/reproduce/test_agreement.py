"""Agreement of rankings: against scipy's Kendall τ, and rank-biased overlap by its definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from pipeline.study.reproduce.agreement import agreement, kendall, overlap, rank_biased_overlap

IDS = [str(number) for number in range(30)]
LISTS = st.permutations(IDS).map(lambda ids: ids[:12])


@given(LISTS, LISTS)
def test_kendall_is_scipys_on_the_common_images(one: list[str], other: list[str]) -> None:
    common = [image for image in one if image in other]
    found = kendall(one, other)
    if len(common) < 2:
        assert found is None
    else:
        places = [other.index(image) for image in common]
        assert found == pytest.approx(kendalltau(range(len(common)), places).statistic)


@given(LISTS, LISTS, st.floats(0.5, 0.99))
def test_rank_biased_overlap_is_that_of_lists_that_go_on_as_they_ended(
    one: list[str], other: list[str], p: float
) -> None:
    """Extrapolation means: the agreement stays what it is at the end, for ever."""
    depth = len(one)
    agreed = [len(set(one[:d]) & set(other[:d])) / d for d in range(1, depth + 1)]
    endless = [agreed[min(d, depth) - 1] for d in range(1, 4000)]
    expected = (1 - p) * math.fsum(a * p ** (d - 1) for d, a in enumerate(endless, start=1))
    assert rank_biased_overlap(one, other, p) == pytest.approx(expected, abs=1e-6)
    assert rank_biased_overlap(one, other, p) == rank_biased_overlap(other, one, p)


@given(LISTS)
def test_equal_lists_agree_wholly_and_disjoint_ones_not_at_all(one: list[str]) -> None:
    others = [image for image in IDS if image not in one]
    found = agreement({"q": one}, {"q": one})
    assert found == pytest.approx(
        dict.fromkeys(("overlap@10", "overlap@50", "rbo", "kendall"), 100)
    )
    apart = agreement({"q": one}, {"q": others})
    assert apart == {"overlap@10": 0, "overlap@50": 0, "rbo": 0}
    assert agreement({"q": one}, {"q": one[::-1]})["kendall"] == pytest.approx(-100)


def test_overlap_is_of_the_first_k() -> None:
    assert overlap(["a", "b", "c"], ["b", "x", "a"], 2) == 0.5
    assert overlap(["a"], ["a"], 10) == 1
    assert agreement({"q": ["a"], "only ours": ["b"]}, {"q": ["a"]})["overlap@10"] == 100
