"""The five conditions beside every figure."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.run import Run
from pipeline.study import protocol
from pipeline.study.protocol import NONE, UNKNOWN, Conditions

MakeRun = Callable[..., Run]


def test_every_condition_has_its_column_in_order() -> None:
    assert list(protocol.COLUMNS) == [field.name for field in fields(Conditions)]
    assert list(Conditions().cells) == list(protocol.COLUMNS.values())
    with pytest.raises(ConfigError, match="reference is 'masekd': say masked, kept"):
        Conditions(reference="masekd")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, ("masked", "no", NONE, "150", "training-free")),
        ({"search__exclude_reference": False}, ("kept", "no", NONE, "150", "training-free")),
        ({"dataset__shared_concept": True}, ("masked", "yes", NONE, "150", "training-free")),
        # The concept is told to the LLM: a method that asks none has no use for it.
        (
            {"dataset__shared_concept": True, "search__method": "image"},
            ("masked", "no", NONE, "150", "training-free"),
        ),
        ({"search__method": "seize+lincir"}, ("masked", "no", NONE, "150", "trained")),
        ({"search__method": "pdv+verify"}, ("masked", "no", NONE, "150", "training-free")),
    ],
)
def test_a_runs_conditions(
    make_run: MakeRun, overrides: dict[str, Any], expected: tuple[str, ...]
) -> None:
    run = make_run("circo", **overrides)
    found = protocol.of_run(run)
    assert tuple(found.as_json().values()) == expected
    header = {"protocol": run.protocol, "method": run.config.search.method}
    assert protocol.of_header(run.dataset, header) == found


def test_fashioniq_tells_its_split_and_the_size_of_each_gallery(make_run: MakeRun) -> None:
    run = make_run("fashioniq", search__method="text")
    sizes = [f"{len(images):,}" for images in run.dataset.galleries.values()]
    found = protocol.of_run(run)
    shown = sizes[0] if len(set(sizes)) == 1 else " / ".join(sizes)
    assert (found.concept, found.fashioniq_split, found.gallery_size) == (NONE, "original", shown)
    union = dict(run.protocol) | {"gallery": "union"}
    other = protocol.of_header(run.dataset, {"protocol": union, "method": "text"})
    assert (other.fashioniq_split, other.gallery_size) == ("union", UNKNOWN)


@pytest.mark.parametrize("method", ["no-such-method", "all", 3, None])
@pytest.mark.parametrize("settings", [None, "text", {"exclude_reference": [1]}, {"gallery": {}}])
def test_what_a_file_does_not_tell_is_unknown(
    make_run: MakeRun, settings: Any, method: Any
) -> None:
    run = make_run("circo")
    found = protocol.of_header(run.dataset, {"protocol": settings, "method": method})
    assert (found.reference, found.concept, found.training) == (UNKNOWN,) * 3


def test_a_method_of_several_parts_took_the_most_that_one_of_them_took() -> None:
    assert protocol.most_trained(()) == "training-free"
    assert protocol.most_trained(["few-label", "training-free"]) == "few-label"
    assert protocol.most_trained(["trained", "few-label"]) == "trained"
