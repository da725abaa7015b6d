"""Set logic on candidate lists, and the plans that it follows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.models.prompts import decompose as prompts
from pipeline.models.prompts.decompose import Atom, Plan, of_roles
from pipeline.retrieval.plans import Join, Planned, joined
from pipeline.retrieval.pool import Pool, fuse

IMAGES = [f"i{number}" for number in range(9)]
LIST = st.lists(st.sampled_from(IMAGES), min_size=1, max_size=9, unique=True).map(
    lambda images: {image: -float(place) for place, image in enumerate(images)}
)
JOIN: st.SearchStrategy[Join] = st.sampled_from(["union", "intersection"])


@given(st.lists(LIST, min_size=1, max_size=3), st.lists(LIST, max_size=2), JOIN, st.integers(0, 9))
def test_set_logic_orders_what_is_in_the_set_before_all_else(
    good: list[dict[str, float]], bad: list[dict[str, float]], join: Join, removed: int
) -> None:
    settings = Planned(removed=removed)
    wanted = [True] * len(good) + [False] * len(bad)
    found = joined([*good, *bad], wanted, join, settings)
    union, every = set().union(*good), set.intersection(*map(set, good))
    gone = {image for scores in bad for image in list(scores)[:removed]}
    first = (every if join == "intersection" else union) - gone
    order = list(found)
    assert set(order) == union, "a ranking is as long as it can be"
    assert set(order[: len(first)]) == first
    assert set(order[len(order) - len(union & gone) :]) == union & gone, "taken away: last"
    assert list(found.values()) == sorted(found.values(), reverse=True)
    fused = list(fuse(good, Pool(k=settings.k), [1.0] * len(good)))
    assert order[: len(first)] == [image for image in fused if image in first]


def test_the_worked_example() -> None:
    red, round_, dog = {"a": 3.0, "b": 2.0, "c": 1.0}, {"c": 9.0, "b": 8.0}, {"b": 1.0, "a": 0.5}
    settings = Planned(removed=1)
    both = [True, True]
    assert list(joined([red, round_], both, "union", settings)) == ["c", "b", "a"]
    assert list(joined([red, round_], both, "intersection", settings)) == ["c", "b", "a"]
    without = joined([red, round_, dog], [*both, False], "union", settings)
    assert list(without) == ["c", "a", "b"], "b is what is nearest to the unwanted text"


def test_roles_are_a_plan_and_nothing_is_the_image_alone() -> None:
    plan = of_roles(["red star", "red", "red star"], ["two dots"], ["blue star"])
    assert plan.retrievals == (
        Atom(by="both", text="red star"),
        Atom(by="both", text="red"),
        Atom(by="text", text="two dots"),
        Atom(by="text", text="blue star", wanted=False),
    )
    assert of_roles([], [" "], []).retrievals == (Atom(by="image"),)
    assert len(of_roles(["x" * 999] * 3, list("abc"), list("def")).retrievals) <= prompts.MOST


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("I would search for a dog.", "no JSON"),
        ('{"retrievals": [], "join": "union"}', "cannot be used"),
        ('{"retrievals": [{"by": "text", "text": "", "wanted": true}]}', "has a text"),
        ('{"retrievals": [{"by": "image", "text": "a dog", "wanted": true}]}', "has none"),
        ('{"retrievals": [{"by": "text", "text": "a", "wanted": false}]}', "nothing is wanted"),
        ('{"retrievals": [{"by": "sound", "text": "a", "wanted": true}]}', "cannot be used"),
        ("<think>so {", "cut off"),
    ],
)
def test_an_answer_that_is_no_plan_has_a_reason(answer: str, said: str) -> None:
    fields, reason = prompts.load("atomic").read(answer)
    assert fields == {}
    assert reason is not None
    assert said in reason


def test_the_schema_allows_what_a_plan_may_be() -> None:
    prompt = prompts.load("atomic")
    plan = {
        "retrievals": [
            {"by": "both", "text": " a red dog ", "wanted": True},
            {"by": "image", "text": "", "wanted": True},
        ],
        "join": "intersection",
    }
    fields, reason = prompt.read(f"Here it is: {json.dumps(plan)}")
    assert reason is None
    found = Plan.model_validate_json(fields["plan"])
    assert (found.texts, found.join) == (["a red dog"], "intersection")
    schema = prompt.answer_schema
    assert schema["required"] == ["retrievals", "join"]
    atom = schema["properties"]["retrievals"]["items"]
    assert set(atom["properties"]) == set(Atom.model_fields)
    with pytest.raises(ValidationError, match="at most 6"):
        Plan(retrievals=(Atom(by="image"),) * 7)
