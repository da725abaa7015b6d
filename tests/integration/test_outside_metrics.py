"""Every metric of every benchmark, computed by trec_eval on the same rankings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets.base import Dataset
from pipeline.demo import layouts
from pipeline.run import Run
from tests.outside import by_trec_eval

MakeRun = Callable[..., Run]


def rankings(dataset: Dataset, seed: int) -> dict[str, dict[str, list[str]]]:
    """Return lists of 50 in which what is relevant stands anywhere, or not at all."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in dataset.kinds}
    for query in dataset.queries:
        images = [i for i in dataset.galleries[query.gallery] if i != query.reference]
        early = [image for image in query.relevant if rng.random() < 0.7]
        others = [image for image in rng.permutation(images) if image not in query.relevant]
        whole = [str(image) for image in (*early, *others[: 50 - len(early)])]
        steps = rng.exponential(8, len(early)).cumsum()
        places = np.concatenate([steps, rng.permutation(50)[: len(whole) - len(early)] + 0.5])
        found["recall"][query.id] = [whole[i] for i in np.argsort(places)][:50]
        if "recall_subset" in found:
            found["recall_subset"][query.id] = [str(i) for i in rng.permutation(query.group)]
    return found


def with_many_ground_truths(dataset: Dataset) -> Dataset:
    """Return a benchmark that has several with up to 14 ground truths a query, as CIRCO has."""
    for number, query in enumerate(dataset.queries):
        if query.ground_truths:
            others = [i for i in dataset.images if i not in (query.reference, query.target)]
            more = (query.target or "", *others[: number % 14])
            dataset.queries[number] = replace(query, ground_truths=more)
    return dataset


@pytest.mark.parametrize("name", ["circo", "cirr", "fashioniq"])
def test_other_peoples_code_gives_the_same_figures(make_run: MakeRun, name: str) -> None:
    dataset = with_many_ground_truths(make_run(name).dataset)
    measured: list[float] = []
    for seed in range(10):
        lists = rankings(dataset, seed)
        ours = dataset.evaluate(lists)
        assert by_trec_eval(dataset, lists) == pytest.approx(ours, abs=1e-9)
        measured.append(ours[dataset.headline])
    assert 0 < np.mean(measured) < 100


@pytest.mark.parametrize(
    "name", ["enhfashioniq", "facap", "fine-cirr", "fine-fashioniq", "genecis", "shoes"]
)
def test_other_peoples_code_gives_the_recalls_of_other_benchmarks(
    tmp_path: Path, name: str
) -> None:
    split = datasets.find(name).splits[0]
    dataset = datasets.load(name, split, layouts.write(name, tmp_path, queries=6))
    measured: list[float] = []
    for seed in range(5):
        lists = rankings(dataset, seed)
        ours = dataset.evaluate(lists)
        assert by_trec_eval(dataset, lists) == pytest.approx(ours, abs=1e-9)
        measured.append(ours[dataset.headline])
    assert 0 < np.mean(measured) < 100


def test_the_divisor_is_what_differs_where_ground_truths_are_more_than_k(
    make_run: MakeRun,
) -> None:
    """A perfect list has CIRCO's AP@5 1, and trec_eval's 5 / number of ground truths."""
    dataset = with_many_ground_truths(make_run("circo").dataset)
    perfect = {query.id: list(query.ground_truths) for query in dataset.queries}
    counts = [len(query.ground_truths) for query in dataset.queries]
    assert max(counts) > 5
    assert dataset.evaluate({"recall": perfect})["mAP@5"] == 100
    assert by_trec_eval(dataset, {"recall": perfect})["mAP@5"] == pytest.approx(100)
    without = by_trec_eval(dataset, {"recall": perfect}, circos_divisor=False)["mAP@5"]
    assert without == pytest.approx(100 * np.mean([min(5, n) / n for n in counts]))
