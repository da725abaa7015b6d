"""Readers: official layouts in, clear errors for bad content, the protocols' metrics out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import datasets
from pipeline.datasets.base import Dataset
from pipeline.errors import ConfigError, InputError

VAL = [("circo", "val"), ("cirr", "val"), ("fashioniq", "val")]


def perfect(dataset: Dataset) -> dict[str, dict[str, list[str]]]:
    """Rank the ground truth first, then whatever else the protocol allows."""
    lists: dict[str, dict[str, list[str]]] = {kind: {} for kind in dataset.kinds}
    for query in dataset.queries:
        truth = [query.target or "", *query.ground_truths]
        rest = [image for image in dataset.galleries[query.gallery] if image != query.reference]
        lists["recall"][query.id] = list(dict.fromkeys([*truth, *rest]))[:50]
        if "recall_subset" in lists:
            lists["recall_subset"][query.id] = list(dict.fromkeys([*truth, *query.group]))[:3]
    return lists


@pytest.mark.parametrize(("name", "split"), VAL)
def test_perfect_predictions_score_100(small_world: Path, name: str, split: str) -> None:
    dataset = datasets.load(name, split, small_world)
    metrics = dataset.evaluate(perfect(dataset))
    assert metrics
    for metric, value in metrics.items():
        assert value == pytest.approx(100), metric


@pytest.mark.parametrize(("name", "split"), VAL)
def test_a_submission_reads_back_as_what_was_predicted(
    small_world: Path, name: str, split: str
) -> None:
    dataset = datasets.load(name, split, small_world)
    for kind, lists in perfect(dataset).items():
        content = json.loads(json.dumps(dataset.submission(kind, lists)))
        assert dataset.read_submission(content, Path("x.json")) == (kind, lists)


def test_submissions_have_the_servers_shapes(small_world: Path) -> None:
    circo = datasets.load("circo", "val", small_world)
    content = circo.submission("recall", perfect(circo)["recall"])
    assert all(isinstance(image, int) for images in content.values() for image in images)
    cirr = datasets.load("cirr", "val", small_world)
    lists = perfect(cirr)
    assert cirr.submission("recall", lists["recall"])["metric"] == "recall"
    subset = cirr.submission("recall_subset", lists["recall_subset"])
    assert (subset.pop("version"), subset.pop("metric")) == ("rc2", "recall_subset")
    assert all(len(images) == 3 for images in subset.values())


def test_metrics_by_hand_on_circo(small_world: Path) -> None:
    circo = datasets.load("circo", "val", small_world)
    lists = perfect(circo)["recall"]
    first = circo.queries[0]
    wrong = [image for image in circo.images if image not in first.ground_truths][:50]
    lists[first.id] = wrong
    expected = 100 * (len(circo.queries) - 1) / len(circo.queries)
    metrics = circo.evaluate({"recall": lists})
    assert metrics["mAP@5"] == pytest.approx(expected)
    assert metrics["recall@50"] == pytest.approx(expected)


def test_cirr_average_is_of_recall_5_and_subset_1(small_world: Path) -> None:
    cirr = datasets.load("cirr", "val", small_world)
    lists = perfect(cirr)
    query = cirr.queries[0]
    others = [name for name in query.group if name != query.target]
    lists["recall_subset"][query.id] = [others[0], query.target or "", others[1]]
    metrics = cirr.evaluate(lists)
    assert metrics["recall_subset@1"] == pytest.approx(100 * (1 - 1 / len(cirr.queries)))
    assert metrics["recall_subset@2"] == pytest.approx(100)
    assert metrics["average"] == pytest.approx((100 + metrics["recall_subset@1"]) / 2)


def test_a_trial_keeps_queries_of_every_category(small_world: Path) -> None:
    dataset = datasets.load("fashioniq", "val", small_world)
    dataset.limit(2)
    assert [query.gallery for query in dataset.queries] == [
        *["dress"] * 2, *["shirt"] * 2, *["toptee"] * 2,
    ]  # fmt: skip
    assert not dataset.complete


def test_the_root_may_be_the_benchmarks_own_folder(small_world: Path) -> None:
    inner = datasets.load("circo", "val", small_world / "CIRCO")
    assert inner.images == datasets.load("circo", "val", small_world).images


def test_circo_splits_share_one_gallery(small_world: Path) -> None:
    val, test = (datasets.load("circo", split, small_world) for split in ("val", "test"))
    assert val.gallery_name == test.gallery_name
    assert val.gallery_fingerprint == test.gallery_fingerprint
    assert val.fingerprint != test.fingerprint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda lists: lists.pop("0"), "query 0"),
        (lambda lists: lists.update({"999": ["1"]}), "Query 999"),
        (lambda lists: lists["1"].append(lists["1"][0]), "Query 1: image .* more than once"),
        (lambda lists: lists["1"].append("nowhere"), "Query 1: image nowhere"),
    ],
)
def test_bad_predictions_name_the_query(small_world: Path, change: Any, named: str) -> None:
    circo = datasets.load("circo", "val", small_world)
    lists = perfect(circo)["recall"]
    change(lists)
    with pytest.raises(InputError, match=named):
        circo.evaluate({"recall": lists})


def test_cirr_predictions_must_leave_out_the_reference_and_stay_in_the_group(
    small_world: Path,
) -> None:
    cirr = datasets.load("cirr", "val", small_world)
    query = cirr.queries[0]
    lists = perfect(cirr)
    lists["recall"][query.id][-1] = query.reference
    with pytest.raises(InputError, match=f"Query {query.id}: the reference image"):
        cirr.evaluate(lists)
    lists = perfect(cirr)
    outside = next(
        name for name in cirr.images if name not in query.group and name != query.reference
    )
    lists["recall_subset"][query.id][-1] = outside
    with pytest.raises(InputError, match="not in its group"):
        cirr.evaluate(lists)


def test_a_split_without_ground_truth_points_to_the_server(small_world: Path) -> None:
    with pytest.raises(InputError, match="evaluation server"):
        datasets.load("circo", "test", small_world).evaluate({"recall": {}})


ANNOTATIONS = {
    "circo": "CIRCO/annotations/val.json",
    "cirr": "CIRR/cirr/captions/cap.rc2.val.json",
    "fashioniq": "FashionIQ/captions/cap.shirt.val.json",
}
REFERENCE = {"circo": "reference_img_id", "cirr": "reference", "fashioniq": "candidate"}


@pytest.mark.parametrize("name", ANNOTATIONS)
@pytest.mark.parametrize("problem", ["missing", "malformed", "field", "type", "unknown", "list"])
def test_bad_annotations_name_file_and_field(
    small_world: Path, tmp_path: Path, name: str, problem: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small_world, root, ignore=shutil.ignore_patterns("*.jpg", "*.png"))
    file = root / ANNOTATIONS[name]
    content = json.loads(file.read_text())
    field = REFERENCE[name]
    expected = file.name
    if problem == "missing":
        file.unlink()
    elif problem == "malformed":
        file.write_text(file.read_text()[:100])
        expected = f"{file.name} is not valid JSON.*line 1"
    elif problem == "list":
        file.write_text('{"a": 1}')
    else:
        if problem == "field":
            del content[2][field]
            expected = f"{file.name}, entry 2: '{field}' is missing"
        elif problem == "type":
            content[2][field] = {"no": "id"}
            expected = f"{file.name}, entry 2: '{field}' is wrong"
        else:
            content[2][field] = 424242 if name == "circo" else "nobody"
            expected = "reference image (424242|nobody) is not in the gallery"
        file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        datasets.load(name, "val", root)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret.png", "./dev/../../x.png"])
def test_image_paths_stay_inside_the_dataset(small_world: Path, tmp_path: Path, path: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small_world / "CIRR", root, ignore=shutil.ignore_patterns("*.png"))
    file = root / "cirr/image_splits/split.rc2.val.json"
    listing = json.loads(file.read_text())
    listing[next(iter(listing))] = path
    file.write_text(json.dumps(listing))
    with pytest.raises(InputError, match="leaves the dataset's folder"):
        datasets.load("cirr", "val", root)


def test_png_and_jpg_are_both_found(small_world: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small_world / "CIRR", root)
    for file in (root / "dev").glob("*.png"):
        file.rename(file.with_suffix(".jpg"))
    assert all(file.exists() for file in datasets.load("cirr", "val", root).images.values())


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'circo'"):
        datasets.load("cirko", "val", tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'test1'"):
        datasets.load("cirr", "test", tmp_path)


def submission(dataset: Dataset, kind: str) -> dict[str, Any]:
    return json.loads(json.dumps(dataset.submission(kind, perfect(dataset)[kind])))


@pytest.mark.parametrize(
    ("name", "kind"), [("circo", "recall"), ("cirr", "recall"), ("cirr", "recall_subset")]
)
def test_check_accepts_what_submit_writes(
    small_world: Path, tmp_path: Path, name: str, kind: str
) -> None:
    dataset = datasets.load(name, "val", small_world)
    content = submission(dataset, kind)
    if name == "cirr" and kind == "recall":  # the small gallery has too few images
        dataset.lengths = {"recall": len(content[dataset.queries[0].id])}
    file = tmp_path / "s.json"
    file.write_text(json.dumps(content))
    found = dataset.check(file)
    assert (found.errors, found.warnings) == ([], [])


def test_check_lists_every_reason(small_world: Path, tmp_path: Path) -> None:
    circo = datasets.load("circo", "val", small_world)
    content = submission(circo, "recall")
    content["0"] = [str(image) for image in content["0"]]  # numeric strings pass
    content["1"][1] = content["1"][0]
    content["2"] = content["2"][:49]
    content["3"][0] = 999_999
    content["4"] = "images"
    content["5"][0] = int(circo.queries[5].reference)
    content["6"].append(int(next(i for i in circo.images if int(i) not in content["6"])))
    del content["7"]
    content["900"] = content["8"]
    file = tmp_path / "s.json"
    file.write_text(json.dumps(content))
    found = circo.check(file)
    for start in ("query 7 is missing", "query 1: image", "query 2: 49 images", "query 3: image",
                  "query 4: expected", "query 900 is not in"):  # fmt: skip
        assert any(reason.startswith(start) for reason in found.errors), start
    assert len(found.errors) == 6
    assert [text.split(":")[0] for text in found.warnings] == ["query 5", "query 6"]


@pytest.mark.parametrize(("made", "checked"), [("test", "val"), ("val", "test")])
def test_check_of_another_splits_file_says_so_in_one_line(
    small_world: Path, tmp_path: Path, made: str, checked: str
) -> None:
    file = tmp_path / "s.json"
    theirs = datasets.load("circo", made, small_world)
    lists = {query.id: list(theirs.images)[:50] for query in theirs.queries}
    file.write_text(json.dumps(theirs.submission("recall", lists)))
    (error,) = datasets.load("circo", checked, small_world).check(file).errors
    assert error == (
        f"its queries are those of circo {made}, not of {checked}: check it with --split {made}"
    )
    file.write_text(json.dumps({"no-such-query": []}))
    assert len(datasets.load("circo", checked, small_world).check(file).errors) > 6


def test_check_knows_cirrs_rules(small_world: Path, tmp_path: Path) -> None:
    cirr = datasets.load("cirr", "val", small_world)
    content = submission(cirr, "recall_subset")
    first, second = cirr.queries[:2]
    content["version"] = "rc1"
    content[first.id][0] = first.reference
    outside = next(n for n in cirr.images if n not in (*second.group, second.reference))
    content[second.id][0] = outside
    file = tmp_path / "s.json"
    file.write_text(json.dumps(content))
    assert len(cirr.check(file).errors) == 3
    file.write_text(json.dumps(content) + " " * 5_000_000)
    assert any("bytes" in reason for reason in cirr.check(file).errors)


LISTINGS = {
    "circo": "CIRCO/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
    "cirr": "CIRR/cirr/image_splits/split.rc2.val.json",
    "fashioniq": "FashionIQ/image_splits/split.shirt.val.json",
}
IMAGES = {
    "circo": "CIRCO/COCO2017_unlabeled/unlabeled2017",
    "cirr": "CIRR/dev",
    "fashioniq": "FashionIQ/images",
}


@pytest.fixture
def copied(small_world: Path, tmp_path: Path) -> Path:
    """A copy of the small world that a test may spoil."""
    root: Path = shutil.copytree(small_world, tmp_path / "copy")
    return root


@pytest.mark.parametrize("name", LISTINGS)
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.png", "a/../../x", "a\0b", "", ".", "\ud800", "x" * 300]
)
def test_paths_out_of_the_dataset_name_file_and_field(copied: Path, name: str, path: str) -> None:
    file = copied / LISTINGS[name]
    content = json.loads(file.read_text())
    if name == "circo":
        content["images"][3]["file_name"] = path
        field = r"images\.3\.file_name"
    elif name == "cirr":
        content["first"] = path
        field = "'first'"
    else:
        content[3] = path
        field = "entry 3"
    file.write_text(json.dumps(content))
    reason = "(leaves the dataset's folder|is no path of a file)"
    if path == "\ud800":  # refused before the field is reached
        field, reason = "", "(is not valid JSON|unicode)"
    with pytest.raises(InputError, match=f"(?s){file.name}.*{field}.*{reason}"):
        datasets.load(name, "val", copied)


@pytest.mark.parametrize("name", LISTINGS)
def test_an_image_that_links_out_of_its_folder_is_refused(
    copied: Path, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    image = next(file for file in sorted((copied / IMAGES[name]).iterdir()))
    image.unlink()
    image.symlink_to(secret)
    with pytest.raises(InputError, match=rf"{image} is a link out of .*--follow-links"):
        datasets.load(name, "val", copied)
    assert datasets.load(name, "val", copied, follow_links=True).images


def test_a_link_inside_the_image_folder_is_no_matter(copied: Path) -> None:
    first, second, *_ = sorted((copied / IMAGES["circo"]).iterdir())
    first.unlink()
    first.symlink_to(second.name)
    assert datasets.load("circo", "val", copied).images


@pytest.mark.parametrize("name", LISTINGS)
def test_the_image_folder_itself_may_be_a_link(copied: Path, tmp_path: Path, name: str) -> None:
    folder = copied / IMAGES[name]
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    assert all(file.exists() for file in datasets.load(name, "val", copied).images.values())


def test_a_folder_deeper_down_may_not_link_out(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(b"secret")
    (copied / "CIRR/dev/34").symlink_to(tmp_path / "elsewhere")
    file = copied / LISTINGS["cirr"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"x": "./dev/34/x.png"}))
    with pytest.raises(InputError, match="34 is a link out of"):
        datasets.load("cirr", "val", copied)


def test_text_that_cannot_be_written_again_is_refused(copied: Path) -> None:
    file = copied / ANNOTATIONS["cirr"]
    good = file.read_text()
    file.write_text(good.replace('"caption": "', '"caption": "\\ud83d\\ude00 ', 1))  # a whole pair
    assert "😀" in datasets.load("cirr", "val", copied).queries[0].relative_captions[0]
    file.write_text(good.replace('"caption": "', '"caption": "\\udead ', 1))
    with pytest.raises(InputError, match=rf"{file.name} is not valid JSON"):
        datasets.load("cirr", "val", copied)
