"""The metrics of a benchmark by other people's code: trec_eval itself, by way of pytrec_eval."""

import math
from collections.abc import Mapping

import pytrec_eval

from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import Predictions

Measured = dict[str, float]


def by_trec_eval(
    dataset: Dataset, predictions: Mapping[str, Predictions], circos_divisor: bool = True
) -> Measured:
    """Return every metric in percent, from trec_eval's values by query.

    recall@k on a single target is trec_eval's ``recall_k``. CIRCO's mAP@k divides by min(k, number
    of ground truths), trec_eval's ``map_cut_k`` by their number: the same unless there are more
    than k, so each query's value is multiplied by number / min(k, number), unless told not to.
    """
    values = {kind: _trec(dataset, kind, predictions[kind]) for kind in predictions}
    return _means(dataset, values, circos_divisor)


Values = dict[str, Mapping[str, float]]
"""Measure (``recall`` or ``map``) and cutoff, as in ``map@5``, to values by query."""


def _trec(dataset: Dataset, kind: str, lists: Predictions) -> Values:
    found: Values = {}
    for measure, cut in (("recall", "recall_{}"), ("map", "map_cut_{}")):
        names = {cut.format(k): f"{measure}@{k}" for k in _cutoffs(dataset, kind)}
        judged = pytrec_eval.RelevanceEvaluator(_judged(dataset, measure), set(names))
        results = judged.evaluate(_scored(lists))
        found |= {
            ours: {query: results[query][theirs] for query in results}
            for theirs, ours in names.items()
        }
    return found


def _scored(lists: Predictions) -> dict[str, dict[str, float]]:
    return {
        query: {image: float(len(images) - place) for place, image in enumerate(images)}
        for query, images in lists.items()
    }


def _judged(dataset: Dataset, measure: str) -> dict[str, dict[str, int]]:
    """Return what counts as relevant: the target for recall, all ground truths for mAP."""
    return {
        query.id: dict.fromkeys((query.target or "",), 1)
        if measure == "recall" or not query.ground_truths
        else dict.fromkeys(query.ground_truths, 1)
        for query in dataset.queries
    }


def _cutoffs(dataset: Dataset, kind: str) -> list[int]:
    names = [metric for metric in dataset.metrics if "@" in metric]
    prefix = kind if kind != "recall" else ("recall", "mAP")
    numbers = [name.partition("/")[0].split("@") for name in names if name.startswith(prefix)]
    return sorted({int(k) for metric, k in numbers if metric in (kind, "mAP")})


def _means(dataset: Dataset, values: Mapping[str, Values], circos_divisor: bool) -> Measured:
    """Return the benchmark's metrics by name, out of values by query."""
    found: Measured = {}
    for name in dataset.metrics:
        metric, _, part = name.partition("/")
        measure, at, k = metric.partition("@")
        if at and (part or name not in dataset.averages):
            own = values["recall" if measure == "mAP" else measure]
            chosen = [
                (query.id, len(query.ground_truths))
                for query in dataset.queries
                if not part or part in (*query.aspects, query.gallery)
            ]
            by_query = own[f"{'map' if measure == 'mAP' else 'recall'}@{k}"]
            is_circos = circos_divisor and measure == "mAP"
            factors = [count / min(int(k), count) if is_circos else 1 for _, count in chosen]
            summed = math.fsum(f * by_query[n] for f, (n, _) in zip(factors, chosen, strict=True))
            found[name] = 100 * summed / len(chosen)
    for name, parts in dataset.averages.items():
        found[name] = math.fsum(found[part] for part in parts) / len(parts)
    return found
