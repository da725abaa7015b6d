"""Triplets: a record that is written and read back, malformed lines by name, and a dataset."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import datasets
from pipeline.datasets import triplets
from pipeline.datasets.triplets import Triplet
from pipeline.errors import InputError

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
MAYBE = st.none() | TEXTS
TRIPLETS = st.builds(
    Triplet,
    reference=TEXTS,
    text=TEXTS,
    target=TEXTS,
    target_caption=MAYBE,
    source_caption=MAYBE,
    text_reverse=MAYBE,
    text_fine=MAYBE,
    category=MAYBE,
    generator=st.text(st.characters(codec="utf-8")),
    origin=st.dictionaries(TEXTS, st.integers()),
)


@given(st.lists(TRIPLETS, max_size=5))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, found: list[Triplet]
) -> None:
    file = tmp_path_factory.mktemp("triplets") / "t.jsonl"
    assert triplets.write(file, found) == len(found)
    assert triplets.read(file) == found


def test_what_is_not_known_is_not_written() -> None:
    one = Triplet(reference="a.jpg", text="is red", target_caption="a red dress")
    assert one.as_json() == {
        "reference": "a.jpg",
        "text": "is red",
        "target_caption": "a red dress",
    }


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"reference": "a", "target": "b"}', "t.jsonl, line 3: 'text' is missing"),
        ('{"reference": "a", "text": " ", "target": "b"}', "line 3: 'text' is wrong"),
        ('{"reference": "a", "text": "x"}', "line 3: .*neither a target nor a target_caption"),
        ('{"reference": 7, "text": "x", "target": "b"}', "line 3: 'reference' is wrong"),
        ('{"reference": "a", "text": "x", "targ', "t.jsonl, line 3 is not valid JSON"),
        ('["a", "x", "b"]', "t.jsonl, line 3"),
    ],
)
def test_malformed_lines_are_named_by_file_line_and_key(
    tmp_path: Path, line: str, named: str
) -> None:
    file = tmp_path / "t.jsonl"
    good = '{"reference": "a", "text": "x", "target": "b"}'
    file.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(InputError, match=named):
        triplets.read(file)


@pytest.fixture
def catalogue(small_world: Path, tmp_path: Path) -> Path:
    """A dataset of two triplets, one of them without a target image, over the world's images."""
    root = tmp_path / "catalogue"
    root.mkdir()
    images = small_world / "CIRCO" / "COCO2017_unlabeled" / "unlabeled2017"
    (root / "images").symlink_to(images)
    names = sorted(file.name for file in images.iterdir())
    (root / "images.json").write_text(json.dumps(names))
    found = [
        Triplet(reference=names[0], text="is on a dark background", target=names[1]),
        Triplet(reference=names[0], text="has no stars", target_caption="two red hearts"),
        Triplet(reference=names[2], text="make the star blue", target=names[0]),
    ]
    triplets.write(root / "triplets.val.jsonl", found)
    return root


def test_triplets_with_a_target_are_a_datasets_queries(catalogue: Path) -> None:
    dataset = datasets.load("triplets", "val", catalogue)
    names = list(dataset.images)
    assert [query.id for query in dataset.queries] == ["0", "2"]
    assert [query.target for query in dataset.queries] == [names[1], names[0]]
    lists = {"0": [names[5], names[1]], "2": [names[0]]}
    metrics = dataset.evaluate({"recall": lists})
    assert metrics["recall@1"] == 50
    assert metrics["mAP@10"] == pytest.approx(75)
    content = json.loads(json.dumps(dataset.submission("recall", lists)))
    assert dataset.read_submission(content, Path("x.json")) == ("recall", lists)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: (root / "images.json").write_text('{"a": 1}'), "images.json must list"),
        (lambda root: (root / "images.json").write_text('["../a.jpg"]'), "leaves the dataset"),
        (lambda root: (root / "images.json").write_text('["a.jpg"]'), "query 0: reference image"),
        (lambda root: (root / "triplets.val.jsonl").unlink(), "does not exist"),
        (
            lambda root: triplets.write(
                root / "triplets.val.jsonl",
                [Triplet(reference="a.jpg", text="is red", target_caption="a red dress")],
            ),
            "no triplet with a target image",
        ),
    ],
)
def test_a_bad_dataset_is_named(catalogue: Path, change: Callable[[Path], Any], named: str) -> None:
    change(catalogue)
    with pytest.raises(InputError, match=named):
        datasets.load("triplets", "val", catalogue)
