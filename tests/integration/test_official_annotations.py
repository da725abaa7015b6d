"""The readers on the official annotation files, where they are at hand (not in this repository)."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline import config, datasets
from pipeline.run import Run
from pipeline.study.audit import faults
from tests.conftest import PROJECT
from tests.integration.test_outside_metrics import rankings
from tests.outside import by_trec_eval

SHARED = PROJECT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no official annotation files here")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official files in their official layouts; COCO's listing is made from their ids."""
    root = tmp_path_factory.mktemp("official")
    (root / "CIRCO").mkdir()
    (root / "CIRCO" / "annotations").symlink_to(SHARED / "circo")
    ids: set[int] = set()
    for split in ("val", "test"):
        for entry in json.loads((SHARED / "circo" / f"{split}.json").read_text()):
            ids |= {entry["reference_img_id"], *entry.get("gt_img_ids", [])}
    info = root / "CIRCO" / "COCO2017_unlabeled" / "annotations"
    info.mkdir(parents=True)
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in sorted(ids)]
    (info / "image_info_unlabeled2017.json").write_text(json.dumps({"images": images}))
    (root / "CIRR").mkdir()
    (root / "CIRR" / "cirr").symlink_to(SHARED / "cirr")
    (root / "FashionIQ").symlink_to(SHARED / "fashioniq")
    return root


def test_circo(official: Path) -> None:
    val = datasets.load("circo", "val", official)
    assert len(val.queries) == 220
    assert len(datasets.load("circo", "test", official).queries) == 800
    assert Counter(aspect for query in val.queries for aspect in query.aspects) == {
        "cardinality": 37, "addition": 80, "negation": 21, "direct_addressing": 119,
        "compare_change": 86, "comparative_statement": 50, "statement_with_conjunction": 164,
        "spatial_relations_background": 100, "viewpoint": 54,
    }  # fmt: skip
    assert all(query.target == query.ground_truths[0] for query in val.queries)
    assert all(query.reference not in query.ground_truths for query in val.queries)
    assert val.queries[0].shared_concept == "a girl with a traditional Chinese umbrella"


@pytest.mark.parametrize(
    ("split", "queries", "images"), [("val", 4181, 2297), ("test1", 4148, 2315)]
)
def test_cirr(official: Path, split: str, queries: int, images: int) -> None:
    cirr = datasets.load("cirr", split, official)
    assert len(cirr.queries) == queries
    assert len(cirr.images) == images
    assert all(len(query.group) == 5 for query in cirr.queries)
    assert cirr.has_ground_truth == (split == "val")


def test_fashioniq(official: Path) -> None:
    val = datasets.load("fashioniq", "val", official)
    assert Counter(query.gallery for query in val.queries) == {
        "dress": 2017, "shirt": 2038, "toptee": 1961,
    }  # fmt: skip
    assert {name: len(images) for name, images in val.galleries.items()} == {
        "dress": 3817, "shirt": 6346, "toptee": 5373,
    }  # fmt: skip
    assert all(len(query.relative_captions) == 2 for query in val.queries)
    assert not datasets.load("fashioniq", "test", official).has_ground_truth


@pytest.mark.parametrize("name", ["circo", "cirr", "fashioniq"])
def test_trec_eval_gives_the_same_figures_on_the_official_ground_truth(
    official: Path, name: str
) -> None:
    dataset = datasets.load(name, "val", official)
    lists = rankings(dataset, seed=0)
    assert by_trec_eval(dataset, lists) == pytest.approx(dataset.evaluate(lists), abs=1e-9)


@pytest.mark.parametrize("name", ["circo", "cirr", "fashioniq"])
def test_no_reference_is_its_own_ground_truth_and_all_targets_are_in_their_galleries(
    official: Path, tmp_path: Path, name: str
) -> None:
    dataset = datasets.load(name, "val", official)
    run = Run(dataset, config.load("demo"), tmp_path / "cache", tmp_path / "submissions")
    notes: list[str] = []
    found = faults.faults(run, 0.98, notes)
    assert (found.reference_is_truth, found.absent, found.copies) == ([], {}, [])
    assert any("image files are not here" in note for note in notes)


def test_result_files_of_embedders_are_read_with_the_official_queries(
    official: Path, tmp_path: Path
) -> None:
    """As MegaPairs publishes them for CIRCO: query id to 50 images, references among them."""
    test = datasets.load("circo", "test", official)
    others = list(test.images)
    lists = {
        query.id: [query.reference, *(name for name in others if name != query.reference)][:50]
        for query in test.queries
    }
    for shape in ({q: [*map(int, own)] for q, own in lists.items()}, lists):
        file = tmp_path / "embedder_circo.json"
        file.write_text(json.dumps(shape))
        found = test.check(file)
        assert found.errors == []
        assert len(found.warnings) == 800, "each lists its own reference"
    val = datasets.load("circo", "val", official)
    named = {q.id: [f"val/{int(name):012d}.jpg" for name in q.ground_truths] for q in val.queries}
    _, read = val.read_submission(named, Path("x"))
    assert val.evaluate({"recall": read})["mAP@50"] == 100
