"""Conditions read as they are written, and compare what they are about."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConditionError
from pipeline.own import conditions
from pipeline.own.conditions import Condition, Kind, Value, parse, predicate


def met(text: str, value: Value | None, kind: Kind = "attribute", *cells: str) -> bool:
    every = cells or ((value,) if isinstance(value, str) else ())
    return predicate(parse(text), kind, every)(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour=red", ("colour", "=", "red")),
        (" Price <= 50 ", ("price", "<=", "50")),
        ("taken>=2024-05", ("taken", ">=", "2024-05")),
        ("brand!~ACME", ("brand", "!~", "ACME")),
        ("a=b=c", ("a", "=", "b=c")),
        ("frame size!=", ("frame size", "!=", "")),
    ],
)
def test_a_condition_is_a_field_an_operator_and_a_value(
    text: str, expected: tuple[str, str, str]
) -> None:
    assert parse(text) == Condition(*expected)


@pytest.mark.parametrize("text", ["", "colour", "=red", "~", "x" * 600 + "=1"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConditionError, match="is no condition"):
        parse(text)


def test_a_condition_counts_once_and_there_are_not_too_many() -> None:
    assert len(conditions.parse_all(["a=1", "A = 1", "a=2"])) == 2
    with pytest.raises(ConditionError, match="more than the 32"):
        conditions.parse_all([f"a={number}" for number in range(33)])


def test_texts_compare_without_case_and_stars_stand_for_anything() -> None:
    assert met("colour=RED", "red")
    assert not met("colour=red", "dark red")
    assert met("colour=*red", "dark red")
    assert met("colour=re?", "red")
    assert met("colour~ED", "red")
    assert not met("colour!~ed", "red")
    assert met("size=[x]", "[x]")
    assert not met("size=[x]", "x")
    assert not met("name=a.jpg", "a_jpg", "text")


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not met("text=" + "*a" * 200 + "b", "a" * 60_000, "text")


def test_a_folder_matches_with_all_below_it() -> None:
    path = "summer/beach/a.jpg"
    for wanted in ("summer", "summer/", "Summer/*", "summer/beach", "*/beach", "*/a.jpg", "*"):
        assert met(f"folder={wanted}", path, "folder"), wanted
    for other in ("beach", "summer/b", "sum", "winter/*", "a.jpg"):
        assert not met(f"folder={other}", path, "folder"), other
    assert met("folder~each", path, "folder")


@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.sampled_from(["<", "<=", ">", ">=", "=", "!="]),
    st.sampled_from(["number", "attribute"]),
)
def test_numbers_compare_as_numbers(own: float, wanted: float, operator: str, kind: Kind) -> None:
    expected = {
        "<": own < wanted,
        "<=": own <= wanted,
        ">": own > wanted,
        ">=": own >= wanted,
        "=": own == wanted,
        "!=": own != wanted,
    }[operator]
    assert met(f"price{operator}{wanted!r}", own if kind == "number" else repr(own), kind) == (
        expected
    )


def test_equal_numbers_may_be_written_differently() -> None:
    assert met("price=50", "50.00")
    assert met("price>1e1", "11")
    assert not met("price<50", "n/a", "attribute", "n/a", "20")
    assert not met("price<50", None, "attribute", "20")


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("2024", "2024-01-01 00:00:00", "2024-12-31 23:59:59"),
        ("2023-02", "2023-02-01 00:00:00", "2023-02-28 23:59:59"),
        ("2024-2", "2024-02-01 00:00:00", "2024-02-29 23:59:59"),
        ("2024-05-03", "2024-05-03 00:00:00", "2024-05-03 23:59:59"),
        ("2024-05-03T12:30", "2024-05-03 12:30:00", "2024-05-03 12:30:59"),
        ("2024-05-03 12:30:15", "2024-05-03 12:30:15", "2024-05-03 12:30:15"),
    ],
)
def test_a_date_stands_for_all_of_its_time(wanted: str, first: str, last: str) -> None:
    begins, ends = datetime.fromisoformat(first), datetime.fromisoformat(last)
    before, after = begins.replace(year=2000), begins.replace(year=2030)
    for own, at_least, at_most in (
        (before, False, True),
        (begins, True, True),
        (ends, True, True),
        (after, True, False),
    ):
        assert met(f"taken>={wanted}", own, "date") == at_least
        assert met(f"taken<={wanted}", own, "date") == at_most
        assert met(f"taken<{wanted}", own, "date") != at_least
        assert met(f"taken>{wanted}", own, "date") != at_most
        assert met(f"taken={wanted}", own, "date") == (at_least and at_most)


def test_attributes_compare_as_dates_where_they_are() -> None:
    assert met("added>=2024-05", "2024-05-01")
    assert not met("added>2024", "2024-07")
    assert met("added=2024", "2024-07-09")
    assert met("added<2025", "2024-07-09")  # 2025 is a number, too, but no value is one


@pytest.mark.parametrize(
    ("text", "kind", "cells", "said"),
    [
        ("width>=wide", "number", (), "no number"),
        ("width>=nan", "number", (), "no number"),
        ("width~10", "number", (), "compared by"),
        ("taken>=soon", "date", (), "no date"),
        ("taken=2024-13", "date", (), "no date"),
        ("make<5", "text", (), "is a text"),
        ("price<cheap", "attribute", ("5",), "neither a number nor a date"),
        ("colour<5", "attribute", ("red",), "no value of colour is a number"),
        ("colour<2024-05", "attribute", ("red", "5"), "no value of colour is a date"),
    ],
)
def test_values_that_no_image_can_have_are_refused(
    text: str, kind: Kind, cells: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConditionError, match=said):
        predicate(parse(text), kind, cells)


@given(
    st.sampled_from(["=", "~"]),
    st.text(st.characters(codec="utf-8"), max_size=8).map(str.strip),
    st.none() | st.text(max_size=8),
)
def test_a_negation_is_met_by_exactly_the_others(
    operator: str, wanted: str, own: str | None
) -> None:
    for kind in ("attribute", "text", "folder"):
        positive = predicate(Condition("a", operator, wanted), kind, ())
        negative = predicate(Condition("a", f"!{operator}", wanted), kind, ())
        assert positive(own) != negative(own)


def test_what_has_no_value_equals_an_empty_one() -> None:
    assert met("colour=", None)
    assert not met("colour!=", None)
    assert met("colour!=", "red")
    assert met("colour!=red", None)
