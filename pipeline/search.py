"""The search stage: rank the gallery for every query, from features on disk and no model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import caption, edit, embed, indexes, methods, verifiers
from pipeline.cache import FeatureFile, RecordFile, fingerprint, write_records
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.methods import Parameters, QueryEmbeddings, QueryFeatures
from pipeline.ranking import scores_of
from pipeline.records import Query, Ranking, RankingRecord, typed
from pipeline.run import Run, StageReport, log, progress, stage
from pipeline.scoring import Ends, Score, top_k
from pipeline.searcher import Searcher

QUERIES = 64
"""Queries whose captions LDRE compares with the gallery at a time, 15 vectors each."""


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes the ranking."""
    if run.verified:
        return _verified_header(run)
    search = run.config.search
    content = {
        "stage": "search",
        "format": 2,  # with the scores of CIRR's groups
        "method": search.method,
        "parameters": asdict(parameters(run)),
        "normalise_texts": search.normalise_texts,
        "protocol": run.protocol,
        "top_k": search.top_k,
        "limited_to": None if run.dataset.complete else len(run.queries),
        "clip": embed.header(run),
        "captions": fingerprint(caption.header(run)),
        "edits": fingerprint(edit.header(run)),
        "queries": run.dataset.fingerprint,
        "gallery": run.dataset.gallery_fingerprint,
    }
    if search.index.kind not in indexes.EXACT:
        content["index"] = search.index.model_dump()
    return content


def _verified_header(run: Run) -> dict[str, Any]:
    config = run.config.verifier
    limits = {"average": {"weight"}, "confidence": {"accept", "reject"}}[config.fusion]
    rule = {"candidates", "captions", "fusion", "early_stop", "settled"} | limits
    verifier = verifiers.header(config)
    return header(run.unverified) | {
        "method": run.config.search.method,
        "verifier": verifier | config.model_dump(include=rule),
    }


def ranking_file(run: Run) -> RecordFile:
    """Return the file of rankings: ``{"query", "images", "scores", "subset", …}`` a line."""
    methods.find(methods.base(run.config.search.method))
    content = header(run)
    file = run.file("search", run.config.search.method, fingerprint(content), ".jsonl")
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
    names = methods.selection(run.config.search.method, edit.asks_for_roles(run))
    for name in names:
        methods.find(name)  # raises for a verified one
    inputs = Inputs(run)
    reports = []
    for name in names:
        one = run.with_method(name)
        output = ranking_file(one)
        with stage("search", one, inputs.files, output.file, "queries") as report:
            report.failed |= inputs.failed
            score = methods.find(name)(inputs.features, parameters(one))
            searcher = inputs.searcher
            searcher.visited = searcher.scanned = 0  # LDRE has searched its drops
            made = rank(one, score, searcher)
            write_records(output.file, output.header, map(asdict, made))
            report.computed = len(made)
            if not searcher.scans:
                report.visited = round(searcher.visited / len(made), 1)
                log.info(
                    f"{report.visited:,} images visited a query of {inputs.images.shape[0]:,}; "
                    f"{searcher.scanned} queries scanned the gallery in the end"
                )
        reports.append(report)
    return reports


def parameters(run: Run) -> Parameters:
    """Return what the run's configuration says of the methods' weights."""
    return parameters_of(run.config, run.dataset.name)


def parameters_of(config: Config, dataset: str) -> Parameters:
    """Return what a configuration says of the methods' weights for a dataset."""
    increment, settings = config.increment_for(dataset), config.search
    sdr = config.sdr_for(dataset)
    return Parameters(
        positive=increment.positive,
        negative=increment.negative,
        rank_positive=settings.rank_increment.positive,
        rank_negative=settings.rank_increment.negative,
        drops=settings.drops,
        temperature=settings.temperature,
        anchor=sdr.anchor,
        debias=sdr.debias,
        pdv_blend=settings.pdv.blend,
        pdv_image=settings.pdv.image,
        pdv_text=settings.pdv.text,
        desired=settings.roles.desired,
        preserve=settings.roles.preserve,
        forbidden=settings.roles.forbidden,
    )


