"""Texts that an LLM writes in answer to the prompts of ``prompts/synthesize``, each asked once.

The answers are kept in one file a model and prompt, whatever they are for: keyed by the texts that
went in, so that the same question is never asked twice, and a stopped run resumes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.models import llms
from pipeline.models.prompts import synthesize as prompts
from pipeline.models.prompts.synthesize import NOTHING, SynthesizePrompt
from pipeline.run import StageReport, log, progress, slug
from pipeline.stages import checks
from pipeline.stages.edit import RETRY_TEMPERATURE, settle
from pipeline.stages.first_answers import FirstAnswers, SuspiciousAnswers
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import WrittenRecord, typed

FOLDER = "synthesize"
ALIKE = "the LLM gave the same answer whatever was asked"


class Question(NamedTuple):
    """What one answer is made from: texts by the prompt's variables, and which of several it is."""

    texts: tuple[tuple[str, str], ...]
    sample: int = 0

    @classmethod
    def of(cls, texts: Mapping[str, str | None], sample: int = 0) -> "Question":
        """Return the question about ``texts``; those that are not there are left out."""
        return cls(tuple(sorted((k, v) for k, v in texts.items() if v)), sample)

    @property
    def given(self) -> dict[str, str]:
        """The texts by variable."""
        return dict(self.texts)


class Written(NamedTuple):
    """A question with the fields of its answer, or None and the reason."""

    question: Question
    answer: dict[str, str] | None
    reason: str | None = None

    def record(self) -> dict[str, Any]:
        """Return it as a record of the file of answers."""
        made: dict[str, Any] = {"asked": self.question.given}
        made |= {"sample": self.question.sample} if self.question.sample else {}
        made |= {"answer": self.answer}
        return made if self.reason is None else made | {"reason": self.reason}


@dataclass(frozen=True)
class Writer:
    """An LLM with a prompt: who writes."""

    config: Config
    """Its ``llm`` is the one that writes."""
    prompt: SynthesizePrompt

    @classmethod
    def of(cls, config: Config, prompt: str) -> "Writer":
        """Return who writes under ``config``: ``synthesize.model``, or else the LLM that edits.

        Raises ConfigError for a prompt that there is not.
        """
        own = config.synthesize.model
        llm = config.llm if own is None else config.llm.model_copy(update={"model": own})
        return cls(config.model_copy(update={"llm": llm}), prompts.load(prompt))

    @property
    def name(self) -> str:
        """The model's name, without the folder that it is in."""
        return slug(self.config.llm.model)

    @property
    def version(self) -> str:
        """The prompt's name and fingerprint."""
        return f"{self.prompt.name}-{fingerprint(self.prompt.identity)[:8]}"

    @property
    def temperature(self) -> float:
        """What the LLM is asked at first."""
        return max(self.config.llm.temperature, self.prompt.temperature)

    def settings(self) -> dict[str, Any]:
        """Return everything that changes an answer to given texts."""
        llm = self.config.llm
        return {
            "stage": "synthesize",
            "prompt": self.prompt.identity,
            "temperature": self.temperature,
            "attempts": llm.attempts,
            "seed": llm.seed,
            "thinking": llm.thinking,
            "thinking_tokens": llm.thinking_tokens,
            **llms.ROLE.chosen(self.config).identity,
        }

    def records(self, cache: Any) -> RecordFile:
        """Return the file of answers below ``cache``."""
        content = self.settings()
        name = f"{slug(self.config.llm.model)}-{self.prompt.name}-{fingerprint(content)}.jsonl"
        return RecordFile(cache / FOLDER / name, content)


def check(config: Config, prompt: str) -> Writer:
    """Return who writes; raises ConfigError or ModelError for what cannot be used."""
    writer = Writer.of(config, prompt)
    check_llm(writer.config)
    return writer


def check_llm(config: Config) -> None:
    """Raise ConfigError or ModelError for an LLM that cannot write."""
    choice = llms.ROLE.chosen(config)
    if choice.kind.given:
        raise ConfigError(
            f"{choice.kind_name} texts are a benchmark's edits: name an LLM that writes, with "
            "--llm or synthesize.model."
        )
    checks.model_files(choice)


def known(records: RecordFile) -> dict[Question, WrittenRecord]:
    """Return what was answered already; a later record of the same question counts."""
    return {
        Question.of(record["asked"], record.get("sample", 0)): record
        for record in typed(records, WrittenRecord)
    }


