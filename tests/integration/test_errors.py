"""However a command ends: one line that helps, an exit code, and no traceback unless asked for."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import EXIT_CODES
from tests.conftest import PROJECT

FAILING = """
import time
import click
from pipeline.cli import main

@main.command()
def divide():
    1 / 0

@main.command()
def fill():
    raise MemoryError

@main.command()
@click.option("--llm-url")
@click.option("--serve-arg")
def secret(llm_url, serve_arg):
    import logging
    logging.getLogger("seize").warning("asks %s", llm_url)
    raise ZeroDivisionError(f"{llm_url} {'x' * 280} {llm_url}")

@main.command()
def worker():
    import os, torch
    from torch.utils.data import DataLoader

    class Images:
        def __len__(self):
            return 8
        def __getitem__(self, index):
            os.kill(os.getpid(), 9)

    list(DataLoader(Images(), num_workers=1))

@main.command()
def allocator():
    import torch
    torch.empty(1 << 50)

@main.command()
def wait():
    print("ready", flush=True)
    time.sleep(600)

main()
"""
"""The real command line with commands that go wrong in ways nobody planned for."""


def seize(*arguments: str, code: str = "", path: Path | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "pipeline"]
    folders = [str(path), str(PROJECT)] if path else [str(PROJECT)]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "", "PYTHONPATH": ":".join(folders), "TMPDIR": str(path or "/tmp")},
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_an_unforeseen_error_is_called_a_bug_and_its_traceback_kept(tmp_path: Path) -> None:
    code, _, err = ended(seize("divide", code=FAILING, path=tmp_path))
    assert code == 70
    (line,) = err.splitlines()
    assert "ZeroDivisionError" in line
    assert "an error of seize itself" in line
    log = re.search(r"please report it with (\S+\.log)\.", line)
    assert log
    assert Path(log[1]).parent == tmp_path
    text = Path(log[1]).read_text()
    assert "Traceback (most recent call last)" in text
    assert "divide" in text.splitlines()[0]


def test_debug_shows_the_traceback_of_any_error(tmp_path: Path) -> None:
    code, _, err = ended(seize("--debug", "divide", code=FAILING, path=tmp_path))
    assert code == 70
    assert err.startswith("Traceback (most recent call last)")
    assert "with the traceback above" in err.splitlines()[-1]
    assert not list(tmp_path.glob("*.log"))
    code, _, err = ended(seize("--debug", "config", "show", "demos"))
    assert code == 2
    assert err.startswith("Traceback (most recent call last)")
    assert err.splitlines()[-1].startswith("Error: There is no preset 'demos'. Did you mean 'demo'")


def test_no_memory_left_says_what_to_make_smaller() -> None:
    code, _, err = ended(seize("fill", code=FAILING))
    assert code == 5
    (line,) = err.splitlines()
    assert "runtime.caption_batch" in line


def test_ctrl_c_says_that_nothing_is_lost() -> None:
    process = seize("wait", code=FAILING)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert err == "Stopped. What was computed is kept; the same command resumes.\n"


@pytest.mark.parametrize(
    "arguments",
    [("config", "list"), ("prompts", "list"), ("--help",), ("table", "--dataset", "circo")],
    ids=" ".join,
)
def test_a_reader_that_goes_ends_it_quietly(arguments: tuple[str, ...]) -> None:
    process = seize(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(300) == 141


def test_output_into_a_full_disk_is_no_bug() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "config", "list"],
            cwd=PROJECT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 6
    assert done.stderr.startswith("Error: No space left on device.")


def broken(folder: Path, name: str) -> Path:
    """Make a package that is found first and cannot be imported, as after a bad upgrade."""
    (folder / name).mkdir(parents=True)
    text = "raise ImportError('libfoo.so.3: cannot open shared object file', name=__name__)\n"
    (folder / name / "__init__.py").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("click", ("config", "list")), ("tabulate", ("table", "--dataset", "circo"))],
)
def test_a_package_that_does_not_import_is_named_with_what_to_do(
    tmp_path: Path, package: str, arguments: tuple[str, ...]
) -> None:
    code, _, err = ended(seize(*arguments, path=broken(tmp_path, package)))
    assert code == 7
    (line,) = err.splitlines()
    assert line.startswith(f"Error: {package} cannot be imported (libfoo.so.3")
    assert "pip install -r requirements.txt" in line
    assert "seize doctor" in line


def test_exit_codes_are_told_by_help_and_readme() -> None:
    code, out, _ = ended(seize("--help"))
    assert code == 0
    told = re.sub(r"\s+", " ", out)
    readme = re.sub(r"\s+", " ", (PROJECT / "README.md").read_text(encoding="utf-8"))
    for number, meaning in EXIT_CODES.items():
        assert f"{number} {meaning}" in told
        assert f"| {number} | {meaning} |" in readme


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("fill", "runtime.embed_batch=16"),
        ("allocator", "runtime.embed_batch=16"),
        ("worker", "runtime.workers=1"),
    ],
)
def test_memory_that_runs_out_is_one_line_that_says_what_to_do(command: str, advice: str) -> None:
    code, _, err = ended(seize(command, code=FAILING))
    assert code == 5
    (line,) = err.splitlines()
    assert "memory" in line
    assert advice in line


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_credentials_are_in_no_log_error_or_traceback(tmp_path: Path, debug: list[str]) -> None:
    options = ["--llm-url", "http://me:hunter2@host/v1", "--serve-arg=--api-key hunter2"]
    code, _, err = ended(seize(*debug, "secret", *options, code=FAILING, path=tmp_path))
    assert code == 70
    assert "asks http://(hidden)@host/v1" in err
    files = list(tmp_path.glob("seize-error-*.log"))
    assert len(files) == (0 if debug else 1)
    said = err + "".join(file.read_text() for file in files)
    assert "hunter2" not in said
    assert "http://(hidden)@host" in said
