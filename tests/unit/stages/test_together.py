"""All captions of a query edited by one call."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.models.answers import CHATTER, json_object
from pipeline.models.llms import Answer
from pipeline.models.prompts import edit as prompts
from pipeline.run import Run
from pipeline.stages import asking, caption, edit, editor, plan, together
from pipeline.stages.editor import Pair, judge
from tests.stub import Running, Stub

MakeRun = Callable[..., Run]
PROMPT = prompts.load("together")


def captions_of(asked: str) -> list[str]:
    """Return the descriptions in a prompt, which stand there as JSON."""
    return list(json_object(asked).values())


def edits_of(asked: str) -> list[str]:
    """Return an edit of each description in a prompt."""
    return [f"{one} on a beach" for one in captions_of(asked)]


def numbered(edits: Sequence[Any], first: int = 1) -> str:
    """Return an answer with a number before each edit."""
    return json.dumps({str(number): edit for number, edit in enumerate(edits, first)})


def all_of_them(asked: str) -> str:
    return numbered(edits_of(asked))


@pytest.fixture
def server() -> Iterator[Running]:
    """A server that edits whatever is listed."""
    running = Running(Stub(answer=all_of_them))
    yield running
    running.stop()


@pytest.fixture
def run(make_run: MakeRun, server: Running) -> Run:
    """A run with captions, whose edits are asked for together."""
    made = make_run(llm__model="echo", llm__url=server.url, llm__prompt="together")
    caption.caption(made)
    return made


def asked(server: Running) -> list[list[str]]:
    """Return the descriptions in each request."""
    return [captions_of(body["messages"][-1]["content"]) for body in server.stub.seen]


def test_one_call_a_query_gives_every_caption_its_own_edit(run: Run, server: Running) -> None:
    report = edit.edit(run)
    captions = caption.read(run)
    groups = edit.groups(run, captions)
    assert sorted(asked(server)) == sorted([p.caption for p in group] for group in groups)
    assert len(server.stub.seen) < len(edit.pairs(run, captions)) / 3
    assert report.computed == len(edit.pairs(run, captions))
    assert not report.failed
    made = edit.read(run)
    for query in run.queries:
        assert made[query.id] == [f"{text} on a beach" for text in captions[query.id]]
    for body in server.stub.seen:
        count = len(captions_of(body["messages"][-1]["content"]))
        schema = body["response_format"]["json_schema"]["schema"]
        assert schema["required"] == [str(number) for number in range(1, count + 1)]
        assert list(schema["properties"]) == schema["required"]
        assert not schema["additionalProperties"]
        assert body["max_tokens"] == count * PROMPT.max_tokens + prompts.BESIDE


def test_it_has_a_file_of_its_own_and_the_default_keeps_its(run: Run, make_run: MakeRun) -> None:
    usual = make_run(llm__model="echo", llm__prompt="seize")
    assert edit.record_file(run).file != edit.record_file(usual).file
    assert "answer" not in edit.settings(usual.config)["prompt"]


def wrong(kind: str) -> Callable[[str], str]:
    """Return a model that is wrong about lists, and right where it is asked about one caption."""

    def answer(asked: str) -> str:
        edits = edits_of(asked)
        if len(edits) == 1:
            return all_of_them(asked)
        said: dict[str, str] = {
            "one too few": numbered(edits[:-1]),
            "one too many": numbered([*edits, "a cat"]),
            "numbered from 0": numbered(edits, 0),
            "no texts": numbered(range(len(edits))),
            "the captions again": numbered(captions_of(asked)),
            "a list too short": json.dumps(edits[:-1]),
            "chatter": "Sure! Here are the edited descriptions you asked for.",
            "an object too deep": json.dumps({"edits": dict(enumerate(edits))}),
            "nothing": "",
            "nested": "[" * 100_000,
            "nested objects": '{"1":' * 100_000,
        }
        return said[kind]

    return answer


@pytest.mark.parametrize(
    "kind",
    [
        *("one too few", "one too many", "numbered from 0", "no texts", "the captions again"),
        *("a list too short", "chatter", "an object too deep", "nothing", "nested"),
        "nested objects",
    ],
)
def test_a_wrong_list_is_refused_and_each_caption_asked_for_alone(
    run: Run, server: Running, kind: str
) -> None:
    server.stub.answer = wrong(kind)
    some = list(edit.groups(run, caption.read(run)))[:2]
    todo = [pair for group in some for pair in group]
    made = list(asking.ask(editor.Editor(run.config, some), todo))
    assert {one.key: one.text for one in made} == {p: f"{p.caption} on a beach" for p in todo}
    assert [len(listed) for listed in asked(server) if len(listed) > 1] == [len(g) for g in some]
    assert sum(len(listed) == 1 for listed in asked(server)) == len(todo)


def test_edits_go_by_their_numbers_whatever_their_order() -> None:
    said = '{"2": "two", "10": "ten", "1": "one", ' + ", ".join(
        f'"{number}": "{number}"' for number in range(3, 10)
    )
    assert PROMPT.edits(said + "}", 10) == ["one", "two", *"3456789", "ten"]


def test_an_edit_that_is_missing_is_asked_for_alone_and_counted_where_it_stays_so(
    run: Run, server: Running
) -> None:
    captions = caption.read(run)
    lost = edit.groups(run, captions)[0][2].caption

    def answer(asked: str) -> str:
        return numbered(["" if one == f"{lost} on a beach" else one for one in edits_of(asked)])

    server.stub.answer = answer
    report = edit.edit(run)
    alone = [listed for listed in asked(server) if len(listed) == 1]
    assert [lost] in alone
    assert all(listed == [lost] for listed in alone)
    assert report.failed
    assert {name.split(" | ")[0] for name in report.failed} == {lost}
    assert set(report.failed.values()) == {"the answer was empty"}
    before = len(server.stub.seen)
    server.stub.answer = all_of_them
    again = edit.edit(run, retry_failed=True)
    assert not again.failed
    assert again.computed == len(report.failed)
    # The whole group is asked for, as at first, and only what was missing is kept.
    assert all(lost in listed and len(listed) > 1 for listed in asked(server)[before:])


def test_a_stopped_run_asks_for_the_same_lists_and_ends_with_the_same_edits(
    run: Run, server: Running
) -> None:
    edit.edit(run)
    whole = edit.read(run)
    file = edit.record_file(run).file
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:8]))  # the header, and half of the first query's edits
    first = {frozenset(listed) for listed in asked(server)}
    server.stub.seen.clear()
    report = edit.edit(run)
    assert report.cached == 7
    assert {frozenset(listed) for listed in asked(server)} <= first
    assert edit.read(run) == whole


def test_equal_pairs_of_two_queries_are_kept_of_the_first() -> None:
    one, two, three = (Pair(text, "is red") for text in "abc")
    first, second = (one, two), (two, three)
    found = together.calls([first, second], {one, two, three})
    assert found == [together.Asked(first, (one, two)), together.Asked(second, (three,))]
    assert together.calls([first, second], {two}) == [together.Asked(first, (two,))]
    assert together.calls([first, second], {three}) == [together.Asked(second, (three,))]
    assert together.groups([one, Pair("a", "is blue"), two, one]) == [
        (one, two),
        (Pair("a", "is blue"),),
    ]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('{"1": "a red dog"}', ("a red dog", None)),
        ('{ " 1 " : " a red dog " }', ("a red dog", None)),
        ('{"edits": ["a red dog"]}', ("a red dog", None)),
        ('["a red dog"]', ("a red dog", None)),
        ('```json\n{"1": "Edited Description: a red dog"}\n```', ("a red dog", None)),
        ('{"1": "I cannot see the image."}', (None, CHATTER)),
        ('{"1": " "}', (None, "the answer was empty")),
        ('{"1": "a", "2": "b"}', (None, prompts.NO_EDITS)),
        ('{"2": "a"}', (None, prompts.NO_EDITS)),
        ('["a", "b"]', (None, prompts.NO_EDITS)),
        ("a red dog", (None, prompts.NO_EDITS)),
        ("<think>a list", (None, "the answer was cut off while thinking")),
        ('{"1": "a dog"}', ("a dog", None)),
        ('{"1": "Instruction: is red"}', (None, "the answer repeats the prompt")),
    ],
)
def test_one_edit_is_read_strictly(said: str, expected: tuple[str | None, str | None]) -> None:
    assert judge(PROMPT, Pair("a dog", "is red"), Answer(0, said)) == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": "{{ caption }} {{ relative_caption }}"}, "user does not use {{ captions }}"),
        ({"user": "{{ captions }}"}, "user does not use {{ relative_caption }}"),
        ({"answer": "text"}, "user does not use {{ caption }}"),
        ({"system": "{{ caption }}"}, "answer together does not go with {{ caption }}"),
        (
            {"examples": [{"caption": "a", "relative_caption": "b", "edited_caption": "c"}]},
            "examples are of single edits",
        ),
    ],
)
def test_a_prompt_is_for_one_caption_or_for_all(
    tmp_path: Any, changed: dict[str, Any], message: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(PROMPT.model_dump() | changed))
    with pytest.raises(ConfigError, match=re.escape(message)):
        prompts.load(str(file))


def test_the_plan_counts_calls(run: Run) -> None:
    def line(what: str) -> tuple[int, int]:
        (found,) = [one for one in plan.plan(run) if (one.stage, one.quantity) == ("edit", what)]
        return int(found.total), int(found.cached)

    calls = len(edit.groups(run, caption.read(run)))
    assert line("distinct prompts") == (calls, 0)
    edit.edit(run)
    assert line("distinct prompts") == (calls, calls)
