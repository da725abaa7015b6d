"""The verify stage: a vision-language model looks at each query's best images and reorders them."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from pipeline.config import VerifierConfig
from pipeline.errors import InputError
from pipeline.models import verifiers
from pipeline.models.prompts import verify as prompts
from pipeline.models.prompts.verify import VerifyPrompt
from pipeline.models.verifiers import Question
from pipeline.records import Ranking
from pipeline.retrieval import fusion, methods
from pipeline.retrieval.fusion import fuse, scaled, walk
from pipeline.run import Run, StageReport, log, progress, stage
from pipeline.stages import checks, edit, search, work
from pipeline.stages.base import Line, Stage
from pipeline.stages.inputs import Inputs, ready
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile, read_header, write_records
from pipeline.store.schema import VerdictRecord, typed
from pipeline.yamls import first_problem

ESTIMATE_AFTER = 32
"""Calls after which the cost of all is estimated from theirs."""


class Asked(NamedTuple):
    """What one call is about; records are keyed by it, so no call is made twice."""

    query: str
    candidate: str
    edited_caption: str
    """Empty where the prompt does not use one."""


@dataclass
class Cost:
    """What verifying took."""

    queries: int
    calls: int = 0
    cached: int = 0
    saved: int = 0
    """Calls that the early stop made needless."""
    tokens: int = 0
    seconds: float = 0.0

    def summary(self) -> str:
        """Return one line."""
        return (
            f"{self.calls:,} calls, {self.tokens:,} tokens, {self.seconds:.1f} s; {self.cached:,} "
            f"verdicts from the cache, {self.saved:,} calls saved by the early stop"
        )


def record_file(run: Run) -> RecordFile:
    """Return the file of verdicts; they belong to queries and images, whatever method found them.

    A record is ``{"query", "candidate", "edited_caption", "probability", "tokens", "reason"}``.
    """
    content = verifiers.header(run.config.verifier) | {
        "queries": run.dataset.fingerprint,
        "gallery": run.dataset.gallery_fingerprint,
        "caption_separator": run.config.dataset.caption_separator,
    }
    name = run.config.verifier.model
    return RecordFile(run.file("verify", name, fingerprint(content), ".jsonl"), content)


def verify(run: Run, retry_failed: bool = False) -> list[StageReport]:
    """Verify the rankings of every method asked for, and write them reordered.

    Each verdict is stored as it arrives. Raises MissingStageError where a method was not searched,
    ModelError if the verifier cannot answer.
    """
    return [_verify(one, retry_failed) for one in _runs(run)]


def read_rankings(run: Run) -> None:
    """Read what ``verify`` would reorder; raises MissingStageError where a method lacks its."""
    for one in _runs(run):
        search.read(one.unverified)


def _runs(run: Run) -> list[Run]:
    """Return a run for every method asked for, verified."""
    names = map(methods.verified, ready(run))
    return [run.with_method(name) for name in dict.fromkeys(names)]


def _verify(run: Run, retry_failed: bool) -> StageReport:
    config = run.config.verifier
    source = search.ranking_file(run.unverified)
    rankings = search.read(run.unverified)
    output, records = search.ranking_file(run), record_file(run)
    with stage("verify", run, [source.file, config.prompt], output.file, "verdicts") as report:
        prompt = prompts.load(config.prompt)
        captions = _captions(run, prompt)
        found, cost = _judge(run, prompt, rankings, captions, records, retry_failed, report)
        made = [
            reordered(ranking, probabilities, config)
            for ranking, probabilities in zip(rankings, found, strict=True)
        ]
        if cost.calls or not _is_whole(output, len(made)):  # else it is this, with what it cost
            write_records(output.file, output.header | {"cost": asdict(cost)}, map(asdict, made))
        report.computed, report.cached = cost.calls, cost.cached
        report.cost = asdict(cost)
        log.info("[verify %s] %s", run.name, cost.summary())
    return report


def _is_whole(output: RecordFile, queries: int) -> bool:
    try:
        return len(output.read()) == queries
    except InputError:
        return False


def cost_of(run: Run) -> Cost:
    """Return what the run's verified ranking cost when it was made; raises MissingStageError."""
    file = search.ranking_file(run).file
    if not file.exists():
        raise run.missing("verify", file, "There is no verified ranking")
    try:
        return TypeAdapter(Cost).validate_python(read_header(file).get("cost"))
    except ValidationError as error:
        raise InputError(f"{file}: its header's cost: {first_problem(error)}") from None


