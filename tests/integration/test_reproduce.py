"""`seize reproduce`: recipes as data, run by the project's own stages, with a verdict a figure."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ConfigError, MissingStageError
from pipeline.run import Run
from pipeline.stages import export, submit
from pipeline.stages.everything import run_stages
from pipeline.study.reproduce import Place, config_of, recipes
from tests.conftest import PROJECT
from tests.integration.test_cli import seize

MakeRun = Callable[..., Run]


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_whole_and_its_configurations_exist(name: str, tmp_path: Path) -> None:
    found = recipes.load(name)
    place = Place(tmp_path, tmp_path, tmp_path, tmp_path)
    for case in found.cases:
        assert case.figures(), "a figure, by a row of published.yaml or with a source"
        assert all(source for _, source in case.figures().values())
        chosen = config_of(case, place)
        assert chosen.search.method == case.method
        assert case.because


def test_the_demos_recipe_holds_what_the_readme_records() -> None:
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    table = {line.split("`")[1]: line for line in lines if re.match(r"\| `(seize|pdv)` \|", line)}
    columns = {"circo": 0, "cirr": 1, "fashioniq": 2}
    for case in recipes.load("demo").cases:
        cells = table[case.method].split("|")[2:]
        recorded = float(cells[columns[case.dataset]].split()[0])
        assert list(case.expected.values()) == [recorded], case.name


@pytest.fixture
def release(make_run: MakeRun, tmp_path: Path) -> dict[str, Any]:
    """What a paper's authors would release of a run: texts, lists, and figures."""
    run = make_run()
    _, metrics = run_stages(run)
    assert metrics is not None
    files = tmp_path / "released"
    files.mkdir()
    (written,) = export.export(run, tmp_path / "exported")
    entries = json.loads(Path(written).read_text())
    captions = next(key for key in entries[0] if "caption" in key and "multi" in key)
    edits = next(key for key in entries[0] if key.startswith("multi_") and key != captions)
    shutil.copyfile(written, files / "val.json")
    (lists,) = submit.files(run).values()
    shutil.copyfile(lists, files / "ours.json")
    recipe = {
        "title": "A paper",
        "needs": {"val.json": "example.org/val", "ours.json": "example.org/lists"},
        "cases": [
            {
                "name": "val",
                "dataset": "circo",
                "split": "val",
                "preset": "demo",
                "method": "seize",
                "settings": {
                    "captioner.model": f"imported:{captions}",
                    "llm.model": f"imported:{edits}",
                },
                "texts": "val.json",
                "expected": {name: round(metrics[name], 2) for name in ("mAP@5", "recall@10")},
                "source": "table 1",
                "tolerance": 0.0,
                "submission": {"recall": "ours.json"},
                "agreement": {"overlap@10": 99, "overlap@50": 99},
                "because": ["the moon"],
            }
        ],
    }
    given = ["--files", str(files), "--data-root", str(run.dataset.root.parent), "--workers", "0"]
    given += ["--cache", str(tmp_path / "other"), "--submissions", str(tmp_path / "sent")]
    return {"recipe": recipe, "given": given, "files": files, "folder": tmp_path}


def written(release: dict[str, Any], **changes: Any) -> str:
    """Write the recipe, its case changed, and return the file's name."""
    content = json.loads(json.dumps(release["recipe"]))
    content["cases"][0] |= changes
    file = release["folder"] / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def test_released_texts_give_the_figures_and_the_lists_they_were_released_with(
    release: dict[str, Any],
) -> None:
    out = release["folder"] / "issue.md"
    done = seize("reproduce", written(release), *release["given"], "--json", "--out", str(out))
    assert done.exit_code == 0, done.output
    (case,) = json.loads(done.stdout)["outcomes"]
    figures = {figure["name"]: figure for figure in case["figures"]}
    assert {figure["verdict"] for figure in figures.values()} == {"within"}
    for measure in ("overlap@10", "overlap@50", "rbo", "kendall"):
        assert figures[f"{measure} with ours.json"]["ours"] == pytest.approx(100)
    assert case["header"]["method"] == "seize"
    text = out.read_text()
    assert text.startswith("# A paper")
    assert "| mAP@5" in text
    assert "the moon" not in text, "nothing differs, so nothing is explained"


