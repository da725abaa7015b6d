"""The decompose stage: the LLM takes each query apart into a few atomic retrievals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pipeline.models.prompts import decompose as prompts
from pipeline.models.prompts.decompose import Atom, Plan
from pipeline.models.prompts.synthesize import SynthesizePrompt
from pipeline.records import Query
from pipeline.retrieval.clues.retrievals import Decompose
from pipeline.retrieval.sections import section
from pipeline.run import Run, StageReport, stage
from pipeline.stages import caption, checks, texts, work, writing
from pipeline.stages.base import ByQuery, Line, Stage, TextKind
from pipeline.stages.writing import Question, Writer
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile

FALLBACK = "no plan; its relative caption with the image is searched by"


def _settings(run: Run) -> Decompose:
    return section(run.config, Decompose, run.dataset.name)


def _writer(run: Run) -> Writer:
    """Return who takes queries apart; raises ConfigError for a prompt that there is not."""
    prompt = prompts.load(_settings(run).prompt or "atomic")
    return Writer(run.config, cast(SynthesizePrompt, prompt))  # it is asked and read alike


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes a plan but the texts that it is made from."""
    return record_file(run).header


def record_file(run: Run) -> RecordFile:
    """Return the file of plans, keyed by what was asked; see ``writing.Written``."""
    content = _writer(run).settings() | {"stage": "decompose", "captions": _settings(run).captions}
    file = run.file("decompose", run.config.llm.model, fingerprint(content), ".jsonl")
    return RecordFile(file, content)


def questions(run: Run, captions: Mapping[str, list[str]]) -> dict[str, Question]:
    """Return what is asked about each query."""
    return {query.id: _question(run, query, captions) for query in run.queries}


def _question(run: Run, query: Query, captions: Mapping[str, list[str]]) -> Question:
    shown = dict.fromkeys(captions.get(query.id, []))
    few = "; ".join(list(shown)[: _settings(run).captions])
    return Question.of({"captions": few, "relative_caption": run.relative_captions(query)[0]})


def answered(run: Run) -> dict[str, Plan | None]:
    """Return the plan that the LLM made of each query, None where it failed.

    Raises MissingStageError if some queries were not taken apart.
    """
    records = record_file(run)
    known, asked = writing.known(records), questions(run, caption.read(run))
    missing = sum(question not in known for question in asked.values())
    if missing:
        what = f"{missing} of {len(asked)} queries have no plan yet"
        raise run.missing("decompose", records.file, what)
    answers = {query: known[question]["answer"] for query, question in asked.items()}
    return {q: Plan.model_validate_json(a["plan"]) if a else None for q, a in answers.items()}


def read(run: Run) -> dict[str, Plan]:
    """Return every query's plan; where the LLM failed, the relative caption with the image.

    Raises MissingStageError if some queries were not taken apart.
    """
    found = answered(run)
    return {query.id: found[query.id] or _fallback(run, query) for query in run.queries}


def _fallback(run: Run, query: Query) -> Plan:
    text = run.relative_captions(query)[0][: prompts.LONGEST]
    return Plan(retrievals=(Atom(by="both", text=text),))


def decompose(run: Run, retry_failed: bool = False) -> list[StageReport]:
    """Take apart every query that is not yet; each plan is stored as it arrives.

    Raises ModelError if the LLM cannot answer.
    """
    source, records, writer = caption.record_file(run).file, record_file(run), _writer(run)
    asked = questions(run, caption.read(run))
    reads: list[Path | str] = [source, writer.prompt.name]
    with stage("decompose", run, reads, records.file, "queries") as report:
        answers = writing.write(writer, list(asked.values()), records, report, retry_failed)
        for query, question in asked.items():
            if answers[question]["answer"] is None:
                report.failed.setdefault(f"query {query}", FALLBACK)
    return [report]


def _plans(run: Run) -> ByQuery:
    return {query: [plan.model_dump_json()] for query, plan in read(run).items()}


def _retrievals(run: Run) -> ByQuery:
    return {query: plan.texts for query, plan in read(run).items()}


def _most(run: Run) -> int:
    return prompts.MOST * len(run.queries)


def _plan(run: Run) -> list[Line]:
    """Count the distinct questions; those of images without captions yet count as new."""
    known = writing.known(record_file(run))
    asked = set(questions(run, {q: c for q, c in caption.known(run).items() if c}).values())
    done = sum(question in known for question in asked)
    planned = work.untold(run, "decompose", "queries")
    return [Line("decompose", "queries", len(asked), done, "at most", planned)]


def _check(run: Run) -> None:
    """Check the prompt and the LLM's files."""
    own = _settings(run)
    writing.check_llm(run.config)
    prompts.load(own.prompt or "atomic")


STAGE = Stage(
    "decompose",
    """Let the LLM take each query apart into atomic retrievals, for --method planned.

    Each goes by text, by the reference image or by both, and is wanted or unwanted; the wanted ones
    are joined by union or intersection (docs/pool.md). Needs search.decompose.prompt.

    Example: seize decompose --dataset circo --split val --method planned --set
    search.decompose.prompt=atomic --llm Qwen/Qwen2.5-7B-Instruct --llm-url http://localhost:8000/v1
    """,
    decompose,
    after=("caption",),
    before=("embed",),
    wanted=lambda run: "decompose" in texts.stages(run),
    header=lambda run: header(run) if "decompose" in texts.stages(run) else {},
    texts={
        "plans": TextKind(_plans, embedded=False),
        "retrievals": TextKind(_retrievals, "plans", header, most=_most),
    },
    plan=_plan,
    checks=(checks.cache_folder, _check),
    slow_checks=(checks.device,),
    serves="llm",
    ready=caption.read,
    retries="try again what failed before",
)
