"""Prompts of the synthesize stage: JSON in and out, and files that name what is wrong."""

import json
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.models.prompts import synthesize as prompts


@pytest.mark.parametrize("name", prompts.names())
def test_every_prompt_of_the_project_asks_for_what_its_answer_holds(name: str) -> None:
    prompt = prompts.load(name)
    texts = {v: f"<{v}>" for v in prompt.task.variables}
    asked = prompt.messages(texts)[-1]["content"]
    assert all(f"<{variable}>" in asked for variable in prompt.task.needed)
    fields = dict.fromkeys(prompt.task.fields, "is red")
    assert prompt.read(json.dumps(fields)) == (fields, None)
    assert list(prompt.answer_schema["properties"]) == list(prompt.task.fields)
    if not name.startswith("demo"):  # a small model knows the words by training
        said = " ".join(message["content"] for message in prompt.messages(texts))
        assert all(f'"{field}"' in said for field in prompt.task.fields)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("a star", "the answer was no JSON with text and text_reverse"),
        ('{"text": "is red"}', "the answer was no JSON with text and text_reverse"),
        ('{"text": "is red", "text_reverse": 3}', "the answer was no JSON with text and"),
        ('["is red"]', "the answer was no JSON with text and text_reverse"),
        ('{"text": "is red", "text_reverse": " "}', "text_reverse was empty"),
        ('{"text": "", "text_reverse": ""}', prompts.NOTHING),
        ("<think>hmm", "the answer was cut off while thinking"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(answer: str, reason: str) -> None:
    fields, said = prompts.load("difference").read(answer)
    assert fields == {}
    assert said is not None and said.startswith(reason)  # noqa: PT018


def test_chatter_thoughts_and_the_spaces_of_small_tokenizers_are_read_past() -> None:
    said = '{ " text " : " is red . " , " text_reverse " : " is blue " } '
    answer = f'<think>{{"no": 1}}</think> Yes: {said}'
    found = {"text": "is red.", "text_reverse": "is blue"}
    assert prompts.load("difference").read(answer) == (found, None)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("name: x\ndescription: x\nway: pair\nuser: '{{ source }}'", "target"),
        ("name: x\ndescription: x\nway: pear\nuser: '{{ source }}'", "way"),
        ("name: x\ndescription: x\nway: caption\nuser: '{{ source }} {{ text }}'", "text"),
        ("name: x\ndescription: x\nway: caption\nuser: '{% for x in y %}{% endfor %}'", "for"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=named):
        prompts.load(str(file))
