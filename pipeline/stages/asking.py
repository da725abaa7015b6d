"""Asking an LLM many things, each kept as it is answered: the loop of every stage that does so.

A stage says what it asks and what it makes of an answer (``Asker``); trying again what is bad,
resuming, and stopping at an LLM that does something else are here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from pipeline.config import Config
from pipeline.models import llms
from pipeline.run import StageReport, log, progress
from pipeline.stages.first_answers import FirstAnswers, Key, SuspiciousAnswers
from pipeline.store.jsonl import RecordFile

RETRY_TEMPERATURE = 0.7
"""A bad answer is asked for again at this temperature at least: at 0 it would come again."""
ALIKE = "the LLM gave the same answer whatever was asked"


class Recorded(Protocol):
    """What is made of an answer, good or bad."""

    def record(self) -> dict[str, Any]:
        """Return it as a record of the stage's file."""
        ...


Made = TypeVar("Made", bound=Recorded)


class Judged(NamedTuple, Generic[Key, Made]):
    """What one answer is worth."""

    key: Key
    made: Made
    text: str | None
    """What was answered, as answers are compared with each other; None where it is bad."""
    fault: str | None
    """What is wrong with it."""


class Asker(Protocol[Key, Made]):
    """What a stage asks and keeps. A key is one thing that is asked about."""

    @property
    def config(self) -> Config:
        """The configuration whose ``llm`` answers."""
        ...

    def requests(self, todo: Sequence[Key], attempt: int) -> Iterator[llms.Request]:
        """Yield the request of each key, in order; its key is the place in ``todo``."""
        ...

    def answers(self, llm: llms.Llm, todo: Sequence[Key], attempt: int) -> Iterator[llms.Answer]:
        """Yield what the LLM answers to the requests; its key is the place in ``todo``."""
        ...

    def judge(self, key: Key, answer: llms.Answer) -> Judged[Key, Made]:
        """Return what an answer is worth."""
        ...

    def failure(self, key: Key, why: str) -> Made:
        """Return what is kept of a key without an answer."""
        ...

    def named(self, key: Key) -> str:
        """Return what reports call a key."""
        ...

    def change(self, key: Key) -> str:
        """Return the text that should make the answers to two keys differ."""
        ...


def ask(
    asker: Asker[Key, Made], todo: Sequence[Key], first: FirstAnswers[Key] | None = None
) -> Iterator[Judged[Key, Made]]:
    """Yield each key with what became of it, as answers come.

    A bad answer is asked for again, ``llm.attempts`` times in all. Raises ModelError if the LLM
    cannot answer, or if its ``first`` answers show that it does something else.
    """
    config = asker.config
    llm = llms.load(config.llm, config.runtime)
    for attempt in range(config.llm.attempts):
        last, bad = attempt == config.llm.attempts - 1, []
        for answer in asker.answers(llm, todo, attempt):
            key = todo[answer.key]
            judged = asker.judge(key, answer)
            if first is not None and attempt == 0:
                first.add(key, asker.change(key), judged.text, judged.fault, answer.text)
            if judged.fault and answer.reason is None and not last:
                bad.append(key)
            else:
                yield judged
        todo = bad
        if not todo:
            break


def keep(
    asker: Asker[Key, Made],
    wanted: Sequence[Key],
    stored: Mapping[Key, str | None],
    records: RecordFile,
    report: StageReport,
    retry_failed: bool,
    noun: str,
) -> None:
    """Ask about what is not ``stored``, and append each answer as it comes.

    ``stored`` holds None for a key that is answered, and why (perhaps "") for one that failed:
    that stays so, unless ``retry_failed``. ``noun`` is what the stage makes. Raises as ``ask``.
    """
    failed = {key: why for key in wanted if (why := stored.get(key)) is not None}
    todo = [key for key in wanted if key not in stored or (retry_failed and key in failed)]
    report.cached = len(wanted) - len(todo)
    if failed and not retry_failed:
        why = most_common(failed.values())
        said = f", most of them: {why}" if why else ""
        log.warning(
            "%d %ss failed before%s. To try them again: --retry-failed", len(failed), noun, said
        )
        report.failed = {asker.named(key): why or "failed before" for key, why in failed.items()}
        report.known = list(report.failed)
    if not todo:
        return
    with report.step("load the model"):
        llm = llms.load(asker.config.llm, asker.config.runtime)
    known_as_bad = {key for key, why in failed.items() if why != ALIKE}
    first = FirstAnswers(asker.config.llm.model, known_as_bad)
    with progress(len(wanted), report.cached, noun, report.stage) as bar:
        try:
            for judged in ask(asker, todo, first):
                records.append(judged.made.record())
                if judged.fault:
                    report.failed[asker.named(judged.key)] = judged.fault
                report.computed += 1
                bar.update()
        except SuspiciousAnswers as error:
            for key in error.alike:  # a later record of the same key counts
                records.append(asker.failure(key, ALIKE).record())
            raise
    report.notes = list(getattr(llm, "notes", ()))


def most_common(reasons: Iterable[str]) -> str | None:
    """Return the reason that is given most often; None where none is."""
    counts = Counter(reason for reason in reasons if reason)
    return max(counts, key=counts.__getitem__, default=None)