def _captions(run: Run, prompt: VerifyPrompt) -> list[tuple[str, ...]]:
    """Return the edited captions that each query's candidates are held against.

    The most typical ones: those whose embedding is nearest the composed feature, which errors of
    single captions do not reach. The relative caption stands in where there are none.
    """
    if "edited_caption" not in prompt.variables:
        return [("",) for _ in run.queries]
    edits = edit.read(run)
    clues = Inputs(run).clues
    chosen = []
    pairs = zip(clues.lists("edits"), clues.vectors("composed"), strict=True)
    for query, (features, composed) in zip(run.queries, pairs, strict=True):
        made = [text for text in edits[query.id] if text is not None]
        order = (features @ composed).argsort(descending=True, stable=True)
        distinct = dict.fromkeys(made[place] for place in order.tolist())
        first = itertools.islice(distinct, run.config.verifier.captions)
        chosen.append(tuple(first) or run.relative_captions(query)[:1])
    return chosen


def _judge(
    run: Run,
    prompt: VerifyPrompt,
    rankings: Sequence[Ranking],
    captions: Sequence[tuple[str, ...]],
    records: RecordFile,
    retry_failed: bool,
    report: StageReport,
) -> tuple[list[dict[str, float | None]], Cost]:
    """Return the probabilities that count, by query and image, and what they cost.

    In rounds: each asks, for every query that is not settled, what is needed whatever comes of it.
    """
    config = verifiers.ROLE.settle(run.config.verifier, run.config.runtime, records)
    run = replace(run, config=run.config.model_copy(update={"verifier": config}))
    cost, start = Cost(len(rankings)), time.monotonic()
    with records:
        known = {
            Asked(r["query"], r["candidate"], r["edited_caption"]): r["probability"]
            for r in typed(records, VerdictRecord)
            if not (retry_failed and r["probability"] is None)
        }
        before = set(known)
        looks = _look_at_all(rankings, captions, known, config)
        most = sum(look.most for look in looks)
        if wanted := _wanted(looks):
            _announce(run, prompt, most, len(wanted))
        with progress(most, 0, "call", "verify") as bar:
            while wanted:
                for asked, verdict in _ask(run, prompt, wanted, report):
                    known[asked] = verdict.probability
                    record = asked._asdict() | {"probability": verdict.probability}
                    record |= {"tokens": verdict.tokens} if verdict.tokens else {}
                    records.append(record | ({"reason": verdict.reason} if verdict.reason else {}))
                    if verdict.reason:
                        report.failed[f"{asked.query} | {asked.candidate}"] = verdict.reason
                    cost.calls, cost.tokens = cost.calls + 1, cost.tokens + verdict.tokens
                    bar.update()
                    if cost.calls == ESTIMATE_AFTER:
                        _estimate(run, cost, most, time.monotonic() - start)
                looks = _look_at_all(rankings, captions, known, config)
                wanted = _wanted(looks)
    used = {asked for look in looks for asked in look.used}
    cost.cached = len(used & before)
    cost.saved = most - len(used)
    cost.seconds = round(time.monotonic() - start, 2)
    return [look.probabilities for look in looks], cost


@dataclass(frozen=True)
class _Look:
    """What is known about one query's candidates."""

    probabilities: dict[str, float | None]
    """Of the candidates that count: the mean over the captions."""
    used: list[Asked]
    wanted: list[Asked]
    most: int
    """Calls if every candidate were verified."""


