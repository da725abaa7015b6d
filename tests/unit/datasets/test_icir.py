"""i-CIR: pools, what is right in them, and AP over whole pools."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import datasets
from pipeline.datasets.icir import Icir
from pipeline.datasets.metrics import trapezoidal_average_precision
from pipeline.demo import layouts
from pipeline.errors import InputError

IDS = [str(number) for number in range(12)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write("icir", tmp_path_factory.mktemp("icir"), queries=3)


def load(root: Path) -> Icir:
    loaded = datasets.load("icir", "test", root)
    assert isinstance(loaded, Icir)
    return loaded


def released(correct: list[bool]) -> float:
    """AP as utils.py of the release computes it, but for the 1e-5 that it adds to a divisor."""
    places = np.flatnonzero(correct)
    area = 0.0
    for found, place in enumerate(places):
        before = 1.0 if place == 0 else found / place
        area += (before + (found + 1) / (place + 1)) / (2 * len(places))
    return area


@given(st.permutations(IDS), st.sets(st.sampled_from(IDS), min_size=1))
def test_average_precision_is_the_releases(ranking: list[str], relevant: set[str]) -> None:
    ours = trapezoidal_average_precision(ranking, relevant)
    assert ours == pytest.approx(released([image in relevant for image in ranking]))
    assert 0 < ours <= 1
    best = sorted(ranking, key=lambda image: image not in relevant)
    assert trapezoidal_average_precision(best, relevant) == pytest.approx(1)


def test_average_precision_by_hand() -> None:
    assert trapezoidal_average_precision(["x", "a", "b"], {"a", "b"}) == pytest.approx(
        ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    )
    assert trapezoidal_average_precision(["a"], {"a", "b"}) == 0.5
    assert trapezoidal_average_precision(["a"], set()) == 0


def test_an_image_is_right_by_instance_and_text(world: Path) -> None:
    dataset = load(world)
    assert len(dataset.queries) == 12
    text = (world / "icir" / "database_files.csv").read_text()
    lines = [line.split(",") for line in text.splitlines()]
    for query in dataset.queries:
        own = [line for line in lines if line[2] == query.gallery]
        assert dataset.galleries[query.gallery] == [path.removeprefix("icir/") for path, *_ in own]
        right = [path for path, text, _ in own if (text,) == query.relative_captions]
        assert query.ground_truths == tuple(path.removeprefix("icir/") for path in right)
        assert query.reference not in dataset.galleries[query.gallery]
    assert all(Path(str(file)).is_file() for file in dataset.images.values())
    assert dataset.depth == max(map(len, dataset.galleries.values()))
    assert dataset.strata() == [list(range(12))]


def test_a_list_that_is_cut_is_refused(world: Path) -> None:
    dataset = load(world)
    whole = {q.id: sorted(dataset.galleries[q.gallery]) for q in dataset.queries}
    value = dataset.evaluate({"recall": whole})["mAP"]
    by_query = [released([i in q.ground_truths for i in whole[q.id]]) for q in dataset.queries]
    assert value == pytest.approx(100 * np.mean(by_query))
    first = dataset.queries[0]
    without = [image for image in whole[first.id] if image not in first.ground_truths]
    cut = whole | {first.id: without[:5]}
    pool = len(dataset.galleries[first.gallery])
    with pytest.raises(InputError, match=f"Query 0: 5 of the {pool} images of its pool"):
        dataset.evaluate({"recall": cut})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda line: f"{line},more", r"query_files\.csv, line 2: expected path,text,instance.* 4"),
        (lambda line: line.rpartition(",")[0], r"query_files\.csv, line 2: .* 2 fields"),
        (lambda line: line.rpartition(",")[0] + ",", "line 2: .*one of them empty"),
        (lambda line: line.rpartition(",")[0] + ",nothing", "line 2: no image of the pool of 'no"),
        (lambda line: "icir/../" + line.removeprefix("icir/"), "leaves the dataset's folder"),
    ],
)
def test_bad_lines_are_named(
    world: Path, tmp_path: Path, change: Callable[[str], str], named: str
) -> None:
    root = shutil.copytree(world, tmp_path / "copy", ignore=shutil.ignore_patterns("*.jpg"))
    file = root / "icir" / "query_files.csv"
    lines = file.read_text().splitlines()
    lines[1] = change(lines[1])
    file.write_text("\n".join(lines))
    with pytest.raises(InputError, match=named):
        load(root)


def test_annotations_may_lie_in_a_folder_of_their_own(world: Path, tmp_path: Path) -> None:
    root = shutil.copytree(world / "icir", tmp_path / "icir")
    (root / "annotations").mkdir()
    for file in root.glob("*.csv"):
        file.rename(root / "annotations" / file.name)
    assert load(tmp_path).queries == load(world).queries


def test_what_is_odd_about_the_pools_is_counted(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(world, tmp_path / "copy", ignore=shutil.ignore_patterns("*.jpg"))
    file = root / "icir" / "database_files.csv"
    query = (root / "icir" / "query_files.csv").read_text().splitlines()[0]
    first = file.read_text().splitlines()[0]
    file.write_text(f"{first}\n{query}\n" + file.read_text())
    load(root)
    assert "1 lines of the pools name an image for the second time" in caplog.text
    assert "1 queries have their reference image in the pool" in caplog.text
