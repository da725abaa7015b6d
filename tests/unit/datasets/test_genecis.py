"""GeneCIS: galleries by query, crops as they are published, ties that count against the target."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets.genecis import TASKS, GeneCis
from pipeline.demo import layouts
from pipeline.errors import InputError
from pipeline.images.files import open_image
from pipeline.records import Crop, Ranking


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write("genecis", tmp_path_factory.mktemp("genecis"), queries=3)


def load(root: Path, split: str = "all") -> GeneCis:
    loaded = datasets.load("genecis", split, root)
    assert isinstance(loaded, GeneCis)
    return loaded


def rankings(dataset: GeneCis, scores: list[float]) -> list[Ranking]:
    """The same scores for each query, in the order of its gallery: the target has the last."""
    return [
        Ranking(q.id, tuple(dataset.galleries[q.gallery]), tuple(scores)) for q in dataset.queries
    ]


def test_every_query_has_a_gallery_of_its_own_with_the_target(world: Path) -> None:
    dataset = load(world)
    assert [q.id for q in dataset.queries[:4]] == [
        *(f"focus_attribute-{n}" for n in range(3)), "change_attribute-0",
    ]  # fmt: skip
    for query in dataset.queries:
        gallery = dataset.galleries[query.gallery]
        assert len(gallery) == 15
        assert gallery[-1] == query.target
        assert query.reference not in gallery
    assert dataset.strata() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    dataset.limit(2)
    assert len(dataset.queries) == 8
    assert not dataset.complete


@pytest.mark.parametrize("task", TASKS)
def test_a_task_alone_is_a_split(world: Path, task: str) -> None:
    dataset = load(world, task)
    assert {q.aspects for q in dataset.queries} == {(task,)}
    assert dataset.metrics == ["recall@1", "recall@2", "recall@3"]


def test_the_headline_is_the_mean_of_the_tasks(world: Path) -> None:
    dataset = load(world)
    lists = {q.id: [q.target or ""] for q in dataset.queries if q.aspects == ("focus_object",)}
    missed = {q.id: dataset.galleries[q.gallery][:3] for q in dataset.queries}
    metrics = dataset.evaluate({"recall": missed | lists})
    assert metrics["recall@1/focus_object"] == 100
    assert metrics["recall@1/change_object"] == 0
    assert metrics["recall@1"] == 25


def test_equal_scores_count_against_the_target(world: Path) -> None:
    dataset = load(world, "change_object")
    everything = rankings(dataset, [0.5] * 15)
    assert dataset.evaluate(dataset.predictions(everything))["recall@3"] == 0
    turned = [Ranking(r.query, r.images[::-1], r.scores) for r in everything]
    assert dataset.evaluate(dataset.predictions(turned))["recall@3"] == 0
    best = [Ranking(r.query, r.images[::-1], (0.6, *r.scores[1:])) for r in everything]
    assert dataset.evaluate(dataset.predictions(best))["recall@1"] == 100
    tied = [Ranking(r.query, r.images[::-1], (0.6, 0.6, *r.scores[2:])) for r in everything]
    metrics = dataset.evaluate(dataset.predictions(tied))
    assert (metrics["recall@1"], metrics["recall@2"]) == (0, 100)
    told = (0.9, *[0.1] * 14)  # a verifier tells them apart
    verified = [Ranking(r.query, r.images[::-1], r.scores, probabilities=told) for r in everything]
    assert dataset.evaluate(dataset.predictions(verified))["recall@1"] == 100


def test_the_demos_objects_are_whole_scenes(world: Path) -> None:
    dataset = load(world, "focus_attribute")
    crop = dataset.images[dataset.queries[0].reference]
    assert isinstance(crop, Crop)
    cropped = np.asarray(open_image(crop))
    whole = np.asarray(open_image(crop.file))
    side = 64 if crop.box[0] > 64 else 0
    np.testing.assert_array_equal(cropped, whole[:, side : side + 64])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda entry: entry.pop("condition"), "'condition' is missing"),
        (lambda entry: entry.update(gallery=[]), "'gallery' is wrong"),
        (lambda entry: entry["target"].pop("instance_bbox"), "'target.instance_bbox' is missing"),
        (lambda entry: entry["gallery"][2].update(instance_bbox=[1, 2, 3]), "gallery.2.instance"),
        (lambda entry: entry["reference"].update(image_id="../x"), "'reference.image_id' is wrong"),
    ],
)
def test_bad_annotations_name_file_entry_and_field(
    world: Path, tmp_path: Path, change: Any, named: str
) -> None:
    content = json.loads((world / "GeneCIS" / "focus_attribute.json").read_text())
    change(content[1])
    (tmp_path / "focus_attribute.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"focus_attribute\.json, entry 1: .*{named}"):
        load(tmp_path, "focus_attribute")


def test_what_spoils_a_gallery_is_said(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((world / "GeneCIS" / "change_object.json").read_text())
    content[0]["gallery"][3] = content[0]["target"]
    content[1]["gallery"][0] = content[1]["reference"]
    (tmp_path / "change_object.json").write_text(json.dumps(content))
    dataset = load(tmp_path, "change_object")
    assert "1 queries have their target among the distractors, too" in caplog.text
    assert "1 queries have their reference image in the gallery" in caplog.text
    assert len(dataset.galleries["change_object-0"]) == 14
    assert dataset.galleries["change_object-0"][-1] == dataset.queries[0].target


def test_8000_galleries_are_read_and_checked_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for task in TASKS:
        numbers = rng.integers(0, 5_000, (2_000, 16))
        images = [[{"val_image_id": int(n)} for n in row] for row in numbers]
        if task.endswith("attribute"):
            images = [
                [{"image_id": int(n), "instance_bbox": [1, 2, 3, 4]} for n in row]
                for row in numbers
            ]
        entries = [
            {"condition": "red", "reference": own[0], "target": own[1], "gallery": own[2:]}
            for own in images
        ]
        (tmp_path / f"{task}.json").write_text(json.dumps(entries))
    dataset = load(tmp_path)
    assert len(dataset.galleries) == 8_000
    found = dataset.evaluate({"recall": {q.id: [q.target or ""] for q in dataset.queries}})
    assert found["recall@1"] == 100
