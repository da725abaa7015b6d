"""Prompts render as their sources say and answers are cleaned."""

import itertools
import json
import re
from pathlib import Path

import pytest

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.models.prompts import edit as prompts
from pipeline.models.prompts import verify as questions


@pytest.mark.parametrize("name", prompts.names())
def test_every_prompt_mentions_caption_and_relative_caption(name: str) -> None:
    last = prompts.load(name).messages("a CAPTION", "a CHANGE")[-1]
    assert last["role"] == "user"
    assert "a CAPTION" in last["content"]
    assert "a CHANGE" in last["content"]


def test_seizes_prompt_is_laid_out_as_released() -> None:
    system, user = prompts.load("seize").messages("a dog", "is a cat")
    assert system["content"].startswith("I have an image. Given an instruction to edit the image,")
    assert user["content"].startswith('I will put my image content beginning with "Image Content:"')
    assert user["content"].endswith(
        "Edited Description: a woman adjusting a man's tie.\n\n"
        "Image Content: a dog\nInstruction: is a cat\nEdited Description:"
    )


def test_worked_examples_become_turns() -> None:
    roles = [message["role"] for message in prompts.load("cirevl").messages("a", "b")]
    assert roles == ["system", *["user", "assistant"] * 3, "user"]


@pytest.mark.parametrize(
    ("answer", "cleaned"),
    [
        ("a cat on a mat", "a cat on a mat"),
        ("Edited Description: a cat", "a cat"),
        ("**Edited Description:** a cat", "a cat"),
        ("edited description:\n\na cat\nand an explanation", "a cat"),
        ('"a cat"', "a cat"),
        ("  “a cat.”\n", "a cat."),
        ("Edited Description:", ""),
        ("\n \n", ""),
    ],
)
def test_answers_are_cleaned(answer: str, cleaned: str) -> None:
    assert prompts.load("seize").clean(answer) == cleaned


def test_a_caption_is_text_never_a_template() -> None:
    message = prompts.load("seize").messages("{{ 7 * 7 }}", "{% raw %}")[-1]["content"]
    assert "{{ 7 * 7 }}" in message
    assert "{% raw %}" in message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("name: x\ndescription: y\nuser: '{{ capton }}'", "capton"),
        ("name: x\ndescription: y", "user"),
        ("name: x\ndescription: y\nuser: '{{ caption'", "Jinja"),
        (
            "name: x\ndescription: y\nuser: '{{ caption }} {{ relative_caption }}'\nstyle: a",
            "style",
        ),
        (
            "name: x\ndescription: y\nuser: z",
            "does not use {{ caption }} and {{ relative_caption }}",
        ),
        ("name: x\ndescription: y\nuser: '{{ caption }}'", "does not use {{ relative_caption }}"),
        ("name: [", "cannot be read"),
    ],
)
def test_bad_prompts_name_the_problem(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(named)):
        prompts.load(str(file))


def test_an_unknown_prompt_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'seize'"):
        prompts.load("seise")


ROLES_ANSWER = (
    '{"target": "a red star", "desired": ["red star"], "preserve": ["dark background", " "], '
    '"forbidden": []}'
)


@pytest.mark.parametrize(
    "answer",
    [
        ROLES_ANSWER,
        f"<think>{{hm}}</think>Sure:\n```json\n{ROLES_ANSWER}\n```",
        ROLES_ANSWER.replace('"', ' " '),  # as a small tokenizer decodes it
    ],
)
def test_an_answer_with_roles_is_read_from_what_is_around_it(answer: str) -> None:
    prompt = prompts.load("roles")
    assert prompt.fields(answer) == {
        "target": ["a red star"],
        "desired": ["red star"],
        "preserve": ["dark background"],
        "forbidden": [],
    }
    assert prompt.clean(answer) == "a red star"


@pytest.mark.parametrize(
    "answer",
    [
        "a red star",
        '{"target": "a red star"}',
        '{"target": 3, "desired": [], "preserve": [], "forbidden": []}',
        '{"target": "x", "desired": [1], "preserve": [], "forbidden": []}',
        '{"target": "x", "desired": "red", "preserve": [], "forbidden": []}',
        '{"target": "x", "desired": null, "preserve": [], "forbidden": []}',
        "[]}{",
        '{"target": "a red st',
    ],
)
def test_an_answer_without_all_roles_is_none(answer: str) -> None:
    assert prompts.load("roles").fields(answer) is None
    assert prompts.load("roles").clean(answer) == ""


def test_the_schema_names_every_field_and_only_prompts_with_roles_have_one() -> None:
    schema = prompts.load("roles").answer_schema
    assert schema is not None
    assert schema["required"] == ["target", *prompts.ROLES]
    assert prompts.load("seize").answer_schema is None


