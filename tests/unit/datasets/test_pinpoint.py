"""PinPoint: its released metrics, and what of its annotations is said."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from pipeline import datasets
from pipeline.datasets.pinpoint import CUTOFFS, PinPoint
from pipeline.datasets.reading import read_parquet
from pipeline.demo import layouts
from pipeline.demo.layouts.pinpoint import write_rows
from pipeline.errors import InputError

FILE = "PinPoint/pinpoint_licensed.parquet"
Lists = dict[str, list[str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write("pinpoint", tmp_path_factory.mktemp("pinpoint"), queries=8)


def load(root: Path) -> PinPoint:
    loaded = datasets.load("pinpoint", "licensed", root)
    assert isinstance(loaded, PinPoint)
    return loaded


@pytest.fixture
def spoiled(world: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A copy without images, and its rows."""
    root = shutil.copytree(world, tmp_path / "copy", ignore=shutil.ignore_patterns("*.jpg"))
    return root, read_parquet(root / FILE)


def some_lists(dataset: PinPoint, seed: int) -> Lists:
    """Lists of 50 with some positives and negatives anywhere."""
    rng = np.random.default_rng(seed)
    found = {}
    known = set(dataset.galleries["all"])
    for query in dataset.queries:
        either = dict.fromkeys((*query.relevant, *query.negatives))
        wanted = [i for i in either if i in known and rng.random() < 0.6]
        others = rng.permutation([i for i in dataset.galleries["all"] if i not in wanted])
        mixed = rng.permutation([*wanted, *others[: 50 - len(wanted)]])
        found[query.id] = [str(image) for image in mixed]
    return found


def released(rows: Sequence[Mapping[str, Any]], lists: Lists) -> dict[str, float]:
    """The figures in percent as evaluate.py of the release defines them, row by row."""
    sums: dict[str, list[float]] = {}
    variations: dict[Any, list[float]] = {}
    for row in rows:
        ranked = lists[str(row["query_id"]).zfill(5)]
        good, bad = row["positive_candidates"], row["negative_candidates"]
        clean = [image for image in ranked if image not in bad]
        for k in CUTOFFS:
            hits = [image in good for image in ranked[:k]]
            for name, images in (("mAP", ranked), ("mAP_without_negatives", clean)):
                found = [image in good for image in images[:k]]
                ap = sum(sum(found[: i + 1]) / (i + 1) for i, hit in enumerate(found) if hit)
                value = ap / min(len(good), k) if good else 0.0
                sums.setdefault(f"{name}@{k}", []).append(value)
            sums.setdefault(f"precision@{k}", []).append(sum(hits) / k)
            sums.setdefault(f"recall@{k}", []).append(sum(hits) / len(good) if good else 0.0)
            wrong = sum(image in bad for image in ranked[:k])
            share = wrong / min(len(bad), k) if bad else 0.0
            sums.setdefault(f"negative_recall@{k}", []).append(share)
        images = row["query_image_signature"], row["query_image_signature2"]
        variations.setdefault(images, []).append(sums["precision@10"][-1])
    spreads = [max(own) - min(own) for own in variations.values() if len(own) > 1]
    sums["paraphrase_range@10"] = spreads
    return {name: 100 * float(np.mean(values)) for name, values in sums.items()}


def test_queries_of_two_images_and_negatives_are_read(world: Path) -> None:
    dataset = load(world)
    assert [q.id for q in dataset.queries] == [f"{n:05d}" for n in range(1, 17)]
    assert [len(q.references) for q in dataset.queries[:4]] == [2, 2, 1, 1]
    query = dataset.queries[0]
    assert 2 <= len(query.ground_truths) <= 4
    assert len(query.negatives) == 5
    assert query.reference in query.negatives
    assert dataset.has_ground_truth


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_the_releases_also_with_repeats_and_ids_in_both_lists(
    spoiled: tuple[Path, list[dict[str, Any]]], seed: int
) -> None:
    root, rows = spoiled
    for row in rows[:5]:
        row["positive_candidates"] += row["positive_candidates"][:2]
    rows[5]["negative_candidates"].append(rows[5]["positive_candidates"][0])
    rows[6]["negative_candidates"] = []
    rows[7]["positive_candidates"] = []
    rows[8]["positive_candidates"] = [f"{n:032x}" for n in range(60)]
    write_rows(root / FILE, rows)
    dataset = load(root)
    lists = some_lists(dataset, seed)
    ours = dataset.evaluate({"recall": lists})
    expected = released(rows, lists)
    assert {name: ours[name] for name in expected} == pytest.approx(expected)
    assert 0 < ours["mAP@10"] < 100


