"""The search stage: rank the gallery for every query, from features on disk and no model."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import encoder_of, without_encoder
from pipeline.errors import InputError
from pipeline.models import encoders, verifiers
from pipeline.records import Query, Ranking
from pipeline.retrieval import indexes, methods, plans
from pipeline.retrieval.pool import Pool, fuse
from pipeline.retrieval.scoring import Score, top_k
from pipeline.retrieval.sections import section
from pipeline.run import Run, StageReport, log, progress, stage, with_option
from pipeline.stages import checks, embeddings, texts, work
from pipeline.stages.base import Line, Stage
from pipeline.stages.inputs import Inputs, ready, settings_of
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile, write_records
from pipeline.store.schema import RankingRecord, typed

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.retrieval.parts import Part
    from pipeline.retrieval.searcher import Searcher


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes the ranking: of its own method's clues and weights alone."""
    if run.verified:
        return _verified_header(run)
    search = run.config.search
    if methods.is_pool(search.method):
        return _pool_header(run)
    name = without_encoder(search.method)  # which it is stands under "clip"
    clues = methods.clues_of(search.method)
    own = {name: found for name, clue in clues.items() if (found := clue.header(run))}
    content = {
        "stage": "search",
        "format": 3,  # with the settings of one method
        "method": name,
        "settings": settings_of(run, search.method),
        "normalise_texts": search.normalise_texts,
        "protocol": run.protocol,
        "top_k": run.top_k,
        "limited_to": None if run.dataset.complete else len(run.queries),
        "clip": embeddings.header(run),
        **texts.headers(run, methods.reads(search.method)),
        **({"clues": own} if own else {}),
        "queries": run.dataset.fingerprint,
        "gallery": run.dataset.gallery_fingerprint,
    }
    if search.index.kind not in indexes.EXACT:
        content["index"] = search.index.content
    return content


def _pool_header(run: Run) -> dict[str, Any]:
    """Return what a pool is: the fingerprints of its parts' rankings, and how they are fused."""
    settings = pool_settings(run)
    parts = {name: fingerprint(header(one)) for name, one in parts_of(run).items()}
    fused: dict[str, Any] = {
        "rule": settings.rule,
        "weights": dict(zip(parts, settings.of(list(parts)), strict=True)),
    }
    if settings.rule == "rrf":
        fused["k"] = settings.k
    return {
        "stage": "search",
        "format": 1,
        "method": run.config.search.method,
        "parts": parts,
        "settings": {settings.name: fused},
        "protocol": run.protocol,
        "top_k": run.config.search.top_k,
        "limited_to": None if run.dataset.complete else len(run.queries),
        "queries": run.dataset.fingerprint,
        "gallery": run.dataset.gallery_fingerprint,
    }


def pool_settings(run: Run) -> Pool:
    """Return how the run's pools are fused; raises ConfigError naming the field that is wrong."""
    return section(run.config, Pool, run.dataset.name)


def parts_of(run: Run) -> dict[str, Run]:
    """Return a run for each part of a pool, of as many images as the pool looks at."""
    depth = pool_settings(run).depth or run.config.search.top_k
    config = run.config.with_search(top_k=depth)
    deeper = replace(run, config=config)
    if depth != run.config.search.top_k:
        command = with_option(run.command, "--top-k", "search.top_k", str(depth))
        deeper = replace(deeper, command=command)
    names = methods.expanded([run.config.search.method])
    return {name: deeper.with_method(name) for name in names}


def _verified_header(run: Run) -> dict[str, Any]:
    config = run.config.verifier
    limits = {"average": {"weight"}, "confidence": {"accept", "reject"}}[config.fusion]
    rule = {"candidates", "captions", "fusion", "early_stop", "settled"} | limits
    verifier = verifiers.header(config)
    return header(run.unverified) | {
        "method": without_encoder(run.config.search.method),
        "verifier": verifier | config.model_dump(include=rule),
    }


def ranking_file(run: Run) -> RecordFile:
    """Return the file of rankings: ``{"query", "images", "scores", "subset", …}`` a line."""
    content = header(run)
    name = methods.in_file_names(run.config.search.method)
    file = run.file("search", name, fingerprint(content), ".jsonl")
    return RecordFile(file, content)