class Inputs:
    """A run's features: of the gallery, memory-mapped, and of its queries.

    ``searcher`` searches the gallery; ``failed`` says what is missing. Raises MissingStageError
    where a stage was not run.
    """

    def __init__(self, run: Run) -> None:
        image_path = embed.image_file(run)
        if not image_path.exists():
            raise run.missing("embed", image_path, "The gallery has no features")
        texts = embed.Texts.read(run)
        text_path = embed.text_file(run, texts.distinct)
        if not text_path.exists():
            raise run.missing("embed", text_path, "The captions and edits have no features")
        self.files = [image_path, text_path]
        self.images = FeatureFile(image_path)
        self.searcher = Searcher(run, self.images)
        self.failed: dict[str, str] = {}
        lost = len(run.dataset.images) - len(self.images.names)
        if lost:
            self.failed["gallery"] = f"{lost} images have no feature and cannot be retrieved"
        self.features = self._features(run, FeatureFile(text_path), texts)
        lacking = any(None in answers for answers in texts.edits.values())
        if lacking and (why := edit.why_missing(run)):
            self.failed["edits"] = f"most of those missing: {why}"

    def _features(self, run: Run, file: FeatureFile, texts: embed.Texts) -> QueryFeatures:
        embeddings = torch.from_numpy(file.all()).float()
        row = {text: i for i, text in enumerate(file.names)}
        if lacking := next((text for text in texts.distinct if text not in row), None):
            raise InputError(
                f"{file.file} lacks the feature of {lacking!r}. Delete it and run `seize embed`."
            )
        image_row = {name: i for i, name in enumerate(self.images.names)}

        def of(texts: Sequence[str]) -> Tensor:
            return embeddings[[row[text] for text in texts]]

        gathered = []
        for query in run.queries:
            described, answers = texts.captions.get(query.id, []), texts.edits[query.id]
            good = [i for i, answer in enumerate(answers) if answer is not None]
            if not good:
                self.failed[f"query {query.id}"] = "no edited caption; its relative caption is used"
            elif len(good) < len(answers):
                missing = len(answers) - len(good)
                self.failed[f"query {query.id}"] = f"{missing} of {len(answers)} edits missing"
            place = image_row.get(query.reference)
            if place is None:
                reference = torch.zeros(self.images.shape[1])
            else:
                reference = torch.from_numpy(self.images.rows(place, place + 1)[0]).float()
            texts_of_query = described, answers, run.relative_captions(query)
            gathered.append(
                QueryEmbeddings.of(of, *texts_of_query, reference, texts.roles[query.id])
            )
        return methods.gather(
            gathered,
            lambda differences, k: _largest_drops(run, self.searcher, differences, k),
            run.config.search.normalise_texts,
        )


def _largest_drops(run: Run, searcher: Searcher, differences: list[Tensor], k: int) -> list[Tensor]:
    """Return LDRE's k largest drops of every edit over its query's gallery (edits, up to k).

    A drop is (E(caption) − E(edit))·x, so each ``differences`` row (edits, d) is one inner product.
    """
    found = [torch.zeros(len(rows), 0) for rows in differences]
    with progress(len(differences), 0, "query", "largest drops") as bar:
        for gallery in run.dataset.galleries:
            inside = _inside(run, gallery, searcher.images)
            places = [i for i, query in enumerate(run.queries) if query.gallery == gallery]
            for chunk in (places[i : i + QUERIES] for i in range(0, len(places), QUERIES)):
                rows = torch.cat([differences[i] for i in chunk])
                best, _ = searcher.best(Ends(rows, rows), inside, k)
                parts = torch.split(best.clamp(min=0), [len(differences[i]) for i in chunk])
                for i, part in zip(chunk, parts, strict=True):
                    found[i] = part
                bar.update(len(chunk))
    return found