def test_trec_eval_gives_the_same_precision_and_recall(world: Path) -> None:
    dataset = load(world)
    lists = some_lists(dataset, 1)
    scored = {q: {i: -float(n) for n, i in enumerate(images)} for q, images in lists.items()}
    judged = {q.id: dict.fromkeys(q.ground_truths, 1) for q in dataset.queries}
    measures = {"P_5": "precision@5", "P_10": "precision@10", "recall_10": "recall@10"}
    measures |= {"map_cut_5": "mAP@5", "map_cut_10": "mAP@10"}  # no query has more positives
    theirs = pytrec_eval.RelevanceEvaluator(judged, set(measures)).evaluate(scored)
    ours = dataset.evaluate({"recall": lists})
    for name, metric in measures.items():
        mean = np.mean([values[name] for values in theirs.values()])
        assert ours[metric] == pytest.approx(100 * mean)


def test_paraphrases_are_told_from_other_wishes_about_the_same_image(
    spoiled: tuple[Path, list[dict[str, Any]]],
) -> None:
    root, rows = spoiled
    rows[3]["positive_candidates"] = rows[0]["positive_candidates"]  # 2 and 3 share their image
    write_rows(root / FILE, rows)
    dataset = load(root)
    lists = {q.id: list(q.negatives) for q in dataset.queries}
    lists["00001"] = list(dataset.queries[0].ground_truths)
    lists["00004"] = list(dataset.queries[3].ground_truths)
    reached = len(dataset.queries[0].ground_truths) / 10
    values = dataset.per_query({"recall": lists})
    assert values["paraphrase_range@10"]["00001"] == pytest.approx(reached)
    assert values["paraphrase_range@10"]["00003"] == pytest.approx(reached)
    assert len(values["paraphrase_range@10"]) == 8
    same_truth = values["paraphrase_range_same_truth@10"]
    assert same_truth["00001"] == pytest.approx(reached)
    assert "00003" not in same_truth


def test_what_is_odd_about_the_annotations_is_counted(
    spoiled: tuple[Path, list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    root, rows = spoiled
    rows[0]["positive_candidates"] += rows[0]["positive_candidates"][:1]
    rows[1]["negative_candidates"].append(rows[1]["positive_candidates"][0])
    rows[2]["positive_candidates"].append(rows[2]["query_image_signature"])
    rows[3]["positive_candidates"] = []
    rows[4]["negative_candidates"] += ["f" * 32, "e" * 32]
    rows[5]["positive_candidates"] = ["d" * 32]
    write_rows(root / FILE, rows)
    load(root)
    for said in (
        "4 queries have two reference images",
        "1 queries list a positive more than once",
        "2 queries have an image that is both positive and negative",
        "1 queries have no positive and count as 0",
        "1 queries have a positive that is not in the index",
        "1 queries have their reference among the positives",
        "16 queries have their reference among the negatives",
        "2 negatives are not in the index",
    ):
        assert said in caplog.text, said


def test_a_query_without_predictions_is_an_error(world: Path, tmp_path: Path) -> None:
    dataset = load(world)
    lists = some_lists(dataset, 0)
    content = dataset.submission("recall", lists)
    assert content["00001"] == {"retrieved_items": lists["00001"]}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(content))
    kind, read = dataset.read_submission(content, file)
    assert (kind, read) == ("recall", lists)
    assert dataset.check(file).errors == []
    del content["00003"]
    with pytest.raises(InputError, match=r"1 of 16 queries .* have no recall predictions.*00003"):
        dataset.evaluate({"recall": dataset.read_submission(content, file)[1]})
    content["00003"] = {"items": []}
    with pytest.raises(InputError, match=r"run\.json, query 00003: 'retrieved_items' is missing"):
        dataset.read_submission(content, file)


def test_images_may_lie_in_the_folders_they_are_served_from(world: Path, tmp_path: Path) -> None:
    root = shutil.copytree(world, tmp_path / "copy") / "PinPoint"
    for file in (root / "images").iterdir():
        name = file.stem
        place = root / "736x" / name[:2] / name[2:4] / name[4:6] / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
    dataset = load(root)
    assert all(file.is_file() for file in dataset.images.values() if isinstance(file, Path))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda row: row.pop("instruction"), "row 1: 'instruction' is"),
        (lambda row: row.update(instruction=""), "row 1: 'instruction' is wrong"),
        (lambda row: row.update(positive_candidates=None), "row 1: 'positive_candidates' is wrong"),
        (lambda row: row.update(query_id=1), "query 00001 appears more than once"),
        (lambda row: row.update(query_image_signature="../../x"), "leaves the dataset's folder"),
    ],
)
def test_bad_rows_name_file_row_and_field(
    spoiled: tuple[Path, list[dict[str, Any]]], change: Any, named: str
) -> None:
    root, rows = spoiled
    change(rows[1])
    write_rows(root / FILE, rows)
    with pytest.raises(InputError, match=named):
        load(root)


def test_a_file_that_is_no_parquet_and_a_line_that_is_no_text_are_named(
    spoiled: tuple[Path, list[dict[str, Any]]],
) -> None:
    root, _ = spoiled
    index = root / "PinPoint" / "index_signatures.txt"
    index.write_bytes(index.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"index_signatures\.txt, line \d+ is no UTF-8"):
        load(root)
    (root / FILE).write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"pinpoint_licensed\.parquet is not a Parquet file"):
        load(root)