def read(run: Run) -> list[Ranking]:
    """Return the rankings in query order; raises MissingStageError where there are none."""
    records = ranking_file(run)
    found = rankings_in(records)
    if len(found) < len(run.queries):
        stage = "verify" if run.verified else "search"
        what = f"{len(found)} of {len(run.queries)} queries have a ranking" if found else None
        raise run.missing(stage, records.file, what or "There is no ranking")
    return found


def rankings_in(records: RecordFile) -> list[Ranking]:
    """Return the rankings that a file holds; raises InputError naming the record that is wrong."""
    found = [Ranking.of(record) for record in typed(records, RankingRecord)]
    for ranking in found:
        images, scores = len(ranking.images), len(ranking.scores)
        if images == scores:
            # Files of earlier versions have no scores of groups.
            images, scores = len(ranking.subset), len(ranking.subset_scores) or len(ranking.subset)
        if images != scores:
            raise InputError(
                f"{records.file}, query {ranking.query}: {images} images have {scores} scores. "
                "Delete the file and search again."
            )
    return found


def search(run: Run) -> list[StageReport]:
    """Rank every query's gallery by each method asked for; a ranking is written whole or not."""
    names = ready(run)
    for name in names:
        methods.find(name)  # raises for a verified one
    todo: dict[Path, Run] = {}
    for one in map(run.with_method, names):
        own = parts_of(one).values() if methods.is_pool(one.config.search.method) else [one]
        todo |= {ranking_file(part).file: part for part in own}
    reports = _searched(run, list(todo.values()))
    return reports + [pool(run.with_method(name)) for name in names if methods.is_pool(name)]


def _searched(run: Run, runs: Sequence[Run]) -> list[StageReport]:
    """Rank by one method each, and write the rankings."""
    for one in runs:
        methods.settings(one.config, one.config.search.method, run.dataset.name)
    reports: dict[Path, StageReport] = {}
    inputs: Inputs | None = None
    for one in sorted(runs, key=_encoder):  # one gallery after the other
        if inputs is None or inputs.encoder_name != _encoder(one):
            inputs = Inputs(one)
        output = ranking_file(one)
        with stage("search", one, inputs.files, output.file, "queries") as report:
            name = one.config.search.method
            lists = methods.lists(one.config, name, run.dataset.name, inputs.clues)
            searcher = inputs.searcher
            searcher.restart()  # LDRE has searched its drops
            if lists is None:
                score = methods.score(one.config, name, run.dataset.name, inputs.clues)
                searcher.restart()
                made = rank(one, score, searcher)
            else:
                made = plans.rank(one, lists, searcher)
            # Not before: texts are read, and missing ones noted, when a clue asks for them.
            report.reads = [str(file) for file in inputs.files]
            report.failed |= inputs.lacks(name)
            write_records(output.file, output.header, map(asdict, made))
            report.computed = len(made)
            report.steps |= {step: round(seconds, 4) for step, seconds in searcher.steps.items()}
            if not searcher.scans:
                report.visited = round(searcher.visited / len(made), 1)
                log.info(
                    f"{report.visited:,} images visited a query of {inputs.images.shape[0]:,}; "
                    f"{searcher.scanned} queries scanned the gallery in the end"
                )
        reports[output.file] = report
    return [reports[ranking_file(one).file] for one in runs]


def _encoder(run: Run) -> str:
    return encoder_of(run.config.search.method)


def pool(run: Run) -> StageReport:
    """Fuse the rankings of a pool's parts, and write what comes of it.

    Raises MissingStageError where a part was not searched.
    """
    output, parts = ranking_file(run), parts_of(run)
    files = [ranking_file(one).file for one in parts.values()]
    with stage("search", run, files, output.file, "queries") as report:
        made = pooled(run, pool_settings(run), [read(one) for one in parts.values()])
        write_records(output.file, output.header, map(asdict, made))
        report.computed = len(made)
    return report


