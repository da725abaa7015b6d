"""Grids: the values that weights can have, and the cells that they make."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.retrieval.methods.base import METHODS
from pipeline.run import Run
from pipeline.study import tune
from pipeline.study.tune import VERIFIED_GRIDS, cells_of, grid_of


def settings(method: str, **fields: Any) -> Config:
    names = {name.replace("__", "."): value for name, value in fields.items()}
    return config.load("demo", {"search.method": method, "verifier.fusion": "confidence"} | names)


def test_given_values_stand_in_place_of_the_methods_own_each_once_and_rising() -> None:
    grid = grid_of(settings("seize"), {"negative": [2, 0.5, 2]})
    assert grid == METHODS["seize"].tuned | {"negative": [0.5, 2]}


def test_a_weight_that_is_not_tried_by_default_can_be() -> None:
    untried = METHODS["pdv"].weights.keys() - METHODS["pdv"].tuned.keys()
    for name in untried:
        assert grid_of(settings("pdv"), {name: [0.5]})[name] == [0.5]


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("seize", {"negative": [math.nan]}, "--grid negative: nan cannot be tried: .*finite"),
        ("seize", {"negative": [1, math.inf]}, "--grid negative: inf cannot be tried: .*finite"),
        ("seize", {"negative": []}, "--grid negative: there is no value to try"),
        ("seize", {"negativ": [1]}, "seize has no parameter 'negativ'.*negative"),
        ("ldre", {"drops": [0]}, "--grid drops: 0 cannot be tried"),
        ("ldre", {"drops": [5, 2.5]}, r"--grid drops: 2\.5 cannot be tried"),
        ("ldre", {"temperature": [0]}, "--grid temperature: 0 cannot be tried"),
        ("image", {}, "image has nothing to tune. Methods that have: .*seize"),
        ("seize+verify", {"accept": [1.5]}, r"--grid accept: 1\.5 cannot be tried"),
        ("seize+verify", {"negative": [1]}, r"seize\+verify has no parameter 'negative'"),
        ("sieze+verify", {}, "no method 'sieze'.*seize"),
    ],
)
def test_a_value_that_a_weight_cannot_have_is_refused(
    method: str, given: dict[str, list[float]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        grid_of(settings(method), given)


def test_cells_are_all_combinations_but_those_that_accept_below_what_they_reject() -> None:
    config = settings("seize+verify", verifier__reject=0.3)
    cells = cells_of(config, VERIFIED_GRIDS["confidence"] | {"accept": [0.2, 0.5]})
    assert {(cell["accept"], cell["reject"]) for cell in cells} == {
        *((0.5, reject) for reject in VERIFIED_GRIDS["confidence"]["reject"]),
        *((0.2, reject) for reject in (0.0, 0.01, 0.05, 0.1, 0.2)),
    }
    assert cells_of(config, {"accept": [0.2, 0.3]}) == [{"accept": 0.3}]
    assert cells_of(settings("seize"), {"positive": [0, 1], "negative": [2]}) == [
        {"positive": 0, "negative": 2},
        {"positive": 1, "negative": 2},
    ]


def test_a_grid_without_any_cell_is_refused(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run(search__method="seize+verify", verifier__fusion="confidence")
    grid = grid_of(run.config, {"accept": [0.2], "reject": [0.5]})
    with pytest.raises(ConfigError, match="accept is below reject in every cell"):
        tune.tune(run, grid, tmp_path)
