"""`seize audit`: shortcuts, copies of the reference, faulty ground truth, and texts cut short."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from pipeline.demo import layouts
from pipeline.errors import MissingStageError
from pipeline.models import encoders
from pipeline.pages.report import report
from pipeline.run import Run
from pipeline.stages import search, submit
from pipeline.stages.evaluate import evaluate
from pipeline.stages.everything import run_stages
from pipeline.study import compare
from pipeline.study.audit import audit, cuts, faults, shortcuts
from tests.integration.test_cli import seize

MakeRun = Callable[..., Run]
METHODS = "image,text,seize,pdv"


@pytest.fixture
def searched(make_run: MakeRun) -> Run:
    """A run on CIRCO's layout whose rankings by image, text and two methods are there."""
    run_stages(make_run())
    search.search(make_run(search__method=METHODS))
    return make_run()


def rows(run: Run, names: str) -> list[compare.Row]:
    return compare.rows_of_run(run.with_method(names))


def test_shortcuts_are_those_that_one_modality_has_among_its_first(searched: Run) -> None:
    singles, both = rows(searched, "image,text"), rows(searched, "seize,pdv")
    found = shortcuts.shortcuts(searched.dataset, singles, both, first=10, resamples=200)
    first = {
        name: {r.query: r.images[:10] for r in search.read(searched.with_method(name))}
        for name in METHODS.split(",")
    }
    for query in searched.queries:
        has = {name: query.target in lists[query.id] for name, lists in first.items()}
        expected = (
            "shortcut-solvable"
            if has["image"] or has["text"]
            else "composition required"
            if has["seize"] or has["pdv"]
            else "unresolved"
        )
        assert found.labels[query.id] == expected
    assert set(found.labels.values()) >= {"shortcut-solvable", "composition required"}
    assert sum(share.value for share in found.shares.values()) == pytest.approx(100)
    counts = found.counts
    assert counts["all"] == counts["shortcut-solvable"] + counts["rest"] == len(searched.queries)
    for name in ("image", "text"):
        assert found.metrics[name]["recall@10"]["rest"].value == 0
        parts = found.metrics[name]["mAP@5"]
        weighted = sum(parts[p].value * counts[p] for p in ("shortcut-solvable", "rest"))
        assert weighted / counts["all"] == pytest.approx(parts["all"].value)
    for name in METHODS.split(","):
        whole = {metric: parts["all"].value for metric, parts in found.metrics[name].items()}
        assert whole == pytest.approx(evaluate(searched.with_method(name)))
        for parts in found.metrics[name].values():
            for value in parts.values():
                assert not value.low > value.value + 1e-9
                assert not value.high < value.value - 1e-9
    assert found.chance == pytest.approx(100 * 10 / len(searched.dataset.images))
    whole = shortcuts.shortcuts(searched.dataset, singles, both, first=1000, resamples=100)
    assert whole.counts["rest"] <= counts["rest"]


@pytest.mark.parametrize("first", [1, 200])
def test_a_part_without_queries_has_no_figure(searched: Run, first: int) -> None:
    """Metrics of nothing are dashes for people and null in JSON, never a number."""
    dataset = searched.dataset
    ideal = {q.id: list(q.relevant) if first > 1 else [q.reference] for q in dataset.queries}
    row = compare.Row("one", dataset.per_query({"recall": ideal}), None, lists={"recall": ideal})
    found = shortcuts.shortcuts(dataset, [row], rows(searched, "seize"), first, resamples=100)
    empty = "rest" if first > 1 else "shortcut-solvable"
    assert found.counts[empty] == 0  # type: ignore[index]
    assert any("–" in line.values() for line in shortcuts.metric_lines(found))


