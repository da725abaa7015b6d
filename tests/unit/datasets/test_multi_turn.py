"""Benchmarks of several turns: the layouts as they are released, metrics, and what is wrong."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from pipeline import datasets
from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import interval, resample
from pipeline.datasets.multi_turn import MultiTurn, overlap
from pipeline.demo import layouts, world
from pipeline.demo.layouts import mtfashioniq
from pipeline.errors import InputError
from pipeline.study.compare import Row, compare

NAMES = ("iclevr", "codraw", "mtfashioniq")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turns")
    for name in NAMES:
        layouts.write(name, folder, queries=5)
    return folder


def load(root: Path, name: str) -> MultiTurn:
    found: Dataset = datasets.load(name, "val", root)
    assert isinstance(found, MultiTurn)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_turns_follow_one_another_and_their_images_are_there(root: Path, name: str):
    found = load(root, name)
    sessions: dict[str, list[str]] = {}
    for query in found.queries:
        known = sessions.setdefault(query.session, [query.reference])
        assert query.turn == len(known)
        assert query.reference == known[-1]
        known.append(query.target or "")
    assert len(sessions) == 5
    assert all(path.exists() for path in found.images.values())
    assert set(found.galleries["all"]) <= set(found.images)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_of_last_turns_and_of_each(root: Path, name: str):
    found = load(root, name)
    right = {query.id: [query.target or ""] for query in found.queries}
    assert set(found.evaluate({"recall": right}).values()) == {100.0}
    other = found.galleries["all"]
    early = {
        query.id: [query.target or ""]
        if query.turn == 1
        else [next(n for n in other if n not in (query.target, query.reference))]
        for query in found.queries
    }
    values = found.evaluate({"recall": early})
    assert values[found.headline] == 0
    assert values[f"{found.headline}/turn 1"] == 100
    assert values[f"{found.headline}/turn 2"] == 0


def test_a_trial_keeps_whole_sessions(root: Path):
    found = load(root, "mtfashioniq")
    found.limit(2)
    assert {query.session for query in found.queries} == {"0", "1"}
    assert {query.session for query in found.last} == {"0", "1"}
    assert not found.complete


def test_intervals_are_of_sessions_drawn_whole(root: Path):
    found = load(root, "mtfashioniq")
    values = {q.id: float(int(q.session) % 2) for q in found.queries}
    metrics = {found.headline: {q.id: values[q.id] for q in found.last}, "every": values}
    weights = resample(found.strata(), found.units, 200)
    means = found.means(metrics, weights)
    # 0 to 5 of five sessions: were turns drawn, the number of last ones would differ, too.
    assert set(np.round(means[found.headline], 6)) <= {0.0, 20.0, 40.0, 60.0, 80.0, 100.0}
    assert len(set(np.round(means[found.headline], 6))) > 2
    low, high = interval(means[found.headline])
    table = compare(found, [Row("one", metrics, None)], "one", resamples=200)
    line = table[table["metric"] == found.headline].iloc[0]
    assert (line["low"], line["high"]) == (low, high)


def test_objects_are_those_of_the_scene(root: Path):
    found = load(root, "iclevr")
    text = next(q.relative_captions[0] for q in found.queries if q.turn == 1)
    scene = world.parse(text.removeprefix("add "))
    assert scene is not None
    shown = found.objects[found.queries[0].target or ""]
    assert shown == {f"{scene.groups[0].shape} {scene.groups[0].colour}"}
    assert len(found.objects[found.queries[1].target or ""]) == 2


@pytest.mark.parametrize(
    ("shown", "wanted", "expected"),
    [
        ("ab", "ab", (1, 1, 1)),
        ("abcd", "ab", (0.5, 1, 2 / 3)),
        ("a", "ab", (1, 0.5, 2 / 3)),
        ("c", "ab", (0, 0, 0)),
        ("", "ab", (0, 0, 0)),
        ("", "", (1, 1, 1)),
        ("a", "", (0, 1, 0)),
    ],
)
def test_precision_recall_and_f1_of_objects(
    shown: str, wanted: str, expected: tuple[float, float, float]
):
    assert overlap(set(shown), set(wanted)) == pytest.approx(expected)


def test_codraw_joins_turns_that_draw_nothing_new_to_the_next(tmp_path: Path):
    folder = tmp_path / "CoDraw"
    folder.mkdir()
    said = [
        ("hello", "hi", ""),  # chit-chat, no drawing
        ("a tree", "ok", "1"),
        ("move it left", "like this?", "1"),  # a drawing without a new object
        ("and a dog", "ok", "1"),
    ]
    dialog = [{"msg_t": t, "msg_d": d, "abs_d": a, "seq_t": 1} for t, d, a in said]
    data = {"val_00007": {"image_id": 7, "dialog": dialog}, "test_00008": {"image_id": 8}}
    (folder / "CoDraw_1_0.json").write_text(json.dumps({"data": data}))
    lines = ["Scene7_0\t1,5,5,0 0,0,0,0", "Scene7_1\t1,2,5,0 0,0,0,0", "Scene7_2\t1,2,5,0 1,9,9,0"]
    (folder / "extracted_coords.txt").write_text("\n".join(lines))
    found = load(tmp_path, "codraw")
    assert [(q.reference, q.relative_captions[0], q.target) for q in found.queries] == [
        ("background", "a tree", "Scene7_0"),
        ("Scene7_0", "move it left like this? and a dog", "Scene7_2"),
    ]
    assert found.objects == {"Scene7_0": {"0"}, "Scene7_2": {"0", "1"}}
    (folder / "extracted_coords.txt").unlink()
    without = load(tmp_path, "codraw")
    assert len(without.queries) == 3
    assert "object_F1" not in without.metrics


def test_what_is_wrong_is_named_with_its_file(root: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"scenes cannot be read.*--data-root"):
        load(tmp_path, "iclevr")
    layouts.write("iclevr", tmp_path, queries=2)
    text = tmp_path / "i-CLEVR" / "text" / "CLEVR_val_000001.txt"
    text.write_text("add a red star\n")
    with pytest.raises(InputError, match=r"CLEVR_val_000001: 2 objects, 1 instructions and 2 im"):
        load(tmp_path, "iclevr")
    layouts.write("mtfashioniq", tmp_path, queries=2)
    file = tmp_path / "MT-FashionIQ" / "data" / "all.val.json"
    content = json.loads(file.read_text())
    content[1]["reference"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"all.val.json, entry 1: 'reference'"):
        load(tmp_path, "mtfashioniq")
    layouts.write("codraw", tmp_path, queries=2)
    lines = tmp_path / "CoDraw" / "extracted_coords.txt"
    lines.write_text(lines.read_text().replace("Scene1_1", "Scene9_9"))
    with pytest.raises(InputError, match=r"extracted_coords.txt has no line for Scene1_1"):
        load(tmp_path, "codraw")


def test_an_image_that_only_a_session_names_is_known_but_in_no_gallery(tmp_path: Path):
    layouts.write("mtfashioniq", tmp_path, queries=2)
    file = tmp_path / "MT-FashionIQ" / "image_splits" / "split.all.val.json"
    names = json.loads(file.read_text())
    first = load(tmp_path, "mtfashioniq").queries[0].reference
    file.write_text(json.dumps([n for n in names if n != first] + names[-1:]))
    found = load(tmp_path, "mtfashioniq")
    assert first in found.images
    assert first not in found.galleries["all"]
    assert len(found.galleries["all"]) == len(set(names)) - 1


def test_no_scene_of_a_session_is_one_that_training_shows():
    seen: set[world.Scene] = set()
    chain = mtfashioniq.session(random.Random(3), 4, seen)
    assert len(chain) == 5
    assert all(world.held_out(scene) for scene, _ in chain)
    assert len({scene for scene, _ in chain}) == 5
