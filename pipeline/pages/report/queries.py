"""What the report shows of each query: plain data for the page's script."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.config import resolve_device
from pipeline.errors import InputError, MissingStageError
from pipeline.pages.report.plans import plans
from pipeline.records import Query, Ranking
from pipeline.retrieval import methods
from pipeline.retrieval.parts import parts
from pipeline.retrieval.ranking import places_of, scores_of
from pipeline.retrieval.scoring import Ends
from pipeline.run import Run, log
from pipeline.stages import caption, edit, search
from pipeline.stages.inputs import Inputs
from pipeline.store.jsonl import read_header
from pipeline.study.compare import read_ranking

FROM_FEATURES = ("clip", "captions", "edits", "normalise_texts")
"""Fields of a ranking's header that say which content and composed features it was made from."""


@dataclass(frozen=True)
class Side:
    """One ranking that the report shows."""

    name: str
    rankings: dict[str, Ranking]
    """By query id, of every query of the run."""
    header: dict[str, Any]
    file: Path
    method: str = ""
    """The method of this run that made it; empty for a file that was given."""

    def values(self, run: Run) -> dict[str, dict[str, float]]:
        """Return each metric's value in [0, 1] by query id; InputError without ground truth."""
        rankings = list(self.rankings.values())
        return run.dataset.per_query(run.dataset.predictions(rankings))


def side_of_run(run: Run) -> Side:
    """Return the run's own ranking; raises MissingStageError where there is none."""
    rankings = search.read(run)
    file = search.ranking_file(run).file
    name = run.config.search.method
    return _side(run, name, rankings, read_header(file), file, name)


def side_of(run: Run, other: str) -> Side:
    """Return another ranking: by a method's name, of the same run, or a file of the search stage.

    Raises ConfigError for neither, InputError for a ranking of other queries or images.
    """
    if not other.endswith(".jsonl"):
        methods.find(other)
        return side_of_run(run.with_method(other))
    file = Path(other)
    rankings, header = read_ranking(file)
    if header.get("queries") != run.dataset.fingerprint:
        raise InputError(
            f"{file} ranks other queries than those of {run.name}: give a ranking of this dataset "
            "and split."
        )
    wanted = {query.id for query in run.queries}
    return _side(run, file.stem, [r for r in rankings if r.query in wanted], header, file)


def _side(
    run: Run,
    name: str,
    rankings: Sequence[Ranking],
    header: dict[str, Any],
    file: Path,
    method: str = "",
) -> Side:
    for kind, lists in run.dataset.predictions(rankings).items():
        run.dataset.check_predictions(kind, lists)
    by_id = {ranking.query: ranking for ranking in rankings}
    return Side(name, {query.id: by_id[query.id] for query in run.queries}, header, file, method)


@dataclass(frozen=True)
class Similarity:
    """What an image's score is made of."""

    absolute: float
    """Absolute similarity: cosine of composed feature and image."""
    increment: float
    """Semantic editing increment: absolute similarity less that of the content feature."""
    place: int
    """Its place in the query's ranking by absolute similarity alone, 1 for the best."""


def similarities(
    run: Run, inputs: Inputs, asked: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, Similarity]]:
    """Return, by query id, the similarities of the ``asked`` images that have a feature."""
    device = resolve_device(run.config.runtime.device)
    content_of, composed_of = inputs.clues.vectors("content"), inputs.clues.vectors("composed")
    found: dict[str, dict[str, Similarity]] = {}
    for part in parts(run, inputs.images):
        row = part.row
        names = [
            [name for name in dict.fromkeys(asked.get(run.queries[i].id, ())) if name in row]
            for i in part.places
        ]
        rows = [[row[name] for name in some] for some in names]
        width = max(map(len, rows), default=0)
        padded = torch.tensor([some + [-1] * (width - len(some)) for some in rows])
        content, composed = content_of[part.places], composed_of[part.places]
        before = scores_of(Ends(content, content), part.gallery, rows, device=device)
        after = scores_of(Ends(composed, composed), part.gallery, rows, device=device)
        places = places_of(
            composed, part.gallery, padded.long(), part.inside, part.excluded, device
        )
        for number, place in enumerate(part.places):
            found[run.queries[place].id] = {
                name: Similarity(float(a), float(a - b), int(p))
                for name, a, b, p in zip(
                    names[number], after[number], before[number], places[number], strict=False
                )
            }
    return found


@dataclass
class Contents:
    """Everything that the page's script shows."""

    queries: list[dict[str, Any]]
    images: list[str]
    """Ids of all images shown, each once, by first appearance; queries hold their numbers."""
    metrics: list[str]
    """What each query has a value of; empty without ground truth."""
    lacking: list[str]
    """What could not be read, in words."""
    has_similarities: bool


class _Numbers(dict[str, int]):
    """Numbers image ids by first appearance."""

    def __call__(self, images: Iterable[str]) -> list[int]:
        return [self.setdefault(image, len(self)) for image in images]


