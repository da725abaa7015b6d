"""The edit stage: the LLM turns every caption and its relative caption into an edited caption."""

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.models import llms
from pipeline.models.kinds import Given
from pipeline.models.prompts import edit as prompts
from pipeline.models.prompts.edit import Prompt
from pipeline.records import Query
from pipeline.run import Run, StageReport, stage
from pipeline.stages import asking, caption, checks, estimates, texts, together, work
from pipeline.stages.base import ByQuery, Certainty, Line, Stage, TextKind
from pipeline.stages.editor import Editor, Pair, make_pairs
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import EditRecord, typed

NO_ROLES = "edits with roles: edit with --prompt roles, or another prompt that has `answer: roles`."


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes an edit. Records are keyed by text, whatever made it."""
    return record_file(run).header


def settings(config: Config) -> dict[str, Any]:
    """Return everything about the configuration that changes an edit of a given text."""
    llm = config.llm
    return {
        "stage": "edit",
        "prompt": prompts.load(llm.prompt).identity,
        "temperature": llm.temperature,
        "attempts": llm.attempts,
        "seed": llm.seed,
        "thinking": llm.thinking,
        "thinking_tokens": llm.thinking_tokens,
        **llms.ROLE.chosen(config).identity,
    }


def settle(config: Config, records: RecordFile) -> Config:
    """Return ``config`` with the precision that ``records`` were begun in, for an LLM in process.

    What a new file is begun in goes into its header.
    """
    llm = llms.ROLE.settle(config.llm, config.runtime, records)
    return config.model_copy(update={"llm": llm})


def _given(run: Run) -> Given | None:
    """Return where the run's edits are if others made them."""
    return llms.ROLE.chosen(run.config).kind.given


def asks_for_roles(run: Run) -> bool:
    """Whether the LLM is asked for roles beside an edited caption."""
    return not _given(run) and prompts.load(run.config.llm.prompt).answer == "roles"


def record_file(run: Run) -> RecordFile:
    """Return the file of edits: ``{"caption", "relative_caption", "edited_caption", "reason"}``.

    Raises MissingStageError for edits of others that are not in the cache.
    """
    llm = llms.ROLE.chosen(run.config)
    if llm.kind.given:
        return llm.kind.given.file(run, llm.name)
    content = settings(run.config)
    file = run.file("edit", run.config.llm.model, fingerprint(content), ".jsonl")
    return RecordFile(file, content)


def pairs(run: Run, captions: dict[str, list[str]]) -> list[Pair]:
    """Return the distinct pairs of the run, in query order."""
    wanted = (pair for query in run.queries for pair in query_pairs(run, query, captions))
    return list(dict.fromkeys(wanted))


def groups(run: Run, captions: dict[str, list[str]]) -> list[together.Group]:
    """Return what is edited by one call where captions are edited together, in query order."""
    by_query = (together.groups(query_pairs(run, query, captions)) for query in run.queries)
    return list(dict.fromkeys(group for found in by_query for group in found))


def query_pairs(run: Run, query: Query, captions: dict[str, list[str]]) -> list[Pair]:
    """Return one query's pairs, captions innermost: every caption as often as it is edited."""
    concept = (query.shared_concept or "") if run.config.dataset.shared_concept else ""
    texts = captions.get(query.id, [])
    return make_pairs(texts, run.relative_captions(query), run.config.llm.edits, concept)


def read(run: Run) -> dict[str, list[str | None]]:
    """Return each query's edited captions, aligned with ``query_pairs``; None where the LLM failed.

    Raises MissingStageError if some captions have not been edited.
    """
    records = record_file(run)
    captions = caption.read(run)
    if (given := _given(run)) is not None:
        found = given.read(run, records)
        return {
            query.id: [*found.get(query.id, ())] or [None] * len(captions.get(query.id, ()))
            for query in run.queries
        }
    edits = by_pair(records)
    wanted = pairs(run, captions)
    missing = sum(pair not in edits for pair in wanted)
    if missing:
        what = f"{missing} of {len(wanted)} captions have not been edited yet"
        raise run.missing("edit", records.file, what)
    return {q.id: [edits[pair] for pair in query_pairs(run, q, captions)] for q in run.queries}


def read_roles(run: Run) -> dict[str, dict[str, list[str]]]:
    """Return, for each query and role, the texts of all its edits; empty where none were asked for.

    A text that several edits name is there several times, so that it counts more.
    """
    if not asks_for_roles(run):
        return {query.id: {role: [] for role in prompts.ROLES} for query in run.queries}
    records, captions = _records(record_file(run)), caption.read(run)
    found = {}
    for query in run.queries:
        made = [records[pair] for pair in query_pairs(run, query, captions) if pair in records]
        found[query.id] = {
            role: [text for record in made for text in record.get(role, [])]  # type: ignore[attr-defined]
            for role in prompts.ROLES
        }
    return found


def why_missing(run: Run) -> str | None:
    """Return the most common reason of the edits that failed, None where none tells one."""
    if _given(run):
        return None
    return asking.most_common(filter(None, map(_why_failed, _records(record_file(run)).values())))


def _why_failed(record: EditRecord) -> str | None:
    """Return why there is no edit, "" where that was not kept; None where there is one."""
    return None if record["edited_caption"] is not None else record.get("reason") or ""


def edited(run: Run) -> dict[Pair, str | None]:
    """Return what is there already: edited captions by pair, None where the LLM failed."""
    return by_pair(record_file(run))


