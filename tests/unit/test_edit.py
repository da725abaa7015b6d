"""What the edit stage records when an LLM answers badly. The LLM is a stand-in that misbehaves."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from pipeline import caption, edit, llms
from pipeline.llms import Answer, Request
from pipeline.run import Run


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
                yield Answer(request.key, "Edited Description: a cat\nor a dog")


def test_empty_answers_are_retried_then_recorded_with_their_reason(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    caption.caption(run)
    moody = Moody()
    monkeypatch.setattr(llms, "load", lambda *_: moody)
    report = edit.edit(run)
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
    assert set(edits.values()) == {"a cat", None}
    starred = [pair for pair in wanted if "star" in " ".join(pair)]
    assert starred
    assert all(edits[pair] is None for pair in starred)
    assert "the answer was empty" in report.failed.values()
    assert "HTTP 400: too long" in report.failed.values()
    assert report.computed == len(wanted)
    # A greedy LLM would repeat itself, so retries are sampled.
    assert set(moody.temperatures) == {0.0, edit.RETRY_TEMPERATURE}
    assert edit.edit(run).computed == 0


def test_pairs_are_distinct_and_fashioniqs_captions_are_joined(
    make_run: Callable[..., Run],
) -> None:
    run = make_run("fashioniq")
    query = run.queries[0]
    captions = {query.id: ["a dress", "a dress", "a gown"] for query in run.queries}
    pairs = edit.pairs(run, captions)
    assert len(pairs) == len(set(pairs))
    assert ("a dress", " and ".join(query.relative_captions)) in pairs
    glued = make_run("fashioniq", dataset__caption_separator="")
    assert ("a dress", "".join(query.relative_captions)) in edit.pairs(glued, captions)
    both = make_run("fashioniq", dataset__both_orders=True)
    first, second = query.relative_captions
    of_query = edit.query_pairs(both, query, captions)
    assert [relative for _, relative in of_query] == (
        [f"{first} and {second}"] * 3 + [f"{second} and {first}"] * 3
    )