def _look(
    ranking: Ranking,
    captions: Sequence[str],
    known: Mapping[Asked, float | None],
    config: VerifierConfig,
) -> _Look:
    """Walk the best candidates, and CIRR's group, in the order of their scores."""

    def asked(image: str) -> list[Asked]:
        return [Asked(ranking.query, image, caption) for caption in captions]

    counting: dict[str, float | None] = {}
    wanted: dict[str, None] = {}
    everything: dict[str, None] = {}
    for images, scores in _lists(ranking, config):
        candidates = images[: config.candidates]
        everything |= dict.fromkeys(candidates)
        judged = {
            image: _mean([known[one] for one in asked(image)])
            for image in candidates
            if all(one in known for one in asked(image))
        }
        settled = config.settled if config.early_stop else None
        counted, needed = walk(candidates, scores, judged, fusion_of(config), settled)
        counting |= {image: judged[image] for image in counted}
        wanted |= dict.fromkeys(needed)
    return _Look(
        counting,
        [one for image in counting for one in asked(image)],
        [one for image in wanted for one in asked(image) if one not in known],
        len(everything) * len(captions),
    )


def _look_at_all(
    rankings: Sequence[Ranking],
    captions: Sequence[Sequence[str]],
    known: Mapping[Asked, float | None],
    config: VerifierConfig,
) -> list[_Look]:
    return [_look(r, texts, known, config) for r, texts in zip(rankings, captions, strict=True)]


def _wanted(looks: Sequence[_Look]) -> list[Asked]:
    return list(dict.fromkeys(asked for look in looks for asked in look.wanted))


def _mean(probabilities: Sequence[float | None]) -> float | None:
    given = [value for value in probabilities if value is not None]
    return sum(given) / len(given) if given else None


def _ask(
    run: Run, prompt: VerifyPrompt, wanted: Sequence[Asked], report: StageReport
) -> Iterator[tuple[Asked, verifiers.Verdict]]:
    verifier = verifiers.load(run.config.verifier, run.config.runtime)
    queries = {query.id: query for query in run.queries}

    def questions() -> Iterator[Question]:
        for key, asked in enumerate(wanted):
            query = queries[asked.query]
            shown = {"reference": query.references, "candidate": (asked.candidate,)}
            files = tuple(
                run.dataset.images[name] for kind in prompt.images for name in shown[kind]
            )
            relative = run.relative_captions(query)[0]
            yield Question(key, files, asked.edited_caption, relative)

    for verdict in verifier.judge(prompt, questions()):
        yield wanted[verdict.key], verdict
    report.notes = list(getattr(verifier, "notes", ()))


def _announce(run: Run, prompt: VerifyPrompt, most: int, least: int) -> None:
    """Say what is about to be spent."""
    config = run.config.verifier
    images = " and ".join(f"the {kind}" for kind in prompt.images)
    log.info(
        "[verify %s] asks %s about %d images a query: from %s to %s calls, each with %s, scaled to "
        "at most %d pixels, and one token of answer. Answers are kept: stopping loses nothing.",
        run.name,
        config.model,
        config.candidates,
        f"{least:,}",
        f"{most:,}",
        images,
        config.longest_side,
    )


def _estimate(run: Run, cost: Cost, most: int, seconds: float) -> None:
    share = most / cost.calls
    log.info(
        "[verify %s] by the first %d calls, all will take at most about %s tokens and %s s",
        run.name,
        cost.calls,
        f"{cost.tokens * share:,.0f}",
        f"{seconds * share:,.0f}",
    )


