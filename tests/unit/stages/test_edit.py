"""What the edit stage records when an LLM answers badly. The LLM is a stand-in that misbehaves."""

import re
from collections.abc import Callable, Iterator, Sequence

import pytest

from pipeline.errors import ConfigError, ModelError
from pipeline.models import llms
from pipeline.models.answers import CHATTER, CUT_OFF
from pipeline.models.llms import Answer, Request
from pipeline.models.prompts import edit as prompts
from pipeline.run import Run
from pipeline.stages import asking, caption, edit, editor
from pipeline.stages.editor import Pair
from tests.stub import Running, Stub, Thinking


class Moody:
    """Answers nothing at first to every third request, and never to those about stars."""

    def __init__(self) -> None:
        self.temperatures: list[float] = []

    def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
        for request in requests:
            self.temperatures.append(request.temperature)
            text = request.messages[-1]["content"]
            if "star" in text:
                yield Answer(request.key, "Edited Description:")
            elif request.seed == 0 and request.key % 3 == 0:
                yield Answer(request.key, " \n")
            elif request.key % 7 == 1:
                yield Answer(request.key, None, "HTTP 400: too long")
            else:
                yield Answer(request.key, f"Edited Description: cat {request.key}\nor a dog")


def test_empty_answers_are_retried_then_recorded_with_their_reason(
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = make_run()
    caption.caption(run)
    moody = Moody()
    monkeypatch.setattr(llms, "load", lambda *_: moody)
    report = edit.edit(run)
    caplog.clear()
    assert edit.edit(run).computed == 0
    assert "edits failed before, most of them: the answer was empty" in caplog.text
    assert edit.why_missing(run) == "the answer was empty"
    captions, answers = caption.read(run), edit.read(run)
    wanted = edit.pairs(run, captions)
    edits = {
        pair: text
        for query in run.queries
        for pair, text in zip(
            edit.query_pairs(run, query, captions), answers[query.id], strict=True
        )
    }
    assert set(edits) == set(wanted)
    assert None in edits.values()
    assert all(re.fullmatch(r"cat \d+", text) for text in edits.values() if text)
    starred = [pair for pair in wanted if "star" in " ".join(pair[:2])]
    assert starred
    assert all(edits[pair] is None for pair in starred)
    assert "the answer was empty" in report.failed.values()
    assert "HTTP 400: too long" in report.failed.values()
    assert report.computed == len(wanted)
    # A greedy LLM would repeat itself, so retries are sampled.
    assert set(moody.temperatures) == {0.0, asking.RETRY_TEMPERATURE}
    assert edit.edit(run).computed == 0


def test_pairs_are_distinct_and_fashioniqs_captions_are_joined(
    make_run: Callable[..., Run],
) -> None:
    run = make_run("fashioniq")
    query = run.queries[0]
    captions = {query.id: ["a dress", "a dress", "a gown"] for query in run.queries}
    pairs = edit.pairs(run, captions)
    assert len(pairs) == len(set(pairs))
    assert Pair("a dress", " and ".join(query.relative_captions)) in pairs
    glued = make_run("fashioniq", dataset__caption_separator="")
    assert Pair("a dress", "".join(query.relative_captions)) in edit.pairs(glued, captions)
    both = make_run("fashioniq", dataset__both_orders=True)
    first, second = query.relative_captions
    of_query = edit.query_pairs(both, query, captions)
    assert [pair.relative_caption for pair in of_query] == (
        [f"{first} and {second}"] * 3 + [f"{second} and {first}"] * 3
    )


def test_failed_edits_are_tried_again_only_when_asked(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    caption.caption(run)
    monkeypatch.setattr(llms, "load", lambda *_: Moody())
    failed = edit.edit(run).failed
    assert failed
    assert edit.edit(run).computed == 0

    class Good:
        def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
            return (Answer(r.key, f"Edited Description: a dog {r.key}") for r in requests)

    monkeypatch.setattr(llms, "load", lambda *_: Good())
    before = edit.record_file(run).file.read_bytes()
    again = edit.edit(run, retry_failed=True)
    assert again.computed == len(failed)
    assert not again.failed
    assert all(text for texts in edit.read(run).values() for text in texts)
    assert edit.record_file(run).file.read_bytes().startswith(before)  # nothing was lost


PAIR = Pair("a cat on a sofa", "is a dog")


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        (Answer(0, "Edited Description: a dog on a sofa."), "a dog on a sofa.", None),
        (Answer(0, '"a dog on a sofa"'), "a dog on a sofa", None),
        (Answer(0, "a cat on a sofa"), "a cat on a sofa", None),  # changing nothing is an answer
        (Answer(0, "is a dog"), "is a dog", None),
        (Answer(0, "<think>\nA dog?\n</think>\n\na dog on a sofa"), "a dog on a sofa", None),
        (
            Answer(0, "Image Content: a cat\nInstruction: x\nEdited Description: a dog"),
            "a dog",
            None,
        ),
        (Answer(0, "  \n "), None, "the answer was empty"),
        (Answer(0, "Edited Description:"), None, "the answer was empty"),
        (Answer(0, None, "HTTP 400: no"), None, "HTTP 400: no"),
        (
            Answer(0, "a dog and a dog", truncated=True),
            None,
            "the answer was longer than 64 tokens",
        ),
        (Answer(0, "a dog\nNow I will", truncated=True), "a dog", None),
        (Answer(0, "<think>\nOkay, the user wants…", truncated=True), None, CUT_OFF),
        (
            Answer(0, "<think>\nA dog?\n</think>\n\na dog on a", truncated=True),
            None,
            "the answer was longer than 64 tokens",
        ),
        (Answer(0, "Okay, the user wants a description.\n\nSo", truncated=True), None, CHATTER),
        (Answer(0, "Sure! Here is the edited description:\n\na dog"), "a dog", None),
        (Answer(0, "a woman adjusting a man's tie."), None, "the answer repeats the prompt"),
        (Answer(0, "Image Content: a cat on a sofa"), None, "the answer repeats the prompt"),
        (
            Answer(0, "Instruction: has the woman and the man with the roles switched."),
            None,
            "the answer repeats the prompt",
        ),
    ],
)
def test_answers_are_judged(answer: Answer, text: str | None, reason: str | None) -> None:
    assert editor.judge(prompts.load("seize"), PAIR, answer) == (text, reason)


