"""Every layout of the demo's world, from captions to metrics on the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import datasets
from pipeline.demo import layouts
from pipeline.records import file_of
from tests.integration.test_cli import seize

SETTINGS = ("--config", "demo", "--set", "captioner.samples=2", "--set", "runtime.workers=0")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each layout's world below its name."""
    root = tmp_path_factory.mktemp("layouts")
    for name in layouts.names():
        layouts.write(name, root / name, queries=3)
    return root


def split_of(name: str) -> str:
    return datasets.find(name).splits[0]


def command(name: str, data: Path, out: Path) -> tuple[str, ...]:
    where = ("--data-root", str(data), "--cache", str(out / "cache"))
    return ("--dataset", name, *where, "--submissions", str(out / "submissions"), *SETTINGS)


def answered(*arguments: str) -> Any:
    done = seize(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", layouts.names())
def test_the_whole_path_runs_and_its_submission_gives_the_same_metrics(
    worlds: Path, tmp_path: Path, name: str
) -> None:
    options = command(name, worlds / name, tmp_path)
    assert seize("run", *options, "--method", "seize").exit_code == 0
    metrics = answered("evaluate", *options, "--method", "seize")
    dataset = datasets.load(name, split_of(name), worlds / name)
    assert list(metrics) == dataset.metrics
    assert all(0 <= value <= 100 for value in metrics.values())
    assert dataset.headline in metrics
    written = [str(file) for file in (tmp_path / "submissions").rglob("*.json")]
    submitted = [file for file in written if not file.endswith((".config.json", ".metrics.json"))]
    again = answered("evaluate", *submitted, *options[:6])
    assert again == pytest.approx(metrics)
    page = tmp_path / "report.html"
    assert seize("report", *options, "--method", "seize", "--out", str(page)).exit_code == 0
    assert page.stat().st_size > 10_000


@pytest.mark.parametrize("name", layouts.names())
def test_missing_images_are_counted_by_the_queries_that_they_touch(
    worlds: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(worlds / name, tmp_path / name)
    dataset = datasets.load(name, split_of(name), root)
    gone = file_of(dataset.images[dataset.queries[0].reference])
    gone.unlink()
    lost = {one for one, file in dataset.images.items() if file_of(file) == gone}
    options = command(name, root, tmp_path)
    for stage in ("embed", "search"):
        done = seize(stage, *options, "--method", "image")
        assert done.exit_code == 0, done.output
    touched = dataset.touched_by(lost)
    assert touched
    assert f"{touched} of {len(dataset.queries)} queries have one as reference" in caplog.text