def contents(run: Run, sides: Sequence[Side], shown: Sequence[Query], top: int) -> Contents:
    """Return what is shown of the ``shown`` queries: ``top`` images of each side, and texts.

    Where captions, edits or features are gone, what there is.
    """
    lacking: list[str] = []
    captions = _attempt(run, "captions", lambda: caption.read(run), lacking) or {}
    edits = _attempt(run, "edited captions", lambda: edit.read(run), lacking) or {}
    ranked_by = [side.method for side in sides if side.method]
    planned = _attempt(run, "plans", lambda: plans(run, ranked_by), lacking) or {}
    measured = [side for side in sides if _shares_features(side, sides[0])]
    asked = {query.id: _images(query, measured, top) for query in shown}
    measurable = _attempt(run, "features", lambda: similarities(run, Inputs(run), asked), lacking)
    found = measurable or {}
    metrics, values = _metrics(run, sides)
    numbers = _Numbers()
    entries = []
    for query in shown:
        entry: dict[str, Any] = {
            "id": query.id,
            "references": numbers(query.references),
            "relative": list(query.relative_captions),
            "concept": query.shared_concept,
            "parts": list(query.aspects or ((query.gallery,) if run.dataset.parts else ())),
            "truth": numbers(query.relevant),
            "captions": _texts(captions.get(query.id, []), edits.get(query.id)),
            "plans": planned.get(query.id, []),
            "sides": [],
        }
        for number, (side, own) in enumerate(zip(sides, values, strict=True)):
            other = sides[1 - number].rankings[query.id] if len(sides) == 2 else None
            known = found.get(query.id, {}) if side in measured else {}
            lists = _lists(query, side.rankings[query.id], other, known, top)
            entry["sides"].append(
                {"metrics": [round(own[metric][query.id], 4) for metric in metrics]}
                | {n: {**one, "images": numbers(one["images"])} for n, one in lists.items()}
            )
        entries.append(entry)
    return Contents(entries, list(numbers), metrics, lacking, measurable is not None)


Found = TypeVar("Found")


def _attempt(run: Run, what: str, read: Callable[[], Found], lacking: list[str]) -> Found | None:
    try:
        return read()
    except (MissingStageError, InputError) as error:
        log.warning("[report %s] goes without the %s: %s", run.name, what, error)
        lacking.append(what)
        return None


def _shares_features(side: Side, first: Side) -> bool:
    return all(side.header.get(name) == first.header.get(name) for name in FROM_FEATURES)


def _images(query: Query, sides: Iterable[Side], top: int) -> list[str]:
    lists = [_lists(query, side.rankings[query.id], None, {}, top) for side in sides]
    return [image for found in lists for one in found.values() for image in one["images"]]


def _lists(
    query: Query,
    ranking: Ranking,
    other: Ranking | None,
    known: Mapping[str, Similarity],
    top: int,
) -> dict[str, dict[str, list[Any]]]:
    """Return the lists of images that are shown of one ranking, those that are not empty.

    ``top`` holds its first images, ``missed`` the ground truth that is not among them, ``subset``
    the ranking within the query's group. Each has a figure an image, None where it is not known.
    """
    place = {image: i for i, image in enumerate(ranking.images, start=1)}
    scores = dict(zip(ranking.images, ranking.scores, strict=True))
    missed = [image for image in query.relevant if place.get(image, top + 1) > top]
    missed.sort(key=lambda image: place.get(image, len(place) + 1))
    group = {image: i for i, image in enumerate(ranking.subset, start=1)}
    of_other = {image: i for i, image in enumerate(other.images, start=1)} if other else None
    in_group = {image: i for i, image in enumerate(other.subset, start=1)} if other else None

    def listed(
        images: Sequence[str], ranks: Mapping[str, int], others: Mapping[str, int] | None
    ) -> dict[str, list[Any]]:
        found = [known.get(image) for image in images]
        columns: dict[str, list[Any]] = {
            "images": list(images),
            "ranks": [ranks.get(image) for image in images],
            "scores": [round(scores[i], 4) if i in scores else None for i in images],
        }
        if others is not None:
            columns["other"] = [others.get(image) for image in images]
        if known:
            columns["absolute"] = [one and round(one.absolute, 4) for one in found]
            columns["increment"] = [one and round(one.increment, 4) for one in found]
            columns["place"] = [one and one.place for one in found]
        return columns

    shown = {
        "top": listed(ranking.images[:top], place, of_other),
        "missed": listed(missed, place, of_other),
        "subset": listed(ranking.subset, group, in_group),
    }
    return {name: columns for name, columns in shown.items() if columns["images"]}


def _metrics(
    run: Run, sides: Sequence[Side]
) -> tuple[list[str], list[dict[str, dict[str, float]]]]:
    """Return the metrics that every query has, the headline first, and each side's values."""
    if not run.dataset.has_ground_truth:
        return [], [{} for _ in sides]
    values = [side.values(run) for side in sides]
    each = [
        {m: run.dataset.of_each_query(own, m) for m in dict.fromkeys([run.dataset.headline, *own])}
        for own in values
    ]
    metrics = [name for name, own in each[0].items() if len(own) == len(run.queries)]
    return metrics, each


def _texts(captions: Sequence[str], edits: Sequence[str | None] | None) -> list[list[str | None]]:
    """Return each caption beside its edit, None where that failed; alone where none were made."""
    if edits is None:
        return [[text] for text in captions]
    return [[captions[i % len(captions)], text] for i, text in enumerate(edits)]
