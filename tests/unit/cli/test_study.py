"""Grids as they are typed."""

import click
import pytest

from pipeline.cli.study import MOST_VALUES, Grid


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("negative=0:3:1", [0, 1, 2, 3]),
        ("negative=0:1:0.3", [0, 0.3, 0.6, 0.9]),
        ("negative=1:0:-0.5", [1, 0.5, 0]),
        ("negative=2:2:1", [2]),
        ("drops=5,1,1e1", [5, 1, 10]),
        (f"negative=0:{MOST_VALUES - 1}:1", list(range(MOST_VALUES))),
    ],
)
def test_values_are_listed_or_stepped_through(typed: str, values: list[float]) -> None:
    assert Grid().convert(typed) == (typed.partition("=")[0], values)


@pytest.mark.parametrize(
    "typed",
    [
        *("negative=0:inf:1", "negative=-inf:0:1", "negative=0:1:inf", "negative=nan:1:1"),
        *("negative=0:1:nan", "negative=nan", "negative=1,inf", "negative=0:1:0"),
        *("negative=3:0:0.25", "negative=0:1", "negative=0:1:2:3", "negative=1,x"),
        *("negative=", "negative", "=1,2", "", f"negative=0:{MOST_VALUES}:1"),
    ],
)
def test_what_is_no_list_of_finite_numbers_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="of finite numbers"):
        Grid().convert(typed)
