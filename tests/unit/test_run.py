"""Progress is a bar on a terminal and a few lines elsewhere."""

import logging
import os
import pty
import subprocess
import sys
import termios
import time

import pytest

from pipeline import run
from tests.conftest import PROJECT

WORK = """
import logging, time
now = 2.0**30
time.time = time.monotonic = lambda: now
logging.basicConfig(level=logging.INFO, format="%(message)s")
from pipeline import run
run.EVERY = 0.3
with run.progress(100, 50, "image", "embed images") as bar:
    for _ in range(50):
        now += 1 / 32
        bar.update()
"""
"""A second and a half of work, by a clock of its own."""


def test_progress_into_a_file_is_a_line_now_and_then_and_a_last_one() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WORK], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "\r" not in result.stderr
    assert "\x1b" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 5  # at 0.3 s each from half a second on, and the last one
    assert all(line.startswith("embed images: ") for line in lines)
    assert "100 of 100 images in 00:01" in lines[-1]
    rate = float(lines[-1].partition(" images/s")[0].rpartition(" ")[2])
    assert rate == pytest.approx(32)  # of what was computed now, not of all hundred


def test_progress_on_a_terminal_is_a_bar() -> None:
    own, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    subprocess.run([sys.executable, "-c", WORK], cwd=PROJECT, stderr=theirs, check=True)
    os.set_blocking(own, False)
    shown = os.read(own, 100_000).decode()
    os.close(own)
    os.close(theirs)
    assert "\rembed images: " in shown


def test_what_is_soon_done_has_no_line(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "seize")
    with run.progress(3, 0, "image", "embed") as bar:
        for _ in range(3):
            time.sleep(0.3)
            bar.update()
    assert caplog.messages == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        ("", "--method b"),
        ("--method a --top-k 3", "--top-k 3 --method b"),
        ("--set search.method=a --set llm.seed=1", "--set llm.seed=1 --method b"),
        ("--method a --data-root 'my data'", "--data-root 'my data' --method b"),
    ],
)
def test_an_option_is_set_once(command: str, changed: str) -> None:
    assert run.with_option(command, "--method", "search.method", "b") == changed
