"""A stage whose first answers are bad or alike ends early; small and usual ones do not."""

import pytest

from pipeline.stages.first_answers import (
    LEAST,
    LEAST_CHANGES,
    FirstAnswers,
    SuspiciousAnswers,
)


def test_most_first_answers_bad_ends_it_and_shows_three() -> None:
    first = FirstAnswers[int]("a-model")
    for i in range(LEAST - 1):
        first.add(i, f"change {i}", None, "no reason", f"Okay, number {i}")
    with pytest.raises(SuspiciousAnswers) as caught:
        first.add(99, "a change", "a dog", None, "a dog")
    said = str(caught.value)
    assert said.startswith("19 of the first 20 answers of a-model are no edits:")
    assert "'Okay, number 0' (no reason); 'Okay, number 1'" in said
    assert "number 3" not in said
    assert "\n" not in said
    assert caught.value.alike == ()


def test_some_bad_answers_end_nothing() -> None:
    first = FirstAnswers[int]("a-model")
    for i in range(5 * LEAST):
        bad = i % 3 != 0  # two in three
        first.add(i, f"change {i}", None if bad else f"edit {i}", "bad" if bad else None, "x")


def test_one_edit_for_relative_captions_that_differ_ends_it() -> None:
    first = FirstAnswers[int]("a-model")
    for i in range(LEAST - 1):
        text = "A dog" if i % 2 else "a dog"
        first.add(i, f"change {i}", text, None, text)
    with pytest.raises(
        SuspiciousAnswers, match="one and the same edit for 20 of the first 20"
    ) as e:
        first.add(19, "change 19", "a dog", None, "a dog")
    assert e.value.alike == tuple(range(20))


def test_equal_edits_of_equal_changes_end_nothing() -> None:
    first = FirstAnswers[int]("a-model")
    key = 0
    for change in range(3 * LEAST_CHANGES):
        for _ in range(15):  # captions of one image, which one change makes the same
            first.add(key, f"change {change}", f"edit {change // 2}", None, "x")
            key += 1


def test_what_failed_before_says_nothing() -> None:
    first = FirstAnswers[int]("a-model", range(1000))
    for i in range(1000):
        first.add(i, f"change {i}", None, "bad", "x")
    for i in range(1001, 1000 + LEAST):
        first.add(i, f"change {i}", None, "bad", "x")
    with pytest.raises(SuspiciousAnswers):
        first.add(1000, "change", None, "bad", "x")


def test_a_small_run_is_not_judged() -> None:
    first = FirstAnswers[int]("a-model")
    for i in range(LEAST - 1):
        first.add(i, f"change {i}", None, "bad", "x")
    few = FirstAnswers[int]("a-model")
    for i in range(10_000):
        few.add(i, f"change {i % (LEAST_CHANGES - 1)}", "a dog", None, "a dog")
