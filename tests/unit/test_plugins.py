"""What a package of somebody else's adds by entry points."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pipeline import plugins
from pipeline.errors import ConfigError
from tests.conftest import PROJECT

BENCHMARK = '''
"""A benchmark of one's own: every image of a folder asks for its neighbour."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import recall_at_k
from pipeline.datasets.reading import Predictions, read_predictions
from pipeline.records import Query


class Neighbours(Dataset):
    name = "neighbours"
    folder = "neighbours"
    splits = ("val",)
    headline = "recall@1"

    def read(self) -> None:
        names = self.read_listing("names.json")
        self.images = {name: self.inside(name, "names.json") for name in names}
        self.galleries = {"all": list(self.images)}
        self.gallery_name = "neighbours"
        pairs = zip(names, names[1:] + names[:1])
        self.queries = [Query(a, a, ("is the next one",), target=b) for a, b in pairs]

    def parse(self, entry: Any, where: str) -> Query:
        raise NotImplementedError

    def values(self, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
        lists = predictions["recall"]
        return {"recall@1": {q.id: recall_at_k(lists[q.id], q.target, 1) for q in self.queries}}

    def submission(self, kind: str, predictions: Predictions) -> dict[str, Any]:
        return {name: list(images) for name, images in predictions.items()}

    def read_submission(self, content: Any, file: Path) -> tuple[str, dict[str, list[str]]]:
        return "recall", read_predictions(content, file)
'''


def package(folder: Path, group: str, target: str, name: str = "theirs") -> Path:
    """Lay out an installed package below ``folder``: a module, and an entry point to it."""
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    return folder


def test_a_benchmark_of_ones_own_is_one_file(tmp_path: Path) -> None:
    package(tmp_path, "seize.datasets", "neighbours_benchmark:Neighbours")
    (tmp_path / "neighbours_benchmark.py").write_text(BENCHMARK)
    data = tmp_path / "data" / "neighbours"
    data.mkdir(parents=True)
    (data / "names.json").write_text('["a.png", "b.png", "c.png"]')
    ranked = tmp_path / "ranked.json"
    ranked.write_text('{"a.png": ["b.png"], "b.png": ["c.png"], "c.png": ["b.png"]}')
    command = [
        sys.executable, "-m", "pipeline", "evaluate", str(ranked), "--dataset", "neighbours",
        "--split", "val", "--data-root", str(tmp_path / "data"), "--json",
    ]  # fmt: skip
    path = f"{tmp_path}:{PROJECT}"
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{"recall@1": 66.6')


def test_an_entry_point_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "seize.datasets", "nowhere_to_be_found")
    monkeypatch.syspath_prepend(str(tmp_path))
    (point,) = metadata.entry_points(group="seize.datasets")
    with pytest.raises(ConfigError, match=r"theirs adds 'theirs' .*nowhere_to_be_found"):
        plugins.resolved(point)


def test_modules_are_named_without_being_imported() -> None:
    assert {"circo", "cirr", "fashioniq"} <= set(plugins.names("pipeline.datasets"))
