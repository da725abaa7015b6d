"""Prompts of textual inversion: YAML by benchmark, and what is refused of one's own."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.models.prompts import inversion

PARTS = ("Is red. ", "has, a  bow?")


def test_shipped_prompts_are_as_published() -> None:
    fine = ["fti4cir", "fti4cir-attributes", "fti4cir-subject"]
    assert inversion.names() == [*fine, "lincir", "pic2word", "searle"]
    used = [inversion.places(inversion.load(name).template) for name in fine]
    assert used == [["subject", "attributes"], ["attributes"], ["subject"]]
    both = inversion.load("fti4cir").form("fashioniq")
    assert both.template == "a photo of {subject} with {attributes} but {text}"
    assert both.texts(("one.", "two")) == ["one and two", "two and one"]
    for name in ("lincir", "searle"):
        prompt = inversion.load(name)
        assert prompt.source
        assert prompt.form("circo").texts(["is red."]) == ["is red."]
        one, other = "Is red", "has, a  bow"
        expected = [f"{one} and {other}", f"{other} and {one}"]
        assert prompt.form("fashioniq").texts(PARTS) == expected
        assert prompt.form("fashioniq").template == "a photo of {words} that {text}"
    pic2word = inversion.load("pic2word").form("fashioniq")
    assert pic2word.template == "a photo of {words} , {text}"
    assert pic2word.texts(("one", "two")) == ["two and one"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "a photo of {words}"}, "template: .*must hold {text} once"),
        ({"template": "{words} {words} {text}"}, "must hold {words} once"),
        ({"template": "{subject} {subject} {text}"}, "or {subject}, {attributes}"),
        ({"template": "{subject} } {text}"}, "may hold no braces"),
        ({"template": "{words} {text} {x}"}, "may hold no braces"),
        ({"template": "{words} {text}" + "x" * 1000}, "more than 1,000"),
        ({"orders": "all"}, "orders"),
        ({"by_dataset": {"circo": {"template": "{text}"}}}, "circo.template: .*{words}"),
        ({"words": 3}, "words"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named_with_its_field(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "description": "x"} | changes))
    with pytest.raises(ConfigError, match=said):
        inversion.load(str(file))
    with pytest.raises(ConfigError, match="Did you mean 'lincir'"):
        inversion.load("linzir")
