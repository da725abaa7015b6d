"""File names, captions and annotations that try to steer the terminal do not."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from pipeline import config, datasets
from pipeline.images import pictures
from pipeline.own.gallery import Gallery
from pipeline.pages.answers import result_of
from pipeline.pages.result import write_page
from pipeline.printable import STEERING, printable
from pipeline.records import Ranking
from pipeline.run import Run
from tests.browser import watch
from tests.conftest import PROJECT

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[red]x\r"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What rich itself writes to a terminal."""


def on_a_terminal(*arguments: str) -> str:
    """Run a command with a terminal as its standard output and error; return what that shows."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "pipeline", *arguments]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=PROJECT) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            shown += part
        process.wait()
    os.close(ours)
    return COLOURS.sub("", shown.decode()).replace("\r\n", "\n")


@pytest.fixture
def photos(small_world: Path, tmp_path: Path) -> Path:
    """A folder with an image of a nasty name, and one that is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, file in enumerate(sorted((small_world / "CIRCO").rglob("*.jpg"))[:3]):
        shutil.copy(file, folder / f"{number}{NASTY}.jpg")
    (folder / f"broken{NASTY}.jpg").write_text("no image")
    return folder


def test_names_and_texts_are_written_out(photos: Path, tmp_path: Path) -> None:
    options = ("--config", "demo", "--cache", str(tmp_path / "cache"))
    shown = on_a_terminal("index", str(photos), *options, "--workers", "0")
    assert f"skipped broken{printable(NASTY)}" in shown
    assert not STEERING.search(shown.replace("\r", ""))  # the progress bar's own
    image = next(photos.glob("0*"))
    query = ("query", str(image), f"has a dark {NASTY}background", "--gallery", str(photos))
    shown = on_a_terminal("--quiet", *query, *options)
    assert "[red]x" in shown
    assert not STEERING.search(shown)
    shown = on_a_terminal("--quiet", *query, *options, "--json")
    assert not STEERING.search(shown)
    assert any(NASTY in found["path"] for found in json.loads(shown)["images"])


def test_errors_and_tracebacks_are_written_out(small_world: Path, tmp_path: Path) -> None:
    root = tmp_path / f"data{NASTY}"
    shutil.copytree(small_world / "CIRR", root / "CIRR", ignore=shutil.ignore_patterns("*.png"))
    file = root / "CIRR/cirr/captions/cap.rc2.val.json"
    entries = json.loads(file.read_text())
    entries[0]["reference"] = NASTY
    file.write_text(json.dumps(entries))
    for options in ((), ("--debug",)):
        shown = on_a_terminal(
            *options, "plan", "--config", "demo", "--dataset", "cirr", "--data-root", str(root)
        )
        assert f"reference image {printable(NASTY.strip())} is not in the gallery" in shown
        assert not STEERING.search(shown)


def test_options_that_are_repeated_in_an_error_are_written_out(tmp_path: Path) -> None:
    shown = on_a_terminal("rank", "--composed", f"{tmp_path}/{NASTY}")
    assert printable(NASTY) in shown.replace("\n", "")
    assert not STEERING.search(shown)


def test_the_page_of_a_query_runs_nothing(photos: Path, tmp_path: Path, page: Page) -> None:
    script = "<img src=x onerror=window.broken=1>"
    (photos / f"3{NASTY}{script}.jpg").write_bytes(next(photos.glob("0*")).read_bytes())
    settings = config.load("demo", {"runtime.workers": 0})
    gallery = Gallery(photos, settings, tmp_path / "cache")
    gallery.index()
    result = gallery.query(next(photos.glob("1*")), f"has a {NASTY}{script}</title>")
    texts = (f"{NASTY}</td><script>window.broken=1</script>", "javascript:window.broken=1")
    changed = result.rerank(captions=texts, edited_captions=texts[::-1])
    write_page(changed, tmp_path / "page.html")
    seen = watch(page)
    page.goto((tmp_path / "page.html").as_uri())
    assert not STEERING.search(page.content())
    assert printable(texts[0]) in page.locator("td").all_text_contents()
    assert photos.name in page.content()
    assert str(photos.parent) not in page.content(), "a page may be given away"
    assert page.evaluate("window.broken") is None
    assert page.locator("img[src=x], script").count() == 0
    assert seen.errors == []
    assert not STEERING.search(json.dumps(result_of(changed, 0)["images"], ensure_ascii=False))


def test_a_contact_sheet_takes_any_relative_caption(small_world: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_world / "CIRR", root / "CIRR")
    file = root / "CIRR/cirr/captions/cap.rc2.val.json"
    entries = json.loads(file.read_text())
    for entry in entries:
        entry["caption"] = NASTY + "word " * 100_000
    file.write_text(json.dumps(entries))
    dataset = datasets.load("cirr", "val", root)
    run = Run(dataset, config.load("demo"), tmp_path / "cache", tmp_path)
    rankings = [Ranking(query.id, query.group, (0.0,) * 5) for query in dataset.queries]
    assert isinstance(pictures.contact_sheet(run, rankings), Image.Image)