def reordered(
    ranking: Ranking, probabilities: Mapping[str, float | None], config: VerifierConfig
) -> Ranking:
    """Return the ranking in the order that ``retrieval.fusion`` gives, scores as they were."""
    score = dict(zip(ranking.images, ranking.scores, strict=True))
    score |= zip(ranking.subset, _group_scores(ranking), strict=True)
    images, subset = (
        tuple(fuse(listed, scores, probabilities, fusion_of(config)))
        for listed, scores in _lists(ranking, config)
    )
    return Ranking(
        ranking.query,
        images,
        tuple(score[image] for image in images),
        subset,
        tuple(probabilities.get(image) for image in images),
        tuple(score[image] for image in subset),
    )


def fusion_of(config: VerifierConfig) -> fusion.Fusion:
    """Return the fusion that is configured."""
    if config.fusion == "average":
        return fusion.average(config.weight)
    return fusion.confidence(config.accept, config.reject)


def _group_scores(ranking: Ranking) -> Sequence[float]:
    """Return the scores of a CIRR group; places stand for them where a file has none."""
    return ranking.subset_scores or range(len(ranking.subset), 0, -1)


def _lists(
    ranking: Ranking, config: VerifierConfig
) -> list[tuple[tuple[str, ...], dict[str, float]]]:
    """Return the lists that a verifier reorders, each with its scaled scores."""
    lists = [(ranking.images, ranking.scores), (ranking.subset, _group_scores(ranking))]
    return [(images, scaled(images, scores, config.candidates)) for images, scores in lists]


def known_probabilities(run: Run) -> list[tuple[Ranking, dict[str, float | None]]]:
    """Return every query's ranking before verification, and the probabilities of its candidates.

    For tuning, so the early stop is off. Raises MissingStageError if a candidate was not verified.
    """
    config = run.config.verifier.model_copy(update={"early_stop": False})
    records = record_file(run)
    known = {
        Asked(r["query"], r["candidate"], r["edited_caption"]): r["probability"]
        for r in typed(records, VerdictRecord)
    }
    rankings = search.read(run.unverified)
    captions = _captions(run, prompts.load(config.prompt))
    looks = _look_at_all(rankings, captions, known, config)
    if missing := len(_wanted(looks)):
        what = f"{missing:,} candidates have not been verified"
        raise run.missing("verify --no-early-stop", records.file, what)
    return [(r, look.probabilities) for r, look in zip(rankings, looks, strict=True)]


def _plan(run: Run) -> list[Line]:
    """Count the verifier's calls: fewer where it stops early, or a query has fewer captions."""
    config = run.config.verifier
    candidates = len(run.queries) * config.candidates + sum(len(q.group) for q in run.queries)
    calls = candidates * config.captions
    done = min(len(record_file(run).read()), calls)
    images = len(prompts.load(config.prompt).images)
    return [Line("verify", "calls", calls, done, "at most", work.verify(run, images))]


def _check(run: Run) -> None:
    """Check the verifier's prompt and, where it runs here, its files."""
    verifiers.check(run.config.verifier)
    checks.model_files(verifiers.ROLE.chosen(run.config))


STAGE = Stage(
    "verify",
    """Let a vision-language model look at each query's best images, and reorder them.

    Needs the ranking of --method (one, several or all). The result is a method of its own: submit,
    evaluate and compare take it as METHOD+verify. The verifier is behind --verifier-url, in process
    (--verifier transformers:PATH), or served for this stage by vLLM (--serve). It may be a reranker
    (--verifier reranker:NAME --question rerank, docs/pool.md).

    An image that it accepts (verifier.accept) moves before all others, one that it rejects
    (verifier.reject) behind all others; otherwise the order of the scores stays. With --set
    verifier.fusion=average, images are sorted by a weighted mean of probability and score.

    Example: seize verify --dataset circo --split val --method seize --verifier
    Qwen/Qwen2.5-VL-7B-Instruct --verifier-url http://localhost:8000/v1
    """,
    verify,
    after=("search",),
    wanted=lambda run: run.verified,
    plan=_plan,
    checks=(checks.cache_folder, _check, checks.method),
    slow_checks=(checks.device,),
    serves="verifier",
    ready=read_rankings,
    retries="ask again where there was no answer before",
)