@pytest.fixture
def faulty(small_world: Path, tmp_path: Path, make_run: MakeRun) -> Run:
    """A world in which some images are copies of a reference, and some ground truths faulty."""
    root = tmp_path / "world" / "CIRCO"
    shutil.copytree(small_world / "CIRCO", root)
    file = root / "annotations" / "val.json"
    entries = json.loads(file.read_text())
    images = root / "COCO2017_unlabeled" / "unlabeled2017"
    used = {n for e in entries for n in (e["reference_img_id"], *e["gt_img_ids"])}
    listing = root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    names = {i["id"]: i["file_name"] for i in json.loads(listing.read_text())["images"]}
    by_bytes, by_pixels, broken = [n for n in names if n not in used][:3]
    reference = images / names[entries[0]["reference_img_id"]]
    shutil.copyfile(reference, images / names[by_bytes])
    with Image.open(reference) as picture:
        picture.convert("RGB").save(images / names[by_pixels], format="PNG", compress_level=1)
    (images / names[broken]).write_bytes(b"no picture")
    entries[1]["gt_img_ids"].append(entries[1]["reference_img_id"])
    entries[2]["gt_img_ids"].append(broken)
    entries[0]["gt_img_ids"].append(by_bytes)
    file.write_text(json.dumps(entries))
    (root / "made.json").write_text(json.dumps([str(by_bytes), str(by_pixels), str(broken)]))
    run = make_run(root=root.parent)
    run_stages(run)
    return run


def test_copies_and_faulty_ground_truths_are_found(faulty: Run) -> None:
    by_bytes, by_pixels, broken = json.loads((faulty.dataset.root / "made.json").read_text())
    ids = [query.id for query in faulty.queries]
    notes: list[str] = []
    found = faults.faults(faulty, 0.999, notes)
    assert notes == []
    own = {copy.image: copy for copy in found.copies if copy.query == ids[0]}
    assert own[by_bytes].same_bytes
    assert own[by_bytes].relevant
    assert not own[by_pixels].same_bytes
    assert own[by_pixels].same_pixels
    assert own[by_pixels].cosine == pytest.approx(1)
    assert not any(copy.same_pixels for copy in found.copies if copy.image not in own)
    assert found.reference_is_truth == [ids[1]]
    assert found.without_feature == {ids[2]: [broken]}
    assert found.absent == {}
    looser = faults.faults(faulty, 0.9, notes)
    assert {(c.query, c.image) for c in found.copies} < {(c.query, c.image) for c in looser.copies}
    by_title = {line["found"]: line for line in faults.lines(found)}
    assert by_title["ground truth without a feature"]["queries"] == "1"


def test_ground_truth_of_another_gallery_is_absent(make_run: MakeRun) -> None:
    run = make_run("fashioniq")
    other = run.dataset.galleries["shirt"][0]
    changed = next(i for i, q in enumerate(run.queries) if q.gallery == "dress")
    run.dataset.queries[changed] = replace(run.queries[changed], target=other)
    notes: list[str] = []
    assert faults.faults(run, 0.98, notes).absent == {run.queries[changed].id: [other]}
    assert any("seize embed" in note for note in notes)


def test_images_that_are_not_here_are_said_and_not_taken_for_copies(
    searched: Run, tmp_path: Path
) -> None:
    root = tmp_path / "without"
    shutil.copytree(searched.dataset.root, root, ignore=shutil.ignore_patterns("*.jpg", "*.png"))
    dataset = type(searched.dataset)("val", root)
    notes: list[str] = []
    found = faults.faults(replace(searched, dataset=dataset), 0.98, notes)
    assert not any(copy.same_bytes or copy.same_pixels for copy in found.copies)
    count = len(dataset.images)
    assert notes == [f"{count} of {count} image files are not here: not compared by content."]


def test_texts_longer_than_the_encoder_reads_are_counted(searched: Run) -> None:
    settings = searched.config.encoder
    fits, long = "two red circles", " ".join(["circle"] * 40)
    lost = encoders.cut(settings, [fits, long])
    assert lost is not None
    assert lost[0] == 0
    assert lost[1] == 40 - 30  # 32 tokens, two of them start and end
    clip = encoders.load(settings, searched.config.runtime)
    same = clip.texts([long, " ".join(["circle"] * (40 - lost[1]))])
    assert (same[0] == same[1]).all(), "what is counted as cut is what the encoder does not read"
    changed = replace(searched.queries[0], relative_captions=(long,))
    searched.dataset.queries[0] = changed
    found = {cut.kind: cut for cut in cuts.cuts(searched, [])}
    assert found["relative_captions"].cut == 1
    assert found["relative_captions"].queries == 1
    assert found["relative_captions"].most == lost[1]


