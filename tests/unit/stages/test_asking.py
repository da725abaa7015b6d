"""What is kept of what an LLM answers. It is a stand-in that misbehaves, behind a real prompt."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pipeline import config
from pipeline.errors import ModelError
from pipeline.models import llms
from pipeline.models.llms import Answer, Request
from pipeline.run import StageReport
from pipeline.stages import asking, writing
from pipeline.stages.writing import Question, Writer
from pipeline.store.jsonl import RecordFile

GOOD = '{{"text": "is {0}", "target_caption": "a {0} circle"}}'
QUESTIONS = [Question.of({"source": f"a circle of size {n}"}) for n in range(30)]


class Answering:
    """Answers with the same texts whatever is asked, with other ones, or with none."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.asked = 0
        self.notes = ["a server takes no seed"]

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked += 1
            if self.how == "nothing":
                yield Answer(request.key, "I cannot do that.")
            else:
                word = "red" if self.how == "alike" else f"red{request.key}"
                yield Answer(request.key, GOOD.format(word))


@pytest.fixture
def writer() -> Writer:
    return Writer.of(config.load("demo", {}), "edit")


@pytest.fixture
def records(writer: Writer, tmp_path: Path) -> RecordFile:
    return writer.records(tmp_path)


def report() -> StageReport:
    return StageReport("synthesize", "here", [], "there")


def use(monkeypatch: pytest.MonkeyPatch, how: str) -> Answering:
    llm = Answering(how)
    monkeypatch.setattr(llms, "load", lambda *_: llm)
    return llm


def test_answers_that_were_alike_are_judged_again_when_they_are_asked_for_again(
    writer: Writer, records: RecordFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "alike")
    for retrying in (False, True):  # a server that is not mended is not believed the second time
        with pytest.raises(ModelError, match="one and the same edit"):
            writing.write(writer, QUESTIONS, records, report(), retrying)
        known = writing.known(records)
        assert {one["answer"] is None and one.get("reason") for one in known.values()} == {
            asking.ALIKE
        }
    llm = use(monkeypatch, "well")
    made = report()
    answers = writing.write(writer, QUESTIONS, records, made, retry_failed=True)
    assert len({one["answer"]["text"] for one in answers.values() if one["answer"]}) == 30
    assert (made.cached, made.computed, made.failed) == (0, 30, {})
    assert made.notes == llm.notes


def test_what_failed_before_is_told_and_asked_for_again_only_when_told(
    writer: Writer,
    records: RecordFile,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = QUESTIONS[:3]  # too few to be judged as a whole
    llm = use(monkeypatch, "nothing")
    first = report()
    writing.write(writer, few, records, first)
    assert (first.computed, len(first.failed), first.known) == (3, 3, [])
    assert llm.asked == 3 * writer.config.llm.attempts
    why = next(iter(first.failed.values()))
    llm = use(monkeypatch, "well")
    again = report()
    writing.write(writer, QUESTIONS[:4], records, again)
    assert f"3 texts failed before, most of them: {why}" in caplog.text
    assert (again.cached, again.computed, llm.asked) == (3, 1, 1)
    assert again.failed == first.failed
    assert again.known == list(first.failed)
    last = report()
    writing.write(writer, QUESTIONS[:4], records, last, retry_failed=True)
    assert (last.cached, last.computed, last.failed) == (1, 3, {})
    assert writing.write(writer, QUESTIONS[:4], records, report()).keys() == set(QUESTIONS[:4])


@pytest.mark.parametrize(
    ("reasons", "most"), [(["a", "b", "", "b", ""], "b"), (["", ""], None), ([], None)]
)
def test_the_most_common_reason_is_one_that_was_given(reasons: list[str], most: str | None) -> None:
    assert asking.most_common(reasons) == most
