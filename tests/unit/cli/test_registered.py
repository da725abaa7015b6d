"""Values that a shell completes: what there is, without torch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from pipeline import config, datasets
from pipeline.cli import main
from pipeline.cli.main import COMPLETION
from pipeline.models.prompts import edit, verify
from pipeline.retrieval import methods
from tests.conftest import PROJECT


def offered(*words: str) -> list[str]:
    """What a shell offers for the last word."""
    *before, begun = words
    shell = ShellComplete(main, {}, "seize", "_SEIZE_COMPLETE")
    return [item.value for item in shell.get_completions(before, begun)]


@pytest.mark.parametrize(
    ("option", "known"),
    [  # asked when the test runs: other tests bring a benchmark of their own
        ("--config", config.presets),
        ("--dataset", datasets.known),
        ("--method", lambda: [*methods.names(), "all"]),
        ("--prompt", edit.names),
        ("--question", verify.names),
    ],
)
def test_options_of_a_run_offer_what_there_is(
    option: str, known: Callable[[], Iterable[str]]
) -> None:
    names = list(known())
    assert len(names) > 2
    assert offered("run", option, "") == names
    begun = names[-1][:2]
    assert offered("run", option, begun) == [name for name in names if name.startswith(begun)]


@pytest.mark.parametrize(
    "before",
    [
        ("app", "photos", "--config"),
        ("query", "--config"),
        ("doctor", "--config"),
        ("config", "show"),
    ],
)
def test_presets_are_offered_wherever_one_is_given(before: tuple[str, ...]) -> None:
    assert offered(*before, "la") == ["laptop"]


def test_a_list_of_methods_is_completed_at_its_end() -> None:
    assert offered("search", "--method", "seize,pd") == ["seize,pdv", "seize,pdv+composer"]


def test_files_are_left_to_the_shell_where_no_name_fits() -> None:
    shell = ShellComplete(main, {}, "seize", "_SEIZE_COMPLETE")
    for option in ("--config", "--prompt"):
        (item,) = shell.get_completions(["run", option], "./mi")
        assert (item.value, item.type) == ("./mi", "file")
    assert offered("run", "--dataset", "./mi") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_line_of_the_help_makes_bash_complete(tmp_path: Path) -> None:
    program = tmp_path / "seize"
    code = "from pipeline.__main__ import main; main()"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    (line,) = (one.split(maxsplit=1)[1] for one in COMPLETION.splitlines() if "bash" in one)
    script = (
        f"{line}\ncomplete -p seize\n"
        "COMP_WORDS=(seize search --method pd) COMP_CWORD=3; _seize_completion seize\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    place = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=os.environ | place
    )
    assert result.stdout.splitlines()[0].endswith("-F _seize_completion seize")
    assert result.stdout.splitlines()[1] == "pdv pdv+composer"


@pytest.mark.parametrize("words", ["run --dataset circ", "search --method ldr", "cache cl"])
def test_the_shells_protocol_answers_without_torch(words: str, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['seize']\n"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
        "from pipeline.__main__ import main; main()"
    )
    asked = {
        "_SEIZE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"seize {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked,
        cwd=PROJECT,
    )  # fmt: skip
    assert result.stderr == ""
    found = {"circ": "circo", "ldr": "ldre", "cl": "clean"}[words.split()[-1]]
    assert result.stdout.splitlines() == [f"plain,{found}", "False"]
