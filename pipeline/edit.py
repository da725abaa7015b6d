"""The edit stage: the LLM turns every caption and its relative caption into an edited caption."""

from collections.abc import Sequence
from typing import Any

from pipeline import caption, llms, prompts, released
from pipeline.cache import RecordFile, fingerprint, model_identity
from pipeline.config import resolve_device, resolve_precision
from pipeline.prompts import Prompt
from pipeline.records import Query
from pipeline.run import Run, StageReport, progress, stage

RETRY_TEMPERATURE = 0.7
"""An empty answer is asked for again at this temperature at least: at 0 it would stay empty."""

Pair = tuple[str, str]
"""A caption and a relative caption."""


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes an edit. Records are keyed by text, whatever made it."""
    config = run.config.llm
    model = config.model
    if released.is_imported(model):
        return released.header(run, "edit", model)
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
    if released.is_imported(run.config.llm.model):
        return released.record_file(run, "edit", run.config.llm.model)
    content = header(run)
    return RecordFile(
        run.file("edit", run.config.llm.model, fingerprint(content), ".jsonl"), content
    )


def pairs(run: Run, captions: dict[str, list[str]]) -> list[Pair]:
    """Return the distinct (caption, relative caption) pairs of the run, in query order."""
    wanted = (pair for query in run.queries for pair in query_pairs(run, query, captions))
    return list(dict.fromkeys(wanted))


def query_pairs(run: Run, query: Query, captions: dict[str, list[str]]) -> list[Pair]:
    """Return one query's pairs: every caption with its relative caption, or with each order."""
    return [
        (text, relative)
        for relative in run.relative_captions(query)
        for text in captions.get(query.id, [])
    ]


def read(run: Run) -> dict[str, list[str | None]]:
    """Return each query's edited captions, aligned with ``query_pairs``; None where the LLM failed.

    Raises MissingStageError if some captions have not been edited.
    """
    records = record_file(run)
    captions = caption.read(run)
    if released.is_imported(run.config.llm.model):
        return released.edits(run, records, captions)
    edits = _by_pair(records)
    wanted = pairs(run, captions)
    missing = sum(pair not in edits for pair in wanted)
    if missing:
        what = f"{missing} of {len(wanted)} captions have not been edited yet"
        raise run.missing("edit", records.file, what)
    return {q.id: [edits[pair] for pair in query_pairs(run, q, captions)] for q in run.queries}


def edit(run: Run) -> StageReport:
    """Edit every pair that is not cached yet; each answer is stored as it arrives."""
    source = caption.record_file(run).file
    wanted = pairs(run, caption.read(run))
    records = record_file(run)
    if released.is_imported(run.config.llm.model):
        return released.report("edit", run, records)
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
