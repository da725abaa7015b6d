"""The edit stage: the LLM turns every caption and its relative caption into an edited caption."""

from collections.abc import Sequence
from typing import Any

from pipeline import caption, llms, prompts
from pipeline.cache import RecordFile, fingerprint, model_identity
from pipeline.config import resolve_device, resolve_precision
from pipeline.prompts import Prompt
from pipeline.run import Run, StageReport, progress, stage

RETRY_TEMPERATURE = 0.7
"""An empty answer is asked for again at this temperature at least: at 0 it would stay empty."""

Pair = tuple[str, str]
"""A caption and a relative caption."""


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes an edit. Records are keyed by text, whatever made it."""
    config = run.config.llm
    model = config.model
    content = {
        "stage": "edit",
        "model": model,
        "prompt": prompts.load(config.prompt).model_dump(),
        "temperature": config.temperature,
        "attempts": config.attempts,
        "seed": config.seed,
    }
    if model.startswith(llms.IN_PROCESS):
        content["model"] = llms.IN_PROCESS + model_identity(model.removeprefix(llms.IN_PROCESS))
        device = resolve_device(run.config.runtime.device)
        content["precision"] = resolve_precision(config.precision, device)
    return content


def record_file(run: Run) -> RecordFile:
    """Return the file of edits: ``{"caption", "relative_caption", "edited_caption", "reason"}``."""
    content = header(run)
    return RecordFile(
        run.file("edit", run.config.llm.model, fingerprint(content), ".jsonl"), content
    )


def pairs(run: Run, captions: dict[str, list[str]]) -> list[Pair]:
    """Return the distinct (caption, relative caption) pairs of the run, in query order."""
    return list(
        dict.fromkeys(
            (text, run.relative_caption(query))
            for query in run.queries
            for text in captions.get(query.reference, [])
        )
    )


def read(run: Run) -> dict[Pair, str | None]:
    """Return edited captions by pair, None where the LLM failed; MissingStageError if none."""
    records = record_file(run)
    edits = _by_pair(records)
    if not edits:
        raise run.missing("edit", records.file, "There are no edited captions")
    return edits


def edit(run: Run) -> StageReport:
    """Edit every pair that is not cached yet; each answer is stored as it arrives."""
    source = caption.record_file(run).file
    wanted = pairs(run, caption.read(run))
    records = record_file(run)
    prompt = prompts.load(run.config.llm.prompt)
    with stage("edit", run, [source, run.config.llm.prompt], records.file) as report, records:
        done = _by_pair(records)
        todo = [pair for pair in wanted if pair not in done]
        report.cached = len(wanted) - len(todo)
        if not todo:
            return report
        llm = llms.load(run.config.llm, run.config.runtime)
        with progress(len(wanted), report.cached, "edit", "edit") as bar:
            for attempt in range(run.config.llm.attempts):
                last = attempt == run.config.llm.attempts - 1
                empty = []
                for answer in llm.answer(_requests(run, prompt, todo, attempt)):
                    pair = todo[answer.key]
                    text = prompt.clean(answer.text) if answer.text is not None else None
                    if not text and answer.text is not None and not last:
                        empty.append(pair)
                        continue
                    reason = None if text else answer.reason or "the answer was empty"
                    _append(records, pair, text or None, reason)
                    if reason:
                        report.failed[" | ".join(pair)] = reason
                    report.computed += 1
                    bar.update()
                todo = empty
                if not todo:
                    break
    return report


def _append(records: RecordFile, pair: Pair, text: str | None, reason: str | None) -> None:
    record = {"caption": pair[0], "relative_caption": pair[1], "edited_caption": text}
    records.append(record if reason is None else record | {"reason": reason})


def _by_pair(records: RecordFile) -> dict[Pair, str | None]:
    return {
        (record["caption"], record["relative_caption"]): record["edited_caption"]
        for record in records.read()
    }


def _requests(run: Run, prompt: Prompt, todo: Sequence[Pair], attempt: int) -> list[llms.Request]:
    config = run.config.llm
    temperature = config.temperature if attempt == 0 else max(config.temperature, RETRY_TEMPERATURE)
    return [
        llms.Request(
            key=key,
            messages=prompt.messages(text, relative),
            max_tokens=prompt.max_tokens,
            stop=tuple(prompt.stop),
            temperature=temperature,
            seed=config.seed + attempt,
        )
        for key, (text, relative) in enumerate(todo)
    ]
