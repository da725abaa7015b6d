"""The rule that joins a verifier's probabilities with a ranking, and its early stop."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fusion import fuse, walk
from pipeline.verifiers import probability

PROBABILITIES = st.one_of(st.none(), st.sampled_from([0.0, 0.2, 0.5, 0.7, 0.9, 1.0]))


def test_the_verifier_ranks_where_it_is_confident_and_the_score_elsewhere() -> None:
    known = {"a": 0.1, "b": 0.5, "c": 0.95, "d": None, "f": 0.8}
    assert fuse("abcdef", known, accept=0.8, reject=0.2) == ["c", "f", "b", "d", "e", "a"]


def test_a_limit_of_the_rule_counts_as_accepted_and_as_not_rejected() -> None:
    assert fuse("ab", {"b": 0.8}, accept=0.8, reject=0.2) == ["b", "a"]
    assert fuse("ab", {"a": 0.2}, accept=0.8, reject=0.2) == ["a", "b"]


def test_without_verdicts_the_ranking_stays() -> None:
    assert fuse("abc", {}, accept=0.5, reject=0.5) == ["a", "b", "c"]


@given(st.lists(PROBABILITIES, max_size=12), st.integers(0, 6), st.integers(1, 12))
def test_stopping_early_changes_none_of_the_first_places_and_wastes_no_call(
    answers: list[float | None], unseen: int, settled: int
) -> None:
    accept, reject = 0.7, 0.3
    candidates = [str(place) for place in range(len(answers))]
    images = candidates + [f"unseen {i}" for i in range(unseen)]
    truth = dict(zip(candidates, answers, strict=True))
    known: dict[str, float | None] = {}
    while True:
        counting, wanted = walk(candidates, known, accept, settled)
        if not wanted:
            break
        assert not set(wanted) & set(known)
        known |= {image: truth[image] for image in wanted}
    assert set(counting) == set(known)  # every call counts
    stopped = fuse(images, {image: known[image] for image in counting}, accept, reject)
    assert stopped[:settled] == fuse(images, truth, accept, reject)[:settled]
    accepted = sum((truth[image] or 0) >= accept for image in counting)
    assert accepted <= settled
    if accepted < settled:
        assert counting == candidates


@given(st.lists(PROBABILITIES, max_size=12), st.integers(1, 12))
def test_more_verdicts_than_needed_change_nothing(
    answers: list[float | None], settled: int
) -> None:
    candidates = [str(place) for place in range(len(answers))]
    everything = dict(zip(candidates, answers, strict=True))
    counting, wanted = walk(candidates, everything, 0.7, settled)
    assert not wanted
    needed = {image: everything[image] for image in counting}
    assert walk(candidates, needed, 0.7, settled) == (counting, [])


def test_yes_and_no_count_in_every_spelling() -> None:
    tokens = {"Yes": math.log(0.3), "\u0120yes": math.log(0.3), "\u2581No": math.log(0.2), "!": -1}
    assert probability(tokens) == pytest.approx(0.75)
    assert probability({"Sure": -0.1, "yesterday": -3.0}) is None