def _inside(run: Run, gallery: str, images: FeatureFile) -> NDArray[np.bool_]:
    """Return which rows of ``images`` belong to a gallery, bool (images)."""
    members = set(run.dataset.galleries[gallery])
    return np.fromiter((name in members for name in images.names), bool, len(images.names))


@dataclass(frozen=True)
class Part:
    """The queries that search one gallery, and where it is among the features."""

    places: list[int]
    """The queries' numbers in the run."""
    inside: NDArray[np.bool_]
    """Which rows of the features belong to the gallery."""
    excluded: Tensor
    """Rows that a query never retrieves, int64 (queries, 1), -1 for none."""
    groups: list[list[int]]
    """For each query, the rows of its CIRR group that have a feature, in gallery order."""

    def slice(self, start: int, stop: int) -> "Part":
        """Return the part of some of these queries."""
        some = slice(start, stop)
        return Part(self.places[some], self.inside, self.excluded[some], self.groups[some])


def parts(run: Run, images: FeatureFile) -> list[Part]:
    """Return the run's queries by gallery."""
    row = {name: i for i, name in enumerate(images.names)}
    exclude = run.config.search.exclude_reference
    made = []
    for gallery in run.dataset.galleries:
        places = [i for i, query in enumerate(run.queries) if query.gallery == gallery]
        queries = [run.queries[i] for i in places]
        excluded = [row.get(query.reference, -1) if exclude else -1 for query in queries]
        groups = [sorted(row[name] for name in q.group if name in row) for q in queries]
        if places:
            inside = _inside(run, gallery, images)
            made.append(Part(places, inside, torch.tensor(excluded)[:, None], groups))
    return made


def rank(run: Run, score: Score, searcher: Searcher) -> list[Ranking]:
    """Return each query's best images.

    Gallery ids whose image could not be embedded are absent. Equal scores keep gallery order.
    """
    images, k = searcher.images, run.config.search.top_k
    rankings: dict[str, Ranking] = {}
    if searcher.scans:
        bar = progress(images.shape[0] * len(run.dataset.galleries), 0, "image", "search")
    else:
        bar = progress(len(run.queries), 0, "query", "search")
    with bar:
        for part in parts(run, images):
            own = score.map(itemgetter(part.places))
            best, rows = searcher.best(own, part.inside, k, part.excluded, bar.update)
            scores = []
            if any(part.groups):
                scores = scores_of(own, images, part.groups, part.inside, searcher.device)
            for ranking in rankings_of(run, part, best, rows, scores, images):
                rankings[ranking.query] = ranking
    return [rankings[query.id] for query in run.queries]


def rankings_of(
    run: Run,
    part: Part,
    best: Tensor,
    rows: Tensor,
    group_scores: Sequence[Tensor],
    images: FeatureFile,
) -> list[Ranking]:
    """Return the part's rankings from the best scores and their rows, both (queries, k).

    ``group_scores`` holds the scores of each query's group, or nothing where there are no groups.
    """
    made = []
    for i, place in enumerate(part.places):
        query, kept = run.queries[place], torch.isfinite(best[i])
        subset: dict[str, float] = {}
        if group_scores:
            subset = _subset(query, group_scores[i], part.groups[i], images)
        made.append(
            Ranking(
                query.id,
                tuple(images.names[row] for row in rows[i][kept].tolist()),
                tuple(best[i][kept].tolist()),
                tuple(subset),
                subset_scores=tuple(subset.values()),
            )
        )
    return made


def _subset(
    query: Query, scores: Tensor, group: list[int], images: FeatureFile
) -> dict[str, float]:
    """Rank the members of the query's CIRR group; those without a feature come last."""
    best, ranked = top_k(scores[None], torch.tensor(group, dtype=torch.long), len(group))
    names = [images.names[row] for row in ranked[0].tolist()]
    found = dict(zip(names, best[0].tolist(), strict=True))
    last = min(found.values(), default=0.0)
    return found | {name: last for name in query.group if name not in found}
