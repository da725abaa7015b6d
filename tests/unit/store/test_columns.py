"""Columns hold records, and rows are what a dictionary by path would be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.columns import Columns, Rows

FIELDS = ("path", "size", "broken", "removed")
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"path": st.sampled_from("abcdef"), "size": st.integers(0, 9)},
        optional={"broken": st.sampled_from(["", "torn"]), "removed": st.just(True)},
    ),
    max_size=12,
)


def last(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a plain loop says is there."""
    there: dict[str, Any] = {}
    for record in records:
        if "removed" in record:
            there.pop(record["path"], None)
        else:
            there[record["path"]] = record
    return there


@given(RECORDS)
def test_columns_give_back_every_record_also_through_json(records: list[dict[str, Any]]) -> None:
    columns = Columns.parsed(json.loads(json.dumps(Columns.of(records).as_json())))
    assert columns.records() == records
    assert [columns.record(row) for row in range(len(records))] == records
    for name in FIELDS:
        assert columns.values(name) == [record.get(name) for record in records]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"count": 1, "columns": {"path": {}}},
        {"count": 2, "columns": {"path": {"values": ["a"]}}},
        {"count": 2, "columns": {"path": {"values": ["a", "b"], "rows": [1]}}},
        {"count": 2, "columns": {"path": {"values": None}}},
    ],
)
def test_what_is_no_columns_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Columns.parsed(said)


@given(begun=RECORDS, later=RECORDS, dropped=st.sets(st.sampled_from("abcdef")), more=RECORDS)
def test_rows_are_what_a_dictionary_would_be(
    begun: list[dict[str, Any]],
    later: list[dict[str, Any]],
    dropped: set[str],
    more: list[dict[str, Any]],
) -> None:
    rows: Rows[Any] = Rows(Columns.of(begun), later)
    expected = last([*begun, *later])
    for path in sorted(dropped & expected.keys()):
        assert rows.pop(path) == expected.pop(path)
    for record in more:
        rows.put(record)
    expected = last([*expected.values(), *more])
    ordered = rows.in_order()
    assert list(ordered) == sorted(expected)
    for one in (rows, ordered):
        assert one == expected == one.records()
        assert one.keys() == expected.keys()
        assert len(one) == len(expected)
        assert all((path in one) == (path in expected) for path in "abcdef")
        for name in FIELDS:
            assert dict(zip(one, one.column(name), strict=True)) == {
                path: record.get(name) for path, record in expected.items()
            }
            having = {path for path, record in expected.items() if name in record}
            assert set(one.having(name)) == having
