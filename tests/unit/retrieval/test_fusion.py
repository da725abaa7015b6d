"""The fusions that join a verifier's probabilities with a ranking, and the early stop."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.verifiers.base import probability
from pipeline.retrieval.fusion import Fusion, average, confidence, fuse, scaled, walk

PROBABILITIES = st.one_of(st.none(), st.sampled_from([0.0, 0.2, 0.5, 0.7, 0.9, 1.0]))
FUSIONS = st.one_of(
    st.just(confidence(0.7, 0.3)), st.sampled_from([0.0, 0.25, 0.5, 1.0]).map(average)
)
FALLING = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), max_size=14).map(
    lambda scores: sorted(scores, reverse=True)
)


def level(images: str) -> dict[str, float]:
    return dict.fromkeys(images, 0.0)


def test_the_verifier_ranks_where_it_is_confident_and_the_score_elsewhere() -> None:
    known = {"a": 0.1, "b": 0.5, "c": 0.95, "d": None, "f": 0.8}
    fused = fuse("abcdef", level("abcdef"), known, confidence(accept=0.8, reject=0.2))
    assert fused == ["c", "f", "b", "d", "e", "a"]


def test_a_limit_of_the_rule_counts_as_accepted_and_as_not_rejected() -> None:
    limits = confidence(accept=0.8, reject=0.2)
    assert fuse("ab", level("ab"), {"b": 0.8}, limits) == ["b", "a"]
    assert fuse("ab", level("ab"), {"a": 0.2}, limits) == ["a", "b"]


def test_an_average_weighs_scores_on_the_candidates_own_scale() -> None:
    scores = scaled("abcd", [0.9, 0.8, 0.7, 0.6], candidates=3)
    assert scores == pytest.approx({"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5})
    known = {"a": 0.0, "b": 1.0, "c": 0.6}
    # 0.6, 0.7, 0.24, -0.1
    assert fuse("abcd", scores, known, average(0.4)) == ["b", "a", "c", "d"]
    # 0.2, 0.9, 0.48, 0.3: undecided d comes before a, which the verifier denies
    assert fuse("abcd", scores, known, average(0.8)) == ["b", "c", "d", "a"]


def test_equal_scores_are_scaled_to_one_value() -> None:
    assert set(scaled("abc", [0.5, 0.5, 0.5], candidates=2).values()) == {1.0}
    assert scaled("", [], candidates=2) == {}


@given(FALLING, st.lists(PROBABILITIES, min_size=14, max_size=14), FUSIONS)
def test_without_verdicts_the_ranking_stays(
    scores: list[float], answers: list[float | None], joined: Fusion
) -> None:
    images = "abcdefghijklmn"[: len(scores)]
    assert fuse(images, scaled(images, scores, 5), {}, joined) == list(images)


@given(
    FALLING, st.lists(PROBABILITIES, max_size=14), st.integers(1, 14), st.integers(1, 12), FUSIONS
)
def test_stopping_early_changes_none_of_the_first_places_and_wastes_no_call(
    raw: list[float], answers: list[float | None], most: int, settled: int, joined: Fusion
) -> None:
    images = [str(place) for place in range(len(raw))]
    candidates = images[:most]
    scores = scaled(images, raw, most)
    answers += [None] * (len(candidates) - len(answers))
    truth = dict(zip(candidates, answers, strict=False))
    known: dict[str, float | None] = {}
    while True:
        counting, wanted = walk(candidates, scores, known, joined, settled)
        if not wanted:
            break
        assert not set(wanted) & set(known)
        known |= {image: truth[image] for image in wanted}
    assert set(counting) == set(known)  # every call counts
    stopped = fuse(images, scores, {image: known[image] for image in counting}, joined)
    assert stopped[:settled] == fuse(images, scores, truth, joined)[:settled]
    if len(counting) < len(candidates):  # and it stopped no later than it could
        *before, last = counting
        reach = joined(scores[last], 1.0)
        assert sum(joined(scores[one], known[one]) >= reach for one in before) < settled


@given(FALLING, st.lists(PROBABILITIES, min_size=14, max_size=14), st.integers(1, 12), FUSIONS)
def test_more_verdicts_than_needed_change_nothing(
    raw: list[float], answers: list[float | None], settled: int, joined: Fusion
) -> None:
    candidates = [str(place) for place in range(len(raw))]
    scores = scaled(candidates, raw, len(raw))
    everything = dict(zip(candidates, answers, strict=False))
    counting, wanted = walk(candidates, scores, everything, joined, settled)
    assert not wanted
    needed = {image: everything[image] for image in counting}
    assert walk(candidates, scores, needed, joined, settled) == (counting, [])


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), FUSIONS)
def test_a_fusion_never_falls_where_score_or_probability_rise(
    low: float, high: float, other: float, joined: Fusion
) -> None:
    low, high = sorted((low, high))
    assert joined(other, low) <= joined(other, high)
    assert joined(low, other) <= joined(high, other)


def test_yes_and_no_count_in_every_spelling() -> None:
    tokens = {"Yes": math.log(0.3), "\u0120yes": math.log(0.3), "\u2581No": math.log(0.2), "!": -1}
    assert probability(tokens) == pytest.approx(0.75)
    assert probability({"Sure": -0.1, "yesterday": -3.0}) is None


def test_the_configured_fusion_is_used() -> None:
    from pipeline.config import VerifierConfig
    from pipeline.stages.verify import fusion_of

    assert fusion_of(VerifierConfig(fusion="average", weight=0.5))(0.2, 0.6) == pytest.approx(0.4)
    assert fusion_of(VerifierConfig(accept=0.8))(0.2, 0.75) == 0.0