def edit(run: Run, retry_failed: bool = False) -> StageReport:
    """Edit every pair that is not cached yet; each answer is stored as it arrives.

    An edit that failed before stays so, unless ``retry_failed``. Raises ConfigError for settings
    that cannot work, ModelError if the LLM cannot answer.
    """
    source = caption.record_file(run).file
    captions = caption.read(run)
    wanted = pairs(run, captions)
    records = record_file(run)
    if _given(run):
        return caption.given("edit", run, records)
    check(run.config)
    config = settle(run.config, records)
    reads: list[Path | str] = [source, run.config.llm.prompt]
    with stage("edit", run, reads, records.file, "captions") as report, records:
        stored = {pair: _why_failed(record) for pair, record in _records(records).items()}
        editor = Editor(config, groups(run, captions))
        asking.keep(editor, wanted, stored, records, report, retry_failed, "edit")
    return report


def check(config: Config) -> None:
    """Raise ConfigError for settings of the edit stage that cannot work."""
    if llms.ROLE.chosen(config).kind.given:
        return
    prompt = prompts.load(config.llm.prompt)
    if config.llm.edits > 1 and config.llm.temperature == 0:
        raise ConfigError(
            f"{config.llm.edits} edits a caption would all be the same at temperature 0. "
            "Add --temperature 0.7, for instance."
        )
    if config.dataset.shared_concept and "shared_concept" not in prompt.variables:
        raise ConfigError(
            f"The prompt {prompt.name!r} does not use {{{{ shared_concept }}}}. Choose one that "
            "does with --prompt, or drop --shared-concept."
        )


def _records(records: RecordFile) -> dict[Pair, EditRecord]:
    """Return the records by pair; a later one of the same pair counts."""
    return {
        Pair(
            record["caption"],
            record["relative_caption"],
            record.get("shared_concept", ""),
            record.get("sample", 0),
        ): record
        for record in typed(records, EditRecord)
    }


def by_pair(records: RecordFile) -> dict[Pair, str | None]:
    """Return the edited captions by pair."""
    return {pair: record["edited_caption"] for pair, record in _records(records).items()}


def _plan(run: Run) -> list[Line]:
    """Count distinct prompts: exact for captions that exist, all different for the others."""
    if _given(run) is not None:
        return []
    captions = {query: made for query, made in caption.known(run).items() if made}
    stand_ins = {
        query.id: [
            f"{name} {n}" for name in query.references for n in range(run.config.captioner.samples)
        ]
        for query in run.queries
        if query.id not in captions
    }
    prompt, done = prompts.load(run.config.llm.prompt), edited(run)
    made, unknown = _asked(run, prompt, captions), _asked(run, prompt, stand_ins)
    total, edits = len(made) + len(unknown), sum(map(len, made + unknown))
    cached = sum(all(pair in done for pair in group) for group in made)
    asked = estimates.tokens(prompt, made) + estimates.tokens(prompt, unknown, stand_in=True)
    each = asked / max(total, 1)
    answered = prompt.tokens_of(round(edits / max(total, 1)))
    certainty: Certainty = "at most" if unknown else "exact"
    record = 3 * (estimates.CAPTION_CHARACTERS + estimates.BESIDE)  # caption, text and edit
    return [
        Line("edit", "distinct prompts", total, cached, certainty, work.edit(run, each, answered)),
        Line("edit", "prompt tokens", round(total * each), round(cached * each), "estimate"),
        Line("edit", "tokens answered", total * answered, cached * answered, "at most"),
        Line(
            *("edit", "bytes of edits", edits * record),
            round(edits / max(total, 1) * cached) * record,
            "estimate",
        ),
    ]


def _asked(run: Run, prompt: Prompt, captions: dict[str, list[str]]) -> list[together.Group]:
    """Return the pairs that the prompts are about, each with those that it asks for together."""
    if prompt.answer == "together":
        found = groups(run, captions)
        return [call.group for call in together.calls(found, {p for group in found for p in group})]
    return [(pair,) for pair in pairs(run, captions)]


def _most(run: Run) -> int:
    each = run.config.captioner.samples * run.config.llm.edits
    return sum(len(run.relative_captions(query)) * each for query in run.queries)


def _role(name: str) -> TextKind:
    def read(run: Run) -> ByQuery:
        return {query: said[name] for query, said in read_roles(run).items()}

    def lacking(run: Run) -> str | None:
        return None if asks_for_roles(run) else NO_ROLES

    return TextKind(read, "edits", header, lacking=lacking)


def _check(run: Run) -> None:
    """Check prompt, number of edits and the LLM's files, or that the edits of others are there."""
    check(run.config)
    record_file(run)
    checks.model_files(llms.ROLE.chosen(run.config))


STAGE = Stage(
    "edit",
    """Let the LLM apply the relative caption to every caption.

    The LLM is behind --llm-url, in process (--llm transformers:PATH), or served for this stage by
    vLLM (--serve); the stages after this one are then given --llm MODEL.

    Example: seize edit --dataset circo --split val --llm Qwen/Qwen2.5-7B-Instruct
    --llm-url http://localhost:8000/v1
    """,
    lambda run, retry_failed=False: [edit(run, retry_failed)],
    after=("caption",),
    wanted=lambda run: "edit" in texts.stages(run),
    header=header,
    sources={"edited captions": lambda run: record_file(run).file},
    texts={
        "edits": TextKind(read, "edits", header, most=_most),
        **{role: _role(role) for role in prompts.ROLES},
    },
    plan=_plan,
    checks=(checks.cache_folder, _check),
    slow_checks=(checks.device,),
    serves="llm",
    ready=caption.read,
    retries="try again what failed before",
)
