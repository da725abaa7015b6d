"""The search stage: rank the gallery for every query, from features on disk and no model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import caption, edit, embed, methods
from pipeline.cache import FeatureFile, RecordFile, atomic, fingerprint, provenance, storage_errors
from pipeline.config import resolve_device
from pipeline.methods import Parameters, QueryFeatures
from pipeline.records import Query, Ranking
from pipeline.run import Run, StageReport, progress, stage
from pipeline.scoring import Ends, mean_feature, normalise, top_k

BLOCK = 16_384
"""Gallery images scored at a time: bounds the extra memory whatever the gallery's size."""


QUERIES = 64
"""Queries whose captions LDRE compares with the gallery at a time, 15 vectors each."""


def header(run: Run) -> dict[str, Any]:
    """Return everything that changes the ranking."""
    search = run.config.search
    return {
        "stage": "search",
        "method": search.method,
        "increment": run.config.increment_for(run.dataset.name).model_dump(),
        "drops": search.drops,
        "temperature": search.temperature,
        "normalise_texts": search.normalise_texts,
        "exclude_reference": search.exclude_reference,
        "caption_separator": run.config.dataset.caption_separator,
        "top_k": search.top_k,
        "limited_to": None if run.dataset.complete else len(run.queries),
        "clip": embed.header(run),
        "captions": fingerprint(caption.header(run)),
        "edits": fingerprint(edit.header(run)),
        "queries": run.dataset.fingerprint,
        "gallery": run.dataset.gallery_fingerprint,
    }


def ranking_file(run: Run) -> RecordFile:
    """Return the file of rankings: ``{"query", "images", "scores", "subset"}`` a line."""
    content = header(run)
    file = run.file("search", run.config.search.method, fingerprint(content), ".jsonl")
    return RecordFile(file, content)


def read(run: Run) -> list[Ranking]:
    """Return the rankings in query order; raises MissingStageError where there are none."""
    records = ranking_file(run)
    rankings = [
        Ranking(r["query"], tuple(r["images"]), tuple(r["scores"]), tuple(r["subset"]))
        for r in records.read()
    ]
    if not rankings:
        raise run.missing("search", records.file, "There is no ranking")
    return rankings


def search(run: Run) -> StageReport:
    """Rank every query's gallery and write the ranking, completely or not at all."""
    method = methods.find(run.config.search.method)
    output = ranking_file(run)
    image_path = embed.image_file(run)
    if not image_path.exists():
        raise run.missing("embed", image_path, "The gallery has no features")
    texts = embed.texts(run)
    text_path = embed.text_file(run, texts)
    if not text_path.exists():
        raise run.missing("embed", text_path, "The captions and edits have no features")
    with stage("search", run, [image_path, text_path], output.file) as report:
        images = FeatureFile(image_path)
        lost = len(run.dataset.images) - len(images.names)
        if lost:
            report.failed["gallery"] = f"{lost} images have no feature and cannot be retrieved"
        features = _query_features(run, images, FeatureFile(text_path), report)
        ends = method(features, _parameters(run))
        rankings = rank(run, ends, images)
        lines = [{"header": output.header | provenance()}, *(asdict(r) for r in rankings)]
        with atomic(output.file) as temporary, storage_errors(output.file):
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        report.computed = len(rankings)
    return report


def _parameters(run: Run) -> Parameters:
    increment = run.config.increment_for(run.dataset.name)
    settings = run.config.search
    return Parameters(increment.positive, increment.negative, settings.drops, settings.temperature)


def _query_features(
    run: Run, images: FeatureFile, texts: FeatureFile, report: StageReport
) -> QueryFeatures:
    embeddings = torch.from_numpy(texts.all()).float()
    row = {text: i for i, text in enumerate(texts.names)}
    image_row = {name: i for i, name in enumerate(images.names)}
    captions, edits = caption.read(run), edit.read(run)
    first_normalise = run.config.search.normalise_texts

    def mean(texts: Sequence[str]) -> Tensor:
        return mean_feature(embeddings[[row[text] for text in texts]], first_normalise)

    content, composed, first, relative, reference = [], [], [], [], []
    edits_each, differences = [], []
    for query in run.queries:
        change = run.relative_caption(query)
        described = captions.get(query.reference, [])
        answers = [edits.get((text, change)) for text in described]
        edited = [text for text in answers if text is not None]
        missing = len(answers) - len(edited)
        if not edited:
            report.failed[f"query {query.id}"] = "no edited caption; its relative caption is used"
        elif missing:
            report.failed[f"query {query.id}"] = f"{missing} of {len(answers)} edits missing"
        after = [row[text] for text in edited]
        before = [row[t] for t, answer in zip(described, answers, strict=True) if answer]
        edits_each.append(normalise(embeddings[after]))
        differences.append(normalise(embeddings[before]) - edits_each[-1])
        content.append(mean(described or [change]))
        composed.append(mean(edited or [change]))
        first.append(mean(edited[:1] or [change]))
        relative.append(mean([change]))
        place = image_row.get(query.reference)
        if place is None:
            reference.append(torch.zeros(images.shape[1]))
        else:
            pixels = images.rows(place, place + 1)[0]
            reference.append(normalise(torch.from_numpy(pixels).float()))
    return QueryFeatures(
        torch.stack(content),
        torch.stack(composed),
        torch.stack(first),
        torch.stack(relative),
        torch.stack(reference),
        edits_each,
        partial(_largest_drops, run, images, differences),
    )


