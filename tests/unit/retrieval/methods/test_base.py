"""Weights of methods: where each comes from, and what is refused."""

import math
from typing import Any

import pytest

from pipeline import config
from pipeline.config import OWN_IMAGES, Config, SearchConfig
from pipeline.errors import ConfigError
from pipeline.retrieval import methods
from pipeline.retrieval.methods.base import METHODS, steps
from pipeline.retrieval.methods.increment import Increment
from pipeline.retrieval.methods.ldre import Ldre
from pipeline.retrieval.methods.sdr import Sdr

DATASETS = ("circo", "cirr", "fashioniq")


def demo(**search: Any) -> Config:
    """A configuration with sections of weights and nothing else of a preset."""
    return config.load("demo").model_copy(update={"search": SearchConfig(**search)})


def increment(given: dict[str, Any], dataset: str) -> tuple[float, float]:
    found = methods.section(demo(increment=given), Increment, dataset)
    assert isinstance(found, Increment)
    return found.positive, found.negative


def test_defaults_are_the_sections_by_dataset_where_it_has_some() -> None:
    assert increment({}, "circo") == (0.13, 2.1)
    assert increment({}, "cirr") == (0.22, 1.0)
    assert increment({}, "another") == increment({}, OWN_IMAGES) == (0.13, 2.1)


def test_what_is_set_for_all_counts_before_defaults_and_for_one_before_that() -> None:
    given = {"positive": 0.5, "cirr": {"negative": 3.0}}
    assert increment(given, "circo") == (0.5, 2.1)
    assert increment(given, "cirr") == (0.5, 3.0)
    assert increment(given | {"cirr": {"positive": 0.0}}, "cirr") == (0.0, 1.0)


@pytest.mark.parametrize("key", ["search.sdr.anchor", "search.sdr.circo.anchor"])
def test_one_weight_is_set_without_the_others(key: str) -> None:
    settings = config.load("demo", {key: 0.2})
    methods.check(settings, DATASETS)
    assert methods.section(settings, Sdr, "circo").model_dump() == {"anchor": 0.2, "debias": 0.35}


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"increment": {"positiv": 1}}, r"search.increment has no 'positiv': .*positive"),
        ({"increment": {"cicro": {"positive": 1}}}, r"has no 'cicro': .*circo"),
        ({"increment": {"circo": 1}}, r"search.increment.circo must hold weights"),
        ({"increment": {"circo": {"positiv": 1}}}, r"search\.increment\.positiv"),
        ({"increment": 1}, r"search.increment must hold weights"),
        ({"incremen": {"positive": 1}}, r"search has no 'incremen'.*increment"),
        ({"increment": {"positive": math.nan}}, r"search\.increment\.positive.* finite"),
        ({"increment": {"negative": math.inf}}, r"search\.increment\.negative.* finite"),
        ({"increment": {"cirr": {"negative": -math.inf}}}, r"search\.increment\.negative.* finite"),
        ({"ldre": {"drops": 0}}, r"search\.ldre\.drops"),
        ({"ldre": {"drops": 2.5}}, r"search\.ldre\.drops"),
        ({"ldre": {"temperature": 0}}, r"search\.ldre\.temperature"),
        ({"drops": 5}, r"search\.drops is now search\.ldre\.drops"),
    ],
)
def test_a_wrong_section_is_refused_whichever_method_uses_it(
    search: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        methods.check(demo(**search), DATASETS)


def test_every_weight_has_a_label_and_tuning_tries_values_it_can_have() -> None:
    for method in METHODS.values():
        for kind in method.sections:
            for field in kind.model_fields:
                assert kind.label(field) != field
        for name, values in method.tuned.items():
            assert len(values) > 1
            for value in values:
                methods.validated(method.weights[name], {name: value})


def test_alphas_are_set_for_one_dataset_alone() -> None:
    changed = methods.with_increment(demo(), "cirr", None, 4.0)
    assert methods.section(changed, Increment, "cirr").model_dump()["negative"] == 4.0
    assert methods.section(changed, Increment, "circo").model_dump()["negative"] == 2.1
    with pytest.raises(ConfigError, match="image has no increment"):
        methods.with_increment(demo(method="image"), "cirr", 1.0, None)


def test_steps_hold_both_ends_without_the_dust_of_sums() -> None:
    assert steps(0, 0.3, 0.1) == [0, 0.1, 0.2, 0.3]
    assert Ldre.grid()["drops"] == [1, 2, 5, 10, 20, 50]