def test_several_edits_a_caption_are_sampled_and_all_are_used(
    make_run: Callable[..., Run],
) -> None:
    greedy = make_run(llm__edits=3)
    caption.caption(greedy)
    with pytest.raises(ConfigError, match="--temperature"):
        edit.edit(greedy)
    one = make_run(llm__temperature=2.0)
    edit.edit(one)
    three = make_run(llm__edits=3, llm__temperature=2.0)
    report = edit.edit(three)
    assert report.cached == len(edit.pairs(one, caption.read(one)))  # the first is there already
    first = three.queries[0].id
    texts = edit.read(three)[first]
    assert len(texts) == 3 * len(caption.read(three)[first])
    assert texts[: len(texts) // 3] == edit.read(one)[first]
    assert texts[: len(texts) // 3] != texts[len(texts) // 3 : 2 * len(texts) // 3]


def test_the_shared_concept_reaches_the_prompt_only_when_asked(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Listener:
        def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
            for request in requests:
                asked.append(request.messages[-1]["content"])
                yield Answer(request.key, f"edit {request.key}")

    monkeypatch.setattr(llms, "load", lambda *_: Listener())
    plain, run = make_run(), make_run(dataset__shared_concept=True, llm__prompt="seize-concept")
    caption.caption(plain)
    with pytest.raises(ConfigError, match=r"does not use .* shared_concept"):
        edit.edit(make_run(dataset__shared_concept=True))
    concept = run.queries[0].shared_concept
    assert concept
    edit.edit(plain)
    assert not any("Shared Concept" in text for text in asked)
    asked.clear()
    edit.edit(run)
    assert any(f"Shared Concept: {concept}" in text for text in asked)
    assert run.protocol["shared_concept"] is True
    assert plain.protocol["shared_concept"] is False


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<think>\nOkay, the user", "are no edits: '<think> Okay, the user' .*cut off while"),
        ("a dog", "one and the same edit for .* 'a dog' for"),
    ],
)
def test_an_llm_that_does_something_else_ends_the_stage_and_leaves_no_edit(
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    said: str,
) -> None:
    run = make_run("cirr", llm__attempts=1)
    captions = {query.id: [f"a cat {i}" for i in range(4)] for query in run.queries}
    monkeypatch.setattr(caption, "read", lambda _: captions)
    monkeypatch.setattr(Run, "relative_captions", lambda self, query: named(query.id))
    asked = 0

    class Stubborn:
        def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
            nonlocal asked
            for request in requests:
                asked += 1
                yield Answer(request.key, answer)

    monkeypatch.setattr(llms, "load", lambda *_: Stubborn())
    with pytest.raises(ModelError, match=said):
        edit.edit(run)
    assert asked < len(edit.pairs(run, captions))
    assert not any(edit.edited(run).values())


def named(query: str) -> tuple[str, ...]:
    """Relative captions that all differ, more than a small world has."""
    return tuple(f"change {i} of {query}" for i in range(4))


def test_a_server_that_thinks_chats_and_refuses_gives_every_edit(
    make_run: Callable[..., Run],
) -> None:
    def answer(text: str) -> str:
        change = text.partition("Instruction: ")[2].splitlines()[0]
        described = text.rpartition("Image Content: ")[2].splitlines()[0]
        return f"Sure! Here is the edited description:\n\n**{described}, {change}**\n\nEnjoy!"

    server = Running(
        Stub(
            thinking=Thinking(shown="closing mark"),
            answer=answer,
            refuses={"seed": "seed: Extra inputs are not permitted"},
            refuses_system="System role not supported",
        )
    )
    try:
        run = make_run(llm__model="echo", llm__url=server.url, llm__prompt="cirevl")
        caption.caption(run)
        report = edit.edit(run)
    finally:
        server.stop()
    assert not report.failed
    assert sorted(note.partition(" refuses ")[2].split()[0] for note in report.notes) == [
        "seed",
        "the",
        "to",
    ]
    for pair, text in edit.edited(run).items():
        assert text == f"{pair.caption}, {pair.relative_caption}"


def test_thinking_is_part_of_the_fingerprint(make_run: Callable[..., Run]) -> None:
    runs = [make_run(), make_run(llm__thinking=True), make_run(llm__thinking_tokens=99)]
    assert len({edit.record_file(run).file for run in runs}) == 3
