"""Stages as records: their order, what a run needs of them, and those that others add."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline import stages
from pipeline.errors import ConfigError
from pipeline.run import Run
from pipeline.stages.base import Stage
from tests.conftest import PROJECT
from tests.unit.test_plugins import package

WORDS = '''
"""A stage of one's own: how many words the captions of every image have."""

import json
from pathlib import Path

from pipeline.run import Run, StageReport, stage
from pipeline.stages import caption, texts
from pipeline.stages.base import Line, Stage
from pipeline.store.files import write_json


def file(run: Run) -> Path:
    return run.file("words", run.config.captioner.model, "1", ".json")


def count(run: Run, retry_failed: bool = False) -> list[StageReport]:
    captions = caption.by_image(caption.record_file(run))
    with stage("words", run, [caption.record_file(run).file], file(run), "images") as report:
        counted = {image: len(" ".join(texts).split()) for image, texts in captions.items()}
        write_json(file(run), counted | {"again": retry_failed})
        report.computed = len(counted)
    return [report]


def plan(run: Run) -> list[Line]:
    return [Line("words", "images counted", len(run.references))]


STAGE = Stage(
    "words",
    "Count the words of the captions.",
    count,
    after=("caption",),
    wanted=lambda run: "caption" in texts.stages(run),
    header=lambda run: {"stage": "words"},
    sources={"words of captions": file},
    plan=plan,
    retries="count again",
)
'''


def seize(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command where the package below ``home`` is installed."""
    environment = os.environ | {"PYTHONPATH": f"{home}:{PROJECT}"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_stage_of_ones_own_is_one_file(small_world: Path, tmp_path: Path) -> None:
    home = package(tmp_path / "theirs", "seize.stages", "counting:STAGE", "words")
    (home / "counting.py").write_text(WORDS)
    folders = ["--cache", str(tmp_path / "cache"), "--submissions", str(tmp_path / "submissions")]
    common = [
        "--config", "demo", "--dataset", "circo", "--split", "val", "--limit", "4", *folders,
        "--data-root", str(small_world), "--set", "runtime.workers=0",
    ]  # fmt: skip

    listed = seize(home, "--help")
    assert re.search(r"words +Count the words of the captions\.", listed.stdout), listed.stderr
    helped = seize(home, "words", "--help").stdout
    assert "--dataset" in helped
    assert "count again" in helped
    assert "--serve" not in helped

    planned = json.loads(seize(home, "plan", *common, "--json").stdout)["lines"]
    assert list(dict.fromkeys(line["stage"] for line in planned)) == [
        *("caption", "edit", "words", "embed", "search"),
    ]
    totals = {line["quantity"]: line["total"] for line in planned}
    assert totals["images counted"] == totals["reference images"]

    done = seize(home, "run", *common, "--json")
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)["stages"]
    names = [report["stage"] for report in reports]
    assert list(dict.fromkeys(names)) == ["caption", "edit", "words", "embed", "search", "submit"]
    (made,) = (tmp_path / "cache" / "circo-val" / "words").glob("*.json")
    counts = json.loads(made.read_text())
    assert counts.pop("again") is False
    assert len(counts) == totals["images counted"]
    assert all(count > 15 for count in counts.values())
    beside = next((tmp_path / "submissions").glob("*.config.json"))
    assert json.loads(beside.read_text())["words"] == {"stage": "words"}

    page = tmp_path / "report.html"
    reported = seize(home, "report", *common, "--out", str(page))
    assert reported.returncode == 0, reported.stderr
    _, section = page.read_text(encoding="utf-8").split("words of captions", 1)
    assert made.name in section[:500]

    again = seize(home, "words", *common, "--retry-failed", "--json")
    assert [report["stage"] for report in json.loads(again.stdout)] == ["words"]
    assert json.loads(made.read_text())["again"] is True

    plain = json.loads(seize(home, "plan", *common, "--method", "image", "--json").stdout)
    assert "words" not in {line["stage"] for line in plain["lines"]}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "theirs adds 'theirs' (seize.stages), which cannot be imported"),
        ("STAGE = 1", "names no Stage"),
        ("from pipeline.stages.base import Stage\nSTAGE = Stage('ours', 'x')", "call both alike"),
    ],
)
def test_a_stage_that_is_none_leaves_other_commands_alone(
    tmp_path: Path, code: str | None, message: str
) -> None:
    home = package(tmp_path, "seize.stages", "broken_stage")
    if code is not None:
        (home / "broken_stage.py").write_text(code)
    helped, listed = seize(home, "--help"), seize(home, "config", "list")
    assert helped.returncode == listed.returncode == 0
    assert "\n  theirs" in helped.stdout
    called = seize(home, "theirs", "--dataset", "circo")
    assert called.returncode == 2
    assert called.stderr.startswith("Error: ")
    assert message in called.stderr
    planned = seize(home, "plan", "--dataset", "circo", "--data-root", "data/demo")
    assert planned.returncode in (2, 3)
    assert len(planned.stderr.splitlines()) == 1


def test_a_stage_cannot_take_the_name_of_another(tmp_path: Path) -> None:
    home = package(tmp_path, "seize.stages", "theirs_too", "embed")
    program = "from pipeline import stages; stages.known()"
    environment = os.environ | {"PYTHONPATH": f"{home}:{PROJECT}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert "adds a stage 'embed', which there is already" in done.stderr


def named(name: str, after: Sequence[str] = (), before: Sequence[str] = ()) -> Stage:
    return Stage(name, "", after=tuple(after), before=tuple(before))


def test_stages_stand_behind_those_that_they_come_after() -> None:
    given = [named("c", ["b"]), named("d"), named("b", ["a"], ["d"]), named("a")]
    found = [stage.name for stage in stages.ordered(given)]
    assert found == ["a", "b", "c", "d"]


def test_a_circle_among_stages_is_named() -> None:
    given = [named("a", ["c"]), named("b", ["a"]), named("c", ["b"]), named("d", ["a"])]
    with pytest.raises(ConfigError, match=r"no order: '(\w)' before '\w' before '\w' before '\1'"):
        stages.ordered(given)


@pytest.mark.parametrize("where", ["after", "before"])
def test_a_stage_that_comes_after_none_there_is_has_a_hint(where: str) -> None:
    given = [named("caption"), named("words", **{where: ["captoin"]})]
    with pytest.raises(ConfigError, match=r"'words'.*'captoin'.*Did you mean 'caption'"):
        stages.ordered(given)


@pytest.mark.parametrize(
    ("split", "method", "expected"),
    [
        ("val", "seize", "caption edit embed search submit evaluate"),
        ("val", "image", "embed search submit evaluate"),
        ("test", "seize", "caption edit embed search submit"),
        ("val", "seize+verify", "caption edit embed search verify submit evaluate"),
        ("val", "text+verify", "embed search verify submit evaluate"),
    ],
)
def test_a_run_goes_through_the_stages_that_it_needs(
    make_run: Callable[..., Run], split: str, method: str, expected: str
) -> None:
    run = make_run("circo", split, search__method=method, verifier__prompt="change")
    assert [stage.name for stage in stages.wanted(run)] == expected.split()


def test_stages_are_known_without_torch() -> None:
    program = "import sys; from pipeline import stages; stages.known(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert "pipeline.stages.verify" in done.stdout.split()
    assert "torch" not in done.stdout.split()