def pooled(run: Run, settings: Pool, parts: Sequence[Sequence[Ranking]]) -> list[Ranking]:
    """Return the pool of ``parts``, the rankings of each part in query order.

    CIRR's groups, which every part ranks whole, are fused by the same rule.
    """
    weights, k = settings.of(methods.find(run.config.search.method).parts), run.config.search.top_k
    made = []
    for rankings in zip(*parts, strict=True):
        lists = [dict(zip(r.images, r.scores, strict=True)) for r in rankings]
        groups = [dict(zip(r.subset, r.subset_scores, strict=True)) for r in rankings]
        images = dict(itertools.islice(fuse(lists, settings, weights).items(), k))
        subset = fuse(groups, settings, weights)
        made.append(
            Ranking(
                rankings[0].query,
                tuple(images),
                tuple(images.values()),
                tuple(subset),
                subset_scores=tuple(subset.values()),
            )
        )
    return made


def rank(run: Run, score: Score, searcher: "Searcher") -> list[Ranking]:
    """Return each query's best images.

    Gallery ids whose image could not be embedded are absent. Equal scores keep gallery order.
    """
    from pipeline.retrieval.parts import parts
    from pipeline.retrieval.ranking import scores_of

    images, k = searcher.images, run.top_k
    rankings: dict[str, Ranking] = {}
    found = parts(run, images)
    if searcher.scans:
        bar = progress(sum(part.gallery.shape[0] for part in found), 0, "image", "search")
    else:
        bar = progress(len(run.queries), 0, "query", "search")
    with bar:
        for part in found:
            own = score.map(itemgetter(part.places))
            best, rows = searcher.best(own, part, k, advance=bar.update)
            scores = []
            if any(part.groups):
                scores = scores_of(own, part.gallery, part.groups, part.inside, searcher.device)
            for ranking in rankings_of(run, part, best, rows, scores):
                rankings[ranking.query] = ranking
    return [rankings[query.id] for query in run.queries]


def rankings_of(
    run: Run,
    part: "Part",
    best: "Tensor",
    rows: "Tensor",
    group_scores: "Sequence[Tensor]",
) -> list[Ranking]:
    """Return the part's rankings from the best scores and their rows, both (queries, k).

    ``group_scores`` holds the scores of each query's group, or nothing where there are no groups.
    """
    made = []
    for i, place in enumerate(part.places):
        query, kept = run.queries[place], best[i].isfinite()
        subset: dict[str, float] = {}
        if group_scores:
            subset = _subset(query, group_scores[i], part.groups[i], part.names)
        made.append(
            Ranking(
                query.id,
                tuple(part.names[row] for row in rows[i][kept].tolist()),
                tuple(best[i][kept].tolist()),
                tuple(subset),
                subset_scores=tuple(subset.values()),
            )
        )
    return made


def _subset(
    query: Query, scores: "Tensor", group: list[int], ids: Sequence[str]
) -> dict[str, float]:
    """Rank the members of the query's CIRR group; those without a feature come last."""
    import torch

    best, ranked = top_k(scores[None], torch.tensor(group, dtype=torch.long), len(group))
    names = [ids[row] for row in ranked[0].tolist()]
    found = dict(zip(names, best[0].tolist(), strict=True))
    last = min(found.values(), default=0.0)
    return found | {name: last for name in query.group if name not in found}


def _run(run: Run) -> list[StageReport]:
    return search(run.unverified)  # what the verify stage reorders is ranked first


def _plan(run: Run) -> list[Line]:
    sizes = {name: len(images) for name, images in run.dataset.galleries.items()}
    scores = sum(sizes[query.gallery] for query in run.queries)
    count, width = len(run.queries), encoders.width_of(run.config.encoder)
    ranked = work.search(run, scores / max(count, 1), width)
    return [Line("search", "queries", count, work=ranked), Line("search", "scores", scores)]


def _index(run: Run) -> None:
    """Check the index's kind, and that it can serve the methods."""
    kind = run.config.search.index.kind
    indexes.check(kind)
    if kind != "scan" and "seize-rank" in map(
        without_encoder, methods.expanded(texts.selection(run))
    ):
        raise indexes.needs_scan(kind)


STAGE = Stage(
    "search",
    """Rank the gallery for every query; needs features on disk, no model.

    --method pool:A,B,C fuses the rankings of A, B and C, which are searched too (docs/pool.md).

    Example: seize search --dataset circo --split val --alpha-pos 0.13 --alpha-neg 2.1
    """,
    _run,
    after=("embed",),
    header=header,
    plan=_plan,
    checks=(checks.cache_folder, checks.method, _index),
    slow_checks=(checks.device,),
)