def _largest_drops(
    run: Run, images: FeatureFile, differences: list[Tensor], k: int
) -> list[Tensor]:
    """Return LDRE's u: for each query and edit, the sum of the k largest drops in its gallery.

    A drop is (E(caption) − E(edit))·x, so each ``differences`` row (edits, d) is one inner product.
    """
    device = resolve_device(run.config.runtime.device)
    sums = [torch.zeros(len(rows)) for rows in differences]
    with progress(len(differences), 0, "query", "largest drops") as bar:
        for gallery in run.dataset.galleries:
            inside = _inside(run, gallery, images)
            places = [i for i, query in enumerate(run.queries) if query.gallery == gallery]
            for chunk in (places[i : i + QUERIES] for i in range(0, len(places), QUERIES)):
                rows = torch.cat([differences[i] for i in chunk]).to(device)
                best, _ = _top(Ends(rows, rows), images, inside, [-1] * len(rows), k)
                split = torch.split(
                    best.clamp(min=0).sum(dim=1), [len(differences[i]) for i in chunk]
                )
                for i, part in zip(chunk, split, strict=True):
                    sums[i] = part
                bar.update(len(chunk))
    return sums


def _inside(run: Run, gallery: str, images: FeatureFile) -> NDArray[np.bool_]:
    """Return which rows of ``images`` belong to a gallery, bool (images)."""
    members = set(run.dataset.galleries[gallery])
    return np.fromiter((name in members for name in images.names), bool, len(images.names))


def rank(run: Run, ends: Ends, images: FeatureFile) -> list[Ranking]:
    """Score the gallery block by block and return each query's best images.

    Gallery ids whose image could not be embedded are absent. Equal scores keep gallery order.
    """
    device = resolve_device(run.config.runtime.device)
    row = {name: i for i, name in enumerate(images.names)}
    ends = ends.map(lambda vectors: vectors.to(device))
    rankings: dict[str, Ranking] = {}
    total = images.shape[0] * len(run.dataset.galleries)
    with progress(total, 0, "image", "search") as bar:
        for gallery in run.dataset.galleries:
            places = [i for i, query in enumerate(run.queries) if query.gallery == gallery]
            if not places:
                continue
            inside = _inside(run, gallery, images)
            queries = [run.queries[i] for i in places]
            excluded = [
                row.get(query.reference, -1) if run.config.search.exclude_reference else -1
                for query in queries
            ]
            scores, rows = _top(
                ends.map(itemgetter(places)),
                images,
                inside,
                excluded,
                run.config.search.top_k,
                bar.update,
            )
            for i, query in enumerate(queries):
                kept = torch.isfinite(scores[i])
                rankings[query.id] = Ranking(
                    query.id,
                    tuple(images.names[r] for r in rows[i][kept].tolist()),
                    tuple(scores[i][kept].tolist()),
                    _subset(query, ends.map(itemgetter([places[i]])), images, row),
                )
    return [rankings[query.id] for query in run.queries]


def _top(
    ends: Ends,
    images: FeatureFile,
    inside: NDArray[np.bool_],
    excluded: Sequence[int],
    k: int,
    advance: Callable[[int], Any] = lambda count: None,
) -> tuple[Tensor, Tensor]:
    """Return the best scores (queries, k) and their rows, over the rows that are ``inside``."""
    device = ends.positive.device
    queries = ends.positive.shape[0]
    best = torch.empty(queries, 0)
    best_rows = torch.empty(queries, 0, dtype=torch.long)
    outside = torch.tensor(excluded)
    for start in range(0, images.shape[0], BLOCK):
        stop = min(start + BLOCK, images.shape[0])
        chosen = torch.from_numpy(inside[start:stop])
        rows = torch.arange(start, stop)[chosen]
        if len(rows):
            block = torch.from_numpy(images.rows(start, stop)).float()[chosen]
            scores = ends.scores(normalise(block.to(device))).cpu()
            scores[rows[None, :] == outside[:, None]] = float("-inf")
            found, found_rows = top_k(scores, rows, k)
            best, best_rows = _merge(best, best_rows, found, found_rows, k)
        advance(stop - start)
    return best, best_rows


def _merge(
    best: Tensor, best_rows: Tensor, found: Tensor, found_rows: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Merge two ranked lists; a stable sort keeps earlier blocks first among equal scores."""
    scores = torch.cat([best, found], dim=1)
    rows = torch.cat([best_rows, found_rows], dim=1)
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.values[:, :k], rows.gather(1, ranked.indices)[:, :k]


def _subset(query: Query, ends: Ends, images: FeatureFile, row: dict[str, int]) -> tuple[str, ...]:
    """Rank the members of the query's CIRR group; those without a feature come last."""
    if not query.group:
        return ()
    places = sorted(row[name] for name in query.group if name in row)
    lost = tuple(name for name in query.group if name not in row)
    if not places:
        return lost
    features = np.concatenate([images.rows(place, place + 1) for place in places])
    block = torch.from_numpy(features).float().to(ends.positive.device)
    scores = ends.scores(normalise(block)).cpu()
    _, ranked = top_k(scores, torch.tensor(places), len(places))
    return tuple(images.names[place] for place in ranked[0].tolist()) + lost
