"""``seize cache list`` and ``clean``: what they show, and that they ask first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.cli.cache import size
from pipeline.store.files import lock
from tests.conftest import PROJECT
from tests.unit.store.test_inventory import output


def seize(cache: Path, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["cache", command, "--cache", str(cache), *arguments])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with an older and a newer ranking, and with captions."""
    place = tmp_path / "cache"
    output(place, "c-val/search/seize-00000000000a.jsonl", 40, method="seize", model="B")
    output(place, "c-val/search/seize-00000000000b.jsonl", 20, method="seize", model="B")
    output(place, "c-val/caption/blip-00000000000c.jsonl", 50, model="blip")
    return place


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


ALL = {"seize-00000000000a.jsonl", "seize-00000000000b.jsonl", "blip-00000000000c.jsonl"}


def test_list_counts_by_stage_and_says_what_made_them(cache: Path) -> None:
    shown = seize(cache, "list")
    assert shown.exit_code == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()[2:]]
    assert rows[0][:4] == ["c-val", "caption", "blip", "1"]
    assert rows[1][:5] == ["c-val", "search", "seize,", "B", "2"]
    assert rows[1][-4:] == ["20", "days", "ago", "1"]
    assert shown.stdout.splitlines()[-1].startswith("3 files, ")
    listed = json.loads(seize(cache, "list", "--stage", "search", "--json").stdout)
    assert [entry["current"] for entry in listed] == [False, True]
    assert sum(entry["bytes"] for entry in listed) > 0
    assert files(cache) == ALL


def test_clean_shows_first_and_removes_with_yes(cache: Path) -> None:
    shown = seize(cache, "clean")
    assert "would be removed: c-val/search/seize-00000000000a.jsonl" in shown.stdout
    assert "--yes" in shown.stdout
    assert files(cache) == ALL
    gone = json.loads(seize(cache, "clean", "--yes", "--json").stdout)
    assert gone["removed"]
    assert [Path(entry["file"]).name for entry in gone["entries"]] == ["seize-00000000000a.jsonl"]
    assert files(cache) == ALL - {"seize-00000000000a.jsonl"}
    assert seize(cache, "clean", "--yes").stdout == "Removed 0 outputs, 0 B.\n"
    assert seize(cache, "clean").stdout == "Nothing to remove.\n"


@pytest.mark.parametrize(
    ("more", "removed"),
    [
        (("--older-than", "41"), set()),
        (("--older-than", "39"), {"seize-00000000000a.jsonl"}),
        (("--stage", "caption"), set()),
        (("--all", "--stage", "caption"), {"blip-00000000000c.jsonl"}),
        (("--all", "--older-than", "39"), ALL - {"seize-00000000000b.jsonl"}),
        (("--all",), ALL),
    ],
)
def test_clean_removes_what_is_asked_for_alone(
    cache: Path, more: tuple[str, ...], removed: set[str]
) -> None:
    (cache / "README.md").write_text("a page")
    assert seize(cache, "clean", "--yes", *more).exit_code == 0
    assert files(cache) == {"README.md"} | ALL - removed


def test_clean_says_what_is_in_use_and_leaves_it(cache: Path) -> None:
    with lock(cache / "c-val" / "search" / "seize-00000000000a.jsonl"):
        shown = seize(cache, "clean", "--yes")
    assert "in use, left: c-val/search/seize-00000000000a.jsonl" in shown.stdout
    assert files(cache) == ALL


def test_own_means_the_users_cache(cache: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pipeline", "cache", "list", "--own", "--json"],
        capture_output=True, text=True, check=True, cwd=PROJECT,
        env=os.environ | {"SEIZE_CACHE": str(cache)},
    )  # fmt: skip
    assert len(json.loads(found.stdout)) == 3


def test_wrong_stages_and_folders_are_refused(cache: Path) -> None:
    wrong = seize(cache, "clean", "--stage", "serch", "--yes")
    assert (wrong.exit_code, files(cache)) == (2, ALL)
    assert "Did you mean 'search'?" in wrong.stderr
    assert seize(cache / "nowhere", "list").exit_code == 3


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (99_950, "100 kB"),
     (999_500, "1.0 MB"), (2.5e9, "2.5 GB"), (4e15, "4000 TB")],
)  # fmt: skip
def test_sizes_are_told_in_three_digits(count: float, text: str) -> None:
    assert size(count) == text