def test_prompts_without_roles_keep_the_fingerprint_of_their_edits() -> None:
    assert "answer" not in prompts.load("seize").identity
    assert prompts.load("roles").identity["answer"] == "roles"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{{ 10**10**10 }}",
        "{{ caption | truncate(1, true, caption) }}",
        "{{ caption | truncate('x') }}",
        "{{ lipsum }}",
        "{{ cycler }}",
        "{{ self }}",
        "{{ namespace }}",
        "{{ joiner }}",
        "{{ dict }}",
        "{{ range }}",
        "{{ loop }}",
        "{{ varargs }}",
        "{{ caption * 10**9 }}",
        "{{ caption.__class__.__mro__ }}",
        "{{ caption['__class__'] }}",
        "{{ caption | attr('__class__') }}",
        "{{ caption | replace('a', 'aaaaaaaa') }}",
        "{{ caption | center(10**9) }}",
        "{{ range(10**9) | list }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{% macro x() %}{{ x() }}{% endmacro %}{{ x() }}",
        "{% set x = caption ~ caption %}{{ x }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% call x() %}{% endcall %}",
        "{{ " + "(" * 5000 + "caption" + ")" * 5000 + " }}",
        "{% if caption %}" * 300 + "{% endif %}" * 300,
    ],
)
def test_a_template_can_neither_compute_nor_reach_out(tmp_path: Path, template: str) -> None:
    file = tmp_path / "bad.yaml"
    edit = (prompts.load, "{{ caption }} {{ relative_caption }} ")
    verify = (questions.load, "{{ edited_caption }} ")
    for load, user in (edit, verify):
        for field in ("user", "system"):
            content = {"name": "x", "description": "y", "user": user}
            content[field] = content.get(field, "") + template
            file.write_text(json.dumps(content))
            wrong = "may hold|not a Jinja|unknown variable|cannot be used"
            with pytest.raises(ConfigError, match=rf"bad\.yaml: {field}: .*({wrong})"):
                load(str(file))


def test_a_template_may_choose_and_trim(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    user = "{{ caption | trim | truncate(9) }}{% if relative_caption == 'x' %} X{% endif %}"
    file.write_text(json.dumps({"name": "x", "description": "y", "user": user}))
    prompt = prompts.load(str(file))
    assert prompt.messages(" a very long caption ", "x")[-1]["content"] == "a... X"


def test_a_prompt_has_an_end() -> None:
    with pytest.raises(ConfigError, match="more than 1,000,000 characters"):
        prompts.load("seize").messages("a" * 10_000_000, "b")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}, *{p}, *{p}]\n"
         for p, c in itertools.pairwise("abcdefghijklmnopq")), "more than 100,000 values"),
        ("a: &a [*a]", "more than 100,000 values"),
        ("[" * 5000, "recursion"),
        ("!!python/object/apply:os.system ['true']", "constructor"),
        ("a: 2001-99-99", "month"),
        ("a: !!int ''", "cannot be read"),
        ("a: !!timestamp x", "cannot be read"),
        ("x" * 300_000, "more than 262,144 bytes"),
        ("a: \x07", "special characters"),
        ('a: "\\ud800"', "surrogates not allowed"),
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    for load in (prompts.load, config.load):
        with pytest.raises(ConfigError, match=rf"bad\.yaml .*{reason}"):
            load(str(file))


def test_a_system_turn_is_a_template_too(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    content = {
        "name": "x",
        "description": "y",
        "system": " Change {{ caption }}. {% if shared_concept %}All show {{ shared_concept }}."
        "{% endif %}",
        "user": "{{ caption }}: {{ relative_caption }}",
    }
    file.write_text(json.dumps(content))
    prompt = prompts.load(str(file))
    assert prompt.variables == {"caption", "relative_caption", "shared_concept"}
    assert [m["content"] for m in prompt.messages("a {{ cat }}", "is a dog", "a pet")] == [
        "Change a {{ cat }}. All show a pet.",
        "a {{ cat }}: is a dog",
    ]
    content |= {"system": "Look for {{ relative_caption }}.", "user": "{{ edited_caption }}?"}
    file.write_text(json.dumps(content))
    question = questions.load(str(file))
    assert question.variables == {"edited_caption", "relative_caption"}
    system, user = question.messages([], "a dog", "is a dog")
    assert (system["role"], system["content"]) == ("system", "Look for is a dog.")
    assert user["content"] == [{"type": "text", "text": "a dog?"}]


def test_a_filter_that_fails_at_a_text_is_the_prompts_fault(tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    user = "{{ caption }} {{ relative_caption | truncate(20, true, relative_caption) }}"
    file.write_text(json.dumps({"name": "x", "description": "y", "user": user}))
    prompt = prompts.load(str(file))  # fine for short texts
    with pytest.raises(ConfigError, match=r"truncate\(20.* cannot be used: expected length >="):
        prompt.messages("a cat", "is much longer than twenty characters")
