"""A command that needs no torch does not import it: that alone would take over a second."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.run import Run
from pipeline.stages.everything import run_stages
from tests.conftest import PROJECT

MakeRun = Callable[..., Run]

RUNNER = """
import json, sys
from click.testing import CliRunner
from pipeline.cli import main
found = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, words)
    slow = sorted({"torch", "transformers", "open_clip"} & sys.modules.keys())
    found.append([words, result.exit_code, slow, result.stderr])
print(json.dumps(found))
"""

HELP = """
import sys, click
from pipeline.cli import main
def helps(command, context):
    yield command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            yield from helps(child, click.Context(child, info_name=name, parent=context))
print(len(list(helps(main, click.Context(main, info_name="seize")))))
print(sorted({"torch", "transformers", "open_clip", "pandas"} & sys.modules.keys()))
"""


def run_in_one(commands: Sequence[Sequence[str]]) -> None:
    """Run commands one after the other in one process; each must succeed, without torch."""
    words = [sys.executable, "-c", RUNNER, json.dumps(commands)]
    said = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT, check=True)
    for command, code, slow, stderr in json.loads(said.stdout.splitlines()[-1]):
        assert code == 0, f"{shlex.join(command)}: {stderr}"
        assert slow == [], shlex.join(command)


def test_no_help_imports_torch() -> None:
    said = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    count, slow = said.stdout.splitlines()
    assert int(count) > 30
    assert slow == "[]"


def test_commands_that_only_look_import_no_torch(small_world: Path, tmp_path: Path) -> None:
    data = ["--data-root", str(small_world)]
    (tmp_path / "cache").mkdir()
    run_in_one(
        [
            ["config", "list"],
            ["config", "show", "paper-l14"],
            ["prompts", "list"],
            ["prompts", "show", "seize"],
            ["cache", "list", "--cache", str(tmp_path / "cache")],
            ["table", "--dataset", "circo"],
            ["plan", "--dataset", "circo", *data, "--config", "paper-l14", "--on", "h100"],
        ]
    )


@pytest.mark.parametrize("dataset", ["circo", "cirr"])
def test_stages_that_find_all_in_the_cache_import_no_torch(make_run: MakeRun, dataset: str) -> None:
    run = make_run(dataset)
    run.dataset.limit(3)
    run_stages(run)
    folders = ["--cache", str(run.cache), "--submissions", str(run.submissions)]
    given = [*run.command.split(), "--limit", "3", *folders]
    stages = ("caption", "edit", "embed", "submit", "evaluate", "plan")
    run_in_one([[stage, *given] for stage in stages])
