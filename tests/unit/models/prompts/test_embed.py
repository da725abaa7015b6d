"""Prompts of joint embedding."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.models.prompts import embed


def test_the_prompts_that_come_with_the_project_say_the_change() -> None:
    assert {"change", "concept"} <= set(embed.names())
    for name in embed.names():
        prompt = embed.load(name)
        assert "a red car" in prompt.said("a red car", "a road")
        assert ("a road" in prompt.said("a red car", "a road")) == prompt.uses_concept


def test_circos_query_is_worded_as_megapairs_released_it() -> None:
    said = embed.load("concept").said("has two dogs", "shows a beach")
    assert said == "Find a picture that also shows a beach, but has two dogs."


def test_braces_in_a_caption_are_no_variables() -> None:
    assert embed.load("change").said("{{ x }} {% y") == "{{ x }} {% y"


@pytest.mark.parametrize(
    ("text", "said"),
    [("nothing", "must use"), ("{{ other }} {{ relative_caption }}", "unknown variable")],
)
def test_a_prompt_that_cannot_be_used_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"name: own\ndescription: x\ninstruction: Find it.\ntext: '{text}'\n")
    with pytest.raises(ConfigError, match=said):
        embed.load(str(file))