def test_the_command_tells_everything_in_every_form(searched: Run, tmp_path: Path) -> None:
    given = [*searched.command.split(), "--cache", str(searched.cache), "--workers", "0"]
    given += ["--method", "seize,pdv", "--resamples", "200"]
    (own,) = submit.files(searched).values()
    text = seize("audit", *given, "--with", f"theirs={own}")
    assert text.exit_code == 0, text.output
    for said in ("by any of them: shortcut-solvable", "theirs", "same pixels", "2605.14787"):
        assert said in text.stdout
    told = seize("audit", *given, "--json")
    content = json.loads(told.stdout)
    assert set(content["shortcuts"]["metrics"]) == {"image", "text", "seize", "pdv"}
    assert set(content["shortcuts"]["labels"]) == {query.id for query in searched.queries}
    out = tmp_path / "audit.csv"
    done = seize("audit", *given, "--format", "csv", "--out", str(out))
    assert done.exit_code == 0, done.output
    frame = pd.read_csv(io.StringIO(out.read_text()))
    assert frame.columns.tolist() == ["table", "line", "column", "value"]
    for form in ("markdown", "latex"):
        assert seize("audit", *given, "--format", form).exit_code == 0
    one = seize("audit", *given, "--single", "text", "--single", f"theirs={own}", "--json")
    assert set(json.loads(one.stdout)["shortcuts"]["singles"]) == {"text", "theirs"}
    for refused, said in (
        (("--single", "seize"), "reads the image and the text"),
        (("--single", "image+text"), "reads the image and the text"),
        (("--single", "lincir"), "reads the image and the text"),
        (("--with", f"pdv={own}"), "Two rows are called 'pdv'"),
        (("--with", f"image={own}"), "Two rows are called 'image'"),
    ):
        failed = seize("audit", *given, *refused)
        assert (failed.exit_code, said in failed.stderr) == (2, True)
    wrong = seize("audit", *given, "--with", "theirs")
    assert wrong.exit_code == 2
    assert "NAME=FILE" in wrong.stderr


def test_without_rankings_by_one_modality_the_command_to_run_is_named(make_run: MakeRun) -> None:
    run = make_run()
    run_stages(run)
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0"]
    refused = seize("audit", *given)
    assert refused.exit_code == MissingStageError.exit_code
    assert "seize search" in refused.stderr
    assert "--method image,text" in refused.stderr


def test_a_split_without_ground_truth_has_the_other_tables(make_run: MakeRun) -> None:
    run = make_run("cirr", "test1")
    found = audit(run, [], [])
    assert found.shortcuts is None
    titles = [section.title for section in found.sections]
    assert titles == ["Gallery and ground truth", "Texts that the encoder cuts"]


def test_the_report_has_the_audit_once_its_rankings_are_there(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    run_stages(run)
    report(run, tmp_path / "before.html")
    assert "shortcut-solvable" not in (tmp_path / "before.html").read_text()
    search.search(make_run(search__method="image,text"))
    report(run, tmp_path / "after.html")
    page: Any = (tmp_path / "after.html").read_text()
    assert "by any of them: shortcut-solvable" in page
    assert "Texts that the encoder cuts" in page


@pytest.mark.parametrize("name", ["genecis", "icir", "pinpoint"])
def test_benchmarks_of_other_shapes_are_audited_too(tmp_path: Path, name: str) -> None:
    """Galleries by query, several positives without a target, pictures that are crops."""
    layouts.write(name, tmp_path / name, queries=3)
    given = ["--config", "demo", "--dataset", name, "--data-root", str(tmp_path / name)]
    given += ["--cache", str(tmp_path / "cache"), "--workers", "0"]
    for stage in ("embed", "search"):
        done = seize(stage, *given, "--method", "image,text,sum")
        assert done.exit_code == 0, done.output
    done = seize("audit", *given, "--method", "sum", "--first", "2", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    found = content["shortcuts"]
    assert len(found["labels"]) == content["queries"] == found["counts"]["all"]
    assert 0 < found["chance"] < 100
    assert content["faults"]["absent"] == {}
    assert {cut["kind"] for cut in content["texts"]} >= {"relative_captions"}