def test_a_difference_is_told_with_what_may_explain_it_and_ends_with_1(
    release: dict[str, Any],
) -> None:
    expected = release["recipe"]["cases"][0]["expected"]
    other = {"mAP@5": max(expected["mAP@5"] - 3, 0), "recall@10": expected["recall@10"]}
    lists = json.loads((release["files"] / "ours.json").read_text())
    for images in lists.values():
        images.reverse()
    (release["files"] / "ours.json").write_text(json.dumps(lists))
    recipe = written(release, expected=other, tolerance=0.5)
    done = seize("reproduce", recipe, *release["given"])
    assert done.exit_code == 1, done.output
    by_name = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "outside" in by_name["mAP@5"]
    assert "+3.00" in by_name["mAP@5"]
    assert "within" in by_name["recall@10"]
    assert "outside" in by_name["overlap@10"]
    assert "within" in by_name["overlap@50"]
    assert "-100.00" in by_name["kendall"]
    assert "May explain it: the moon" in done.stdout
    assert "reference masked" in done.stdout


def test_what_is_missing_is_said_with_where_to_fetch_it(release: dict[str, Any]) -> None:
    (release["files"] / "ours.json").unlink()
    without = seize("reproduce", written(release), *release["given"])
    assert without.exit_code == 0, without.output  # the figures need no lists
    assert "Not compared: ours.json is not in" in without.stdout
    assert "example.org/lists" in without.stdout
    (release["files"] / "val.json").unlink()
    recipe = written(release)
    nowhere = ["--data-root", str(release["folder"] / "nowhere")]
    refused = seize("reproduce", recipe, *release["given"], *nowhere)
    assert refused.exit_code == MissingStageError.exit_code
    said = [line for line in refused.stdout.splitlines() if "Cannot be run" in line]
    assert len(said) == 2
    assert "example.org/val" in said[0]
    assert "nowhere" in said[1]


def test_figures_of_a_test_split_come_from_the_servers_answer(
    release: dict[str, Any], tmp_path: Path
) -> None:
    plain = {"settings": {}, "texts": None, "submission": {}, "agreement": {}}
    changes = plain | {"split": "test", "method": "image", "published": None}
    content = release["recipe"] | {"needs": {}}
    recipe = written(release | {"recipe": content}, **changes)
    waiting = seize("reproduce", recipe, *release["given"])
    assert waiting.exit_code == 0, waiting.output
    assert "not measured" in waiting.stdout
    assert "upload" in waiting.stdout
    answer = tmp_path / "server.json"
    answer.write_text(json.dumps(release["recipe"]["cases"][0]["expected"] | {"note": "thanks"}))
    done = seize("reproduce", recipe, *release["given"], "--answer", f"val={answer}")
    assert done.exit_code == 0, done.output
    assert "not measured" not in done.stdout
    wrong = seize("reproduce", recipe, *release["given"], "--answer", f"vla={answer}")
    assert wrong.exit_code == 2
    assert "Did you mean 'val'" in wrong.stderr


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"settings": {"llm.url": "http://evil"}}, "llm.url is for your own options"),
        ({"settings": {"runtime.allow_pickle": True}}, "allow_pickle"),
        ({"texts": "../val.json"}, "without folders"),
        ({"source": ""}, "need a source"),
        ({"expected": {"mAP@5": float("inf")}}, "finite"),
        ({"published": {"method": "SEIZE", "backbone": "B/33"}}, "B/33"),
        ({"published": {"method": "SIEZE", "backbone": "B/32"}}, "no published row of SIEZE"),
        ({"dataset": "cirko"}, "circo"),
        ({"tolerance": -1}, "tolerance"),
        ({"texts": None}, "val.json"),
        ({"expected": {}, "submission": {}}, "expects nothing"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_run(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    case = {
        "name": "a", "dataset": "circo", "split": "val", "preset": "demo", "method": "image",
        "texts": "val.json", "expected": {"mAP@5": 1.0}, "source": "x", "tolerance": 1,
    }  # fmt: skip
    content = {"title": "t", "needs": {"val.json": "x"}, "cases": [case]}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    assert recipes.load(str(file)).cases[0].name == "a"
    content["cases"] = [case | changes]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=problem):
        recipes.load(str(file))


def test_recipes_are_listed_and_unknown_ones_named() -> None:
    listed = seize("reproduce")
    assert listed.exit_code == 0, listed.output
    assert [line.split(":")[0] for line in listed.stdout.splitlines()] == recipes.names()
    refused = seize("reproduce", "sieze")
    assert refused.exit_code == 2
    assert "Did you mean 'seize'" in refused.stderr
