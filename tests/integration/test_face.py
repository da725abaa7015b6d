"""`import seize`: few names, loaded when they are used, each with an example that runs."""

import doctest
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import seize
from tests.conftest import PROJECT


@pytest.fixture
def place(small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the demo's data, photos and a picture, as the examples have it."""
    pictures = sorted((small_world / "CIRCO").rglob("*.jpg"))[:21]
    (tmp_path / "photos").mkdir()
    for picture in pictures[:20]:
        shutil.copy(picture, tmp_path / "photos")
    shutil.copy(pictures[20], tmp_path / "dog.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(small_world)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in seize.__all__ if name != "__version__"])
def test_each_name_has_an_example_that_runs(place: Path, name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(seize, name), name, globs={})
    assert example.examples
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0


def test_the_readme_and_the_pages_run(place: Path) -> None:
    for page in ("README.md", "docs/own-images.md"):
        done = doctest.testfile(str(PROJECT / page), module_relative=False)
        assert done.attempted >= 3
        assert done.failed == 0


def test_no_name_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, seize\n"
        "assert not {'torch', 'pandas', 'pydantic'} & sys.modules.keys()\n"
        "assert set(dir(seize)) == set(seize.__all__)\n"
        "try: seize.lod\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "module 'seize' has no attribute 'lod'\n"


def opened(benchmark: str = "circo", split: str = "val") -> "seize.Benchmark":
    return seize.open(benchmark, split, "data/demo", config="demo")


def test_rankings_come_in_from_pandas(place: Path) -> None:
    cirr = opened("cirr")
    queries = cirr.queries
    others = {
        query: [name for name in queries["reference"].unique() if name != own.reference]
        for query, own in queries.iterrows()
    }
    lines = [
        (query, rank, image)
        for query, own in queries.iterrows()
        for rank, image in enumerate(dict.fromkeys([*own.relevant, *others[query]]), start=1)
    ]
    mine = pd.DataFrame(lines, columns=["query", "rank", "image"])
    metrics = cirr.evaluate(mine.sample(frac=1, random_state=0))  # the order is the rank's alone
    assert metrics["recall@1"] == 100
    assert "recall_subset@1" not in metrics.index
    both = pd.concat(
        [mine.assign(kind="recall"), mine[mine["rank"] == 1].assign(kind="recall_subset")]
    )
    assert cirr.evaluate(both)["recall_subset@1"] == 100
    backwards = mine.assign(rank=-mine["rank"])
    assert cirr.evaluate(backwards)["recall@1"] < 100
    with pytest.raises(seize.SeizeError, match="no column 'rank': give query, rank and image"):
        cirr.evaluate(mine.drop(columns="rank"))
    with pytest.raises(seize.SeizeError, match="lines without query, rank or image"):
        cirr.evaluate(mine.assign(image=None))
    with pytest.raises(seize.SeizeError, match=r"cirr has no recal predictions"):
        cirr.evaluate(mine.assign(kind="recal"))
    with pytest.raises(seize.SeizeError, match=r"\d+ of \d+ queries of cirr val have no recall"):
        cirr.evaluate(mine[:0])


def test_a_benchmark_compares_methods_with_other_rankings(place: Path) -> None:
    circo = opened()
    with pytest.raises(
        seize.SeizeError, match=r"Run: seize search --dataset circo .*--config demo"
    ):
        circo.rankings("image")
    metrics = circo.run("image")
    assert metrics is not None
    assert metrics.name == "image"
    assert not list(Path("cache").rglob("caption/*")), "a baseline captions nothing"
    assert circo.run("text") is not None
    circo.search(["text", "image"])
    mine = circo.rankings("text")
    table = circo.compare(["image", "text"], {"mine": mine}, baseline="text", resamples=100)
    assert table.index.unique("method").tolist() == ["image", "text", "mine"]
    assert (table.loc["mine", "difference"] == 0).all()
    assert table.loc[("image", "mAP@5"), "value"] == pytest.approx(metrics["mAP@5"])
    with pytest.raises(seize.SeizeError, match="Query 0815 is not in circo-val"):
        circo.show("0815", "image")
    with pytest.raises(seize.SeizeError, match="no method 'imag'"):
        circo.search("imag")


def test_a_split_without_ground_truth_gives_no_metrics(place: Path) -> None:
    test = opened(split="test")
    assert test.run("image") is None
    assert test.rankings("image")["relevant"].isna().all()
    with pytest.raises(seize.SeizeError, match="no ground truth"):
        test.evaluate("image")


def test_arrays_rank_as_files_do(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from pipeline.cli import main

    generator = np.random.default_rng(0)
    arrays = {
        name: generator.standard_normal((rows, 8)).astype("float16")
        for name, rows in (("composed", 3), ("content", 3), ("gallery", 9))
    }
    arguments = ["rank", "--alpha-pos", "0.2", "--alpha-neg", "1.5", "--top-k", "10"]
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        arguments += [f"--{name}", str(tmp_path / f"{name}.npy")]
    (tmp_path / "exclude.json").write_text("[1, null, [2, 3]]")
    arguments += ["--exclude", str(tmp_path / "exclude.json"), "--out", str(tmp_path / "out.npz")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    rows, scores = seize.rank(
        **arrays, alpha_pos=0.2, alpha_neg=1.5, top_k=10, exclude=[1, None, [2, 3]]
    )
    written = np.load(tmp_path / "out.npz")
    assert np.array_equal(rows, written["indices"])
    assert np.array_equal(scores, written["scores"])
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    with pytest.raises(seize.SeizeError, match="composed holds int64"):
        seize.rank(np.ones((3, 8), int), arrays["content"], arrays["gallery"], 0.1, 1.0)
    with pytest.raises(seize.SeizeError, match=r"content has shape \(2, 8\)"):
        seize.rank(arrays["composed"], arrays["content"][:2], arrays["gallery"], 0.1, 1.0)
    with pytest.raises(seize.SeizeError, match="finite"):
        seize.rank(**arrays, alpha_pos=float("nan"), alpha_neg=1.0)
    with pytest.raises(seize.SeizeError, match="top_k is 0"):
        seize.rank(**arrays, alpha_pos=0.1, alpha_neg=1.0, top_k=0)
    with pytest.raises(seize.SeizeError, match="exclude, query 1: 9 is no row of the gallery"):
        seize.rank(**arrays, alpha_pos=0.1, alpha_neg=1.0, exclude=[0, 9, 0])
