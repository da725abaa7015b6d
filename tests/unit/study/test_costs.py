"""Cost against quality: which rows are drawn, and which of them nothing beats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.study.costs import Point, frontier, points
from pipeline.study.protocol import UNTOLD
from pipeline.study.published import Cost, Entry

NUMBERS = st.floats(0, 100)


def entry(method: str, value: float | None, *costs: Cost) -> Entry:
    return Entry(method, "L/14", {"mAP@5": value}, "x", UNTOLD, costs)


def test_a_row_is_drawn_once_a_statement_of_its_cost() -> None:
    rows = [
        entry("a", 20, Cost(calls=15, seconds=19.24, source="SDR"), Cost(seconds=3, source="STI")),
        entry("b", 30, Cost(calls=0)),
        entry("c", None, Cost(calls=1, source="SDR")),
        entry("d", 25),
    ]
    assert points(rows, "calls", "mAP@5") == [
        Point("a L/14 (SDR)", 15, 20), Point("b L/14", 0, 30, is_own=True),
    ]  # fmt: skip
    assert [p.label for p in points(rows, "seconds", "mAP@5")] == ["a L/14 (SDR)", "a L/14 (STI)"]
    with pytest.raises(ConfigError, match="No row has both mAP@5 and calls"):
        points(rows[2:], "calls", "mAP@5")


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_nothing_beats_the_frontier_at_its_cost(places: list[tuple[float, float]]) -> None:
    found = [Point(str(i), *place) for i, place in enumerate(places)]
    best = frontier(found)
    for point in found:
        reached = [p.quality for p in best if p.cost <= point.cost]
        assert reached
        assert max(reached) >= point.quality
    assert [p.cost for p in best] == sorted({p.cost for p in best})
    assert [p.quality for p in best] == sorted({p.quality for p in best})
