"""Texts that an LLM writes in answer to the prompts of ``prompts/synthesize``, each asked once.

The answers are kept in one file a model and prompt, whatever they are for: keyed by the texts that
went in, so that the same question is never asked twice, and a stopped run resumes.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.models import llms
from pipeline.models.prompts import synthesize as prompts
from pipeline.models.prompts.synthesize import NOTHING, SynthesizePrompt
from pipeline.run import StageReport, slug
from pipeline.stages import asking, checks
from pipeline.stages.edit import settle
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import WrittenRecord, typed

FOLDER = "synthesize"
Serving = Callable[[], contextlib.AbstractContextManager[str]]
"""Returns what serves the LLM while it is entered, and yields its URL."""


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
    """An LLM with a prompt: who writes, as an ``asking.Asker``."""

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

    def at(self, url: str) -> "Writer":
        """Return the same with its LLM behind a server."""
        llm = self.config.llm.model_copy(update={"url": url})
        return Writer(self.config.model_copy(update={"llm": llm}), self.prompt)

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

    def requests(self, todo: Sequence[Question], attempt: int) -> Iterator[llms.Request]:
        """Yield the request of each question; attempts differ by seed, and then by heat."""
        prompt, config = self.prompt, self.config.llm
        warm = max(self.temperature, asking.RETRY_TEMPERATURE)
        for key, question in enumerate(todo):
            yield llms.Request(
                key=key,
                messages=prompt.messages(question.given),
                max_tokens=prompt.max_tokens,
                stop=(),
                temperature=self.temperature if attempt == 0 else warm,
                seed=config.seed + attempt + question.sample * config.attempts,
                schema=prompt.answer_schema,
            )

    def answers(
        self, llm: llms.Llm, todo: Sequence[Question], attempt: int
    ) -> Iterator[llms.Answer]:
        """Yield the answer to each question."""
        return llm.answer(self.requests(todo, attempt))

    def judge(self, question: Question, answer: llms.Answer) -> asking.Judged[Question, Written]:
        """Return the fields in an answer; that there is nothing to write is no fault."""
        fields, reason = self._read(answer)
        fault = None if reason == NOTHING else reason
        made = Written(question, fields or None, reason)
        return asking.Judged(question, made, " | ".join(fields.values()) or None, fault)

    def _read(self, answer: llms.Answer) -> tuple[dict[str, str], str | None]:
        if answer.text is None:
            return {}, answer.reason or "no answer"
        fields, reason = self.prompt.read(answer.text)
        if reason and answer.truncated and reason != NOTHING:
            reason = f"the answer was longer than {self.prompt.max_tokens} tokens"
        return fields, reason

    def failure(self, question: Question, why: str) -> Written:
        """Return a question without an answer."""
        return Written(question, None, why)

    def named(self, question: Question) -> str:
        """Return all that went in."""
        return " | ".join(text for _, text in question.texts)

    def change(self, question: Question) -> str:
        """Return all that went in: each text may make the answer another."""
        return self.named(question)


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
    serving: Serving | None = None,
) -> dict[Question, WrittenRecord]:
    """Ask what is not answered yet; return each question's record. Answers are kept as they come.

    One that failed before stays so, unless ``retry_failed``. The LLM is behind the URL that
    ``serving()`` yields, where it is given and something is to be asked. Raises ModelError if the
    LLM cannot answer, or if its first answers show that it does something else.
    """
    settled = Writer(settle(writer.config, records), writer.prompt)
    wanted = list(dict.fromkeys(questions))
    with records:
        stored = {question: _why_failed(record) for question, record in known(records).items()}
        lacking = any(q not in stored or (retry_failed and stored[q] is not None) for q in wanted)
        with serving() if serving and lacking else contextlib.nullcontext("") as url:
            asker = settled.at(url) if url else settled
            asking.keep(asker, wanted, stored, records, report, retry_failed, "text")
        answered = known(records)
    return {question: answered[question] for question in wanted}


def _why_failed(record: WrittenRecord) -> str | None:
    """Return why there is no answer; None where there is one, or nothing was to be written."""
    reason = record.get("reason") or ""
    return None if record["answer"] is not None or reason == NOTHING else reason


def answers(writer: Writer, todo: Sequence[Question]) -> Iterator[Written]:
    """Yield each question with what the LLM wrote, as answers come; raises as ``asking.ask``."""
    return (judged.made for judged in asking.ask(writer, todo))
