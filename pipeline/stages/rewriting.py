"""Texts of triplets told again by an LLM: at length, or short enough for an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.triplets import Triplet
from pipeline.errors import ConfigError
from pipeline.run import StageReport, stage
from pipeline.stages import writing
from pipeline.stages.writing import Question, Serving, Writer

WAYS = ("fine", "short")


@dataclass(frozen=True)
class _File:
    """What the stage's messages call a file of triplets."""

    name: str


def check(writer: Writer) -> None:
    """Raise ConfigError for a prompt that rewrites nothing."""
    if writer.prompt.way not in WAYS:
        raise ConfigError(
            f"The prompt {writer.prompt.name!r} writes about images: use it with `seize "
            "synthesize`. Texts are rewritten by fine and short, for instance."
        )


def rewrite(
    file: Path,
    found: Sequence[Triplet],
    writer: Writer,
    cache: Path,
    words: int,
    longer_than: int = 0,
    retry_failed: bool = False,
    serving: Serving | None = None,
) -> tuple[list[Triplet], StageReport]:
    """Return the triplets with ``text_fine`` written, or a shorter ``text`` (the long one is kept
    as ``text_fine``); one whose text failed, or has ``longer_than`` words at most, is as it was.

    ``words`` is what a short text may have at most; ``serving()`` serves the LLM while it writes.
    """
    check(writer)
    asked = {
        number: _question(one, writer, words)
        for number, one in enumerate(found)
        if len(one.text.split()) > longer_than
    }
    records = writer.records(cache)
    reads: list[Path | str] = [file, writer.prompt.name]
    with stage("rewrite", _File(file.name), reads, records.file, "texts") as report:
        questions = list(asked.values())
        answers = writing.write(writer, questions, records, report, retry_failed, serving)
    made = []
    for number, one in enumerate(found):
        answer = answers[asked[number]]["answer"] if number in asked else None
        made.append(one if answer is None else one.model_copy(update=_fields(one, answer)))
    return made, report


def _question(one: Triplet, writer: Writer, words: int) -> Question:
    texts: dict[str, str | None] = {
        "text": one.text,
        "source": one.source_caption,
        "target": one.target_caption,
        "words": str(words),
    }
    return Question.of({name: texts[name] for name in writer.prompt.variables})


def _fields(one: Triplet, answer: dict[str, str]) -> dict[str, str]:
    return answer if "text_fine" in answer else answer | {"text_fine": one.text}
