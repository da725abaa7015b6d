"""Benchmarks of FashionIQ's and CIRR's shape that are neither, Shoes and Fashion200K."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import datasets
from pipeline.datasets.base import Dataset
from pipeline.datasets.fashion200k import change
from pipeline.demo import layouts
from pipeline.errors import InputError
from pipeline.records import file_of

NAMES = ("enhfashioniq", "facap", "fashion200k", "fine-cirr", "fine-fashioniq", "shoes")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worlds")
    for name in NAMES:
        layouts.write(name, root / name, queries=2)
    return root


@pytest.fixture
def copied(worlds: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A function that copies a world without its images, to be spoiled."""
    without = shutil.ignore_patterns("*.jpg", "*.jpeg", "*.png")
    return lambda name: shutil.copytree(worlds / name, tmp_path / name, ignore=without)


def load(root: Path, name: str, gallery: str = "split") -> Dataset:
    return datasets.load(name, datasets.find(name).splits[0], root, gallery)


@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_where_the_reader_says(worlds: Path, name: str) -> None:
    dataset = load(worlds / name, name)
    assert all(file_of(file).is_file() for file in dataset.images.values())
    for query in dataset.queries:
        gallery = dataset.galleries[query.gallery]
        assert query.reference in gallery
        assert set(query.relevant) <= set(gallery)
    best = {
        kind: {
            q.id: [
                *q.relevant,
                *(i for i in dataset.galleries[q.gallery] if i not in (q.reference, *q.relevant)),
            ]
            for q in dataset.queries
        }
        for kind in dataset.kinds
    }
    if "recall_subset" in best:
        best["recall_subset"] = {q.id: list(q.group) for q in dataset.queries}
    assert dataset.evaluate({"recall": best["recall"]})[dataset.headline] == 100


@pytest.mark.parametrize(
    ("name", "other"),
    [("fine-fashioniq", "fashioniq"), ("enhfashioniq", "fashioniq"), ("fine-cirr", "cirr"),
     ("facap", "fashioniq")],
)  # fmt: skip
def test_predictions_are_never_taken_for_those_of_the_original(
    worlds: Path, small_world: Path, name: str, other: str
) -> None:
    original = datasets.load(other, "val", small_world)
    dataset = load(worlds / name, name)
    assert not {q.id for q in dataset.queries} & {q.id for q in original.queries}
    lists = {q.id: [] for q in (*dataset.queries, *original.queries)}
    with pytest.raises(InputError, match=rf"Query (fine|enh|facap)-.* is not in {other} val"):
        original.evaluate({"recall": lists})
    assert dataset.gallery_name != original.gallery_name


@pytest.mark.parametrize("name", ["fine-fashioniq", "fine-cirr"])
def test_the_originals_files_are_no_fine_ones(
    worlds: Path, small_world: Path, tmp_path: Path, name: str
) -> None:
    kind = datasets.find(name)
    root = tmp_path / kind.folder
    if name == "fine-cirr":
        source = small_world / "CIRR/cirr/captions/cap.rc2.val.json"
        target = root / "fine-cirr/finemt_captions/cirr.fine.val.json"
    else:
        source = small_world / "FashionIQ/captions/cap.dress.val.json"
        target = root / "captions/fiq.fine.dress.val.json"
    target.parent.mkdir(parents=True)
    shutil.copy(source, target)
    with pytest.raises(InputError, match="entry 0: 'finemt' is missing"):
        load(tmp_path, name)


def test_fine_texts_are_one_caption_a_pair(worlds: Path) -> None:
    for name in ("fine-fashioniq", "fine-cirr"):
        for query in load(worlds / name, name).queries:
            (text,) = query.relative_captions
            assert text.startswith("1. It ")
            assert "\n2. It " in text


def test_fine_fashioniq_is_measured_at_1_10_and_50_in_either_gallery(worlds: Path) -> None:
    split = load(worlds / "fine-fashioniq", "fine-fashioniq")
    assert {"recall@1", "recall@10", "recall@50", "recall@1/dress"} <= set(split.metrics)
    union = load(worlds / "fine-fashioniq", "fine-fashioniq", "union")
    assert len(union.galleries["dress"]) == 4 < len(split.galleries["dress"])


def test_fine_cirr_leaves_the_group_without_its_reference(worlds: Path) -> None:
    dataset = load(worlds / "fine-cirr", "fine-cirr")
    assert [q.id for q in dataset.queries] == ["fine-0", "fine-1"]
    for query in dataset.queries:
        assert len(query.group) == 5
        assert query.target in query.group
        assert query.reference not in query.group
    assert "recall_subset@1" in dataset.metrics


