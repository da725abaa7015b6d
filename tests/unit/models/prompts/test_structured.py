"""Prompts whose answers are JSON: their chats, and what is read out of an answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import answers
from pipeline.models.prompts.structured import StructuredPrompt

PROMPT = StructuredPrompt(
    name="a", description="b", source="c", system="Be {{ mood }}.", user=" Say {{ word }}. "
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def test_a_chat_has_a_system_turn_where_there_is_something_to_say() -> None:
    turns = PROMPT.turns({"mood": "brief", "word": "{{ mood }}"})
    assert turns == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say {{ mood }}."},
    ]
    bare = PROMPT.model_copy(update={"system": ""})
    assert [turn["role"] for turn in bare.turns({"word": "x"})] == ["user"]


def test_what_people_read_enters_no_fingerprint() -> None:
    assert PROMPT.identity == {"name": "a", "system": "Be {{ mood }}.", "user": " Say {{ word }}. "}


@given(st.dictionaries(st.text(), VALUES))
def test_an_object_is_found_whatever_chatter_stands_around_it(found: dict[str, object]) -> None:
    assert answers.json_object(f"Sure: {json.dumps(found)} Anything else?") == found


@pytest.mark.parametrize("answer", ["", "no braces", "} {", "{half", "{not: json}"])
def test_what_holds_no_object_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        answers.json_object(answer)