def write(
    writer: Writer,
    questions: Sequence[Question],
    records: RecordFile,
    report: StageReport,
    retry_failed: bool = False,
) -> dict[Question, WrittenRecord]:
    """Ask what is not answered yet; return each question's record. Answers are kept as they come.

    One that failed before stays so, unless ``retry_failed``. Raises ModelError if the LLM cannot
    answer, or if its first answers show that it does something else.
    """
    config = settle(writer.config, records)
    wanted = list(dict.fromkeys(questions))
    with records:
        stored = known(records)
        failed = {q for q in wanted if q in stored and _failed(stored[q])}
        todo = [q for q in wanted if q not in stored or (retry_failed and q in failed)]
        report.cached = len(wanted) - len(todo)
        if failed and not retry_failed:
            why = next(stored[q].get("reason") for q in wanted if q in failed)
            log.warning(
                "%d texts failed before, the first: %s. To try them again: --retry-failed",
                len(failed),
                why,
            )
            report.failed = {_said(q): str(stored[q].get("reason")) for q in wanted if q in failed}
            report.known = list(report.failed)
        if todo:
            _ask(Writer(config, writer.prompt), todo, failed, records, report)
        stored = known(records)
    return {question: stored[question] for question in wanted}


def _failed(record: WrittenRecord) -> bool:
    return record["answer"] is None and record.get("reason") != NOTHING


def _said(question: Question) -> str:
    return " | ".join(text for _, text in question.texts)


def _ask(
    writer: Writer,
    todo: Sequence[Question],
    failed: set[Question],
    records: RecordFile,
    report: StageReport,
) -> None:
    with report.step("load the model"):
        llm = llms.load(writer.config.llm, writer.config.runtime)
    first = FirstAnswers(writer.config.llm.model, failed)
    with progress(report.cached + len(todo), report.cached, "text", "write") as bar:
        try:
            for made in answers(writer, todo, first):
                records.append(made.record())
                if made.reason and made.reason != NOTHING:
                    report.failed[_said(made.question)] = made.reason
                report.computed += 1
                bar.update()
        except SuspiciousAnswers as error:
            for question in error.alike:  # a later record of the same question counts
                records.append(Written(question, None, ALIKE).record())
            raise
    report.notes = list(getattr(llm, "notes", ()))


def answers(
    writer: Writer, todo: Sequence[Question], first: FirstAnswers[Question] | None = None
) -> Iterator[Written]:
    """Yield each question with what the LLM wrote, as answers come; a bad one is asked for again.

    ``llm.attempts`` times in all. Raises ModelError if the LLM cannot answer.
    """
    config, prompt = writer.config.llm, writer.prompt
    llm = llms.load(config, writer.config.runtime)
    for attempt in range(config.attempts):
        last, bad = attempt == config.attempts - 1, []
        for answer in llm.answer(_requests(writer, todo, attempt)):
            question = todo[answer.key]
            fields, reason = _read(prompt, answer)
            if first is not None and attempt == 0:
                wrong = None if reason == NOTHING else reason
                text = " | ".join(fields.values()) or None
                first.add(question, _said(question), text, wrong, answer.text)
            if reason and reason != NOTHING and answer.reason is None and not last:
                bad.append(question)
            else:
                yield Written(question, fields or None, reason)
        todo = bad
        if not todo:
            break


def _read(prompt: SynthesizePrompt, answer: llms.Answer) -> tuple[dict[str, str], str | None]:
    if answer.text is None:
        return {}, answer.reason or "no answer"
    fields, reason = prompt.read(answer.text)
    if reason and answer.truncated and reason != NOTHING:
        reason = f"the answer was longer than {prompt.max_tokens} tokens"
    return fields, reason


def _requests(writer: Writer, todo: Sequence[Question], attempt: int) -> Iterator[llms.Request]:
    prompt, config = writer.prompt, writer.config.llm
    cool = writer.temperature
    for key, question in enumerate(todo):
        yield llms.Request(
            key=key,
            messages=prompt.messages(question.given),
            max_tokens=prompt.max_tokens,
            stop=(),
            temperature=cool if attempt == 0 else max(cool, RETRY_TEMPERATURE),
            seed=config.seed + attempt + question.sample * config.attempts,
            schema=prompt.answer_schema,
        )