def test_facap_takes_the_keys_of_its_readme_and_the_folders_of_its_repository(
    copied: Callable[[str], Path],
) -> None:
    root = copied("facap")
    expected = load(root, "facap").queries
    folder = root / "FACap"
    (folder / "data" / "facap").mkdir(parents=True)
    (folder / "cir_triplets").rename(folder / "data" / "facap" / "cir_triplets")
    file = folder / "data/facap/cir_triplets/dress_train_triplets.json"
    rows = [
        {"reference": r["candidate"], "target": r["target"], "modification": r["captions"][0]}
        for r in json.loads(file.read_text())
    ]
    file.write_text(json.dumps(rows))
    assert load(root, "facap").queries == expected


def test_enhfashioniq_without_split_files_says_what_its_galleries_are(
    copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = copied("enhfashioniq")
    assert len(load(root, "enhfashioniq").galleries["dress"]) == 16
    assert not caplog.text
    shutil.rmtree(root / "enhFashionIQ" / "image_splits")
    dataset = load(root, "enhfashioniq")
    assert len(dataset.galleries["dress"]) == 4
    assert "the gallery of dress is what its pairs name" in caplog.text
    (root / "enhFashionIQ/enhfashioniq_triplets/dress_2.json").write_text("[]")
    with pytest.raises(InputError, match=r"holds 2 files \*dress\*\.json instead of one"):
        load(root, "enhfashioniq")


def test_a_pair_of_shoes_is_of_the_split_that_has_both(worlds: Path) -> None:
    test = datasets.load("shoes", "test", worlds / "shoes")
    train = datasets.load("shoes", "train", worlds / "shoes")
    assert [q.id for q in test.queries] == ["shoes-0", "shoes-1"]
    assert [q.id for q in train.queries] == ["shoes-2"]
    assert not set(test.images) & set(train.images)


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("black wool coat", "blue wool coat", "replace black with blue"),
        ("coat", "blue coat", "replace coat with blue"),
        ("blue coat", "coat", "replace blue with coat"),
        ("blue coat", "coat blue", None),
    ],
)
def test_fashion200ks_text_is_tirgs(source: str, target: str, text: str | None) -> None:
    assert change(source, target) == text


def test_any_image_of_the_targets_description_is_right(worlds: Path) -> None:
    dataset = load(worlds / "fashion200k", "fashion200k")
    lists = {q.id: [q.ground_truths[-1]] for q in dataset.queries}
    assert dataset.evaluate({"recall": lists})["recall@1"] == 100
    lists[dataset.queries[0].id] = [dataset.queries[0].reference]
    assert dataset.evaluate({"recall": lists})["recall@1"] == 75


Spoil = Callable[[Any], Any]
JSON_LINES = "Fine-FashionIQ/captions/fiq.fine.shirt.val.jsonl"


@pytest.mark.parametrize(
    ("name", "file", "change", "named"),
    [
        ("fine-fashioniq", JSON_LINES, lambda s: s.replace("finemt", "mt", 1), "line 1: 'finemt'"),
        ("fine-fashioniq", JSON_LINES, lambda s: s + "{", "line 3 is not valid JSON"),
        ("fine-cirr", "Fine-CIRR/fine-cirr/finemt_captions/cirr.fine.val.json",
         lambda s: s.replace("img_set", "set", 1), "entry 0: 'img_set' is missing"),
        ("facap", "FACap/cir_triplets/top_train_triplets.json",
         lambda s: s.replace("captions", "texts", 1), "entry 0: 'captions' is missing"),
        ("facap", "FACap/cir_triplets/top_train_triplets.json",
         lambda s: s.replace('"women', '"../women', 1), "leaves the dataset's folder"),
        ("shoes", "Shoes/relative_captions_shoes.json",
         lambda s: s.replace("ImageName", "Name", 1), "entry 0: 'ImageName' is missing"),
        ("fashion200k", "Fashion200K/test_queries.txt",
         lambda s: "nowhere.jpeg " + s, "test_queries.txt, line 1: expected two paths"),
        ("fashion200k", "Fashion200K/labels/top_test_detect_all.txt",
         lambda s: s.replace("\t", " ", 1), "top_test_detect_all.txt, line 1: expected path"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    copied: Callable[[str], Path], name: str, file: str, change: Spoil, named: str
) -> None:
    root = copied(name)
    path = root / file
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=named):
        load(root, name)
