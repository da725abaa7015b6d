"""Text from elsewhere cannot steer a terminal or a page."""

import io
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import pipeline
from pipeline.printable import (
    STEERING,
    Formatter,
    cell,
    json_safe,
    one_line,
    printable,
    without_folders,
)

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe\r[red]x[/red]\x00\x7f\u2028\ud800"


@given(st.text(alphabet=st.characters(), max_size=50))
def test_nothing_that_steers_is_left(text: str) -> None:
    assert not STEERING.search(printable(text))
    assert "\n" not in one_line(text)
    printable(text).encode()  # a terminal's UTF-8 can hold it
    if text.isprintable():
        assert printable(text) == text


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_says_the_same_without_anything_that_steers(content: object) -> None:
    text = json_safe(json.dumps(content, ensure_ascii=False))
    assert not STEERING.search(text)
    assert json.loads(text) == content


def test_what_is_read_from_right_to_left_stays() -> None:
    text = "שלום \u200fعالم\u200e 日本語 é 👩\u200d🎨"
    assert printable(text) == text


def test_a_log_record_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter("%(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("skipped %s: %s", NASTY, "x\nError: forged")
    assert stream.getvalue().count("\n") == 1
    assert not STEERING.search(stream.getvalue())
    try:
        raise ValueError(NASTY)
    except ValueError:
        logger.exception("failed")
    assert not STEERING.search(stream.getvalue())


def test_a_tables_cell_is_no_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(cell(NASTY))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/red]" in shown
    assert "\x1b]" not in shown
    assert "\x9b" not in shown


def test_everything_is_printed_through_one_door() -> None:
    folder = Path(pipeline.__file__).parent
    # The others work where rich, which the door needs, may be missing.
    doors = {"printable.py", "installation.py", "doctor.py", "__main__.py"}
    for file in folder.rglob("*.py"):
        if file.name not in doors:
            text = file.read_text(encoding="utf-8")
            assert "click.echo(" not in text, f"{file} prints: use pipeline.printable.echo"
            assert not re.search(r"^\s*print\(", text, re.M), (
                f"{file} prints: use pipeline.printable.echo"
            )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/secret project/val.json", "val.json"),
        ("local-dir:/home/me/secret/clip/", "local-dir:clip"),
        ("transformers:~/secret/llm", "transformers:llm"),
        ("../secret/x.yaml", "x.yaml"),
        ("./x.yaml", "x.yaml"),
        ("~me/secret/x", "x"),
        ("C:\\Users\\me\\x.json", "x.json"),
        ("\\\\server\\share\\x.json", "x.json"),
        ("Salesforce/blip2-opt-6.7b-coco", "Salesforce/blip2-opt-6.7b-coco"),
        ("hf-hub:timm/ViT-B-16-SigLIP", "hf-hub:timm/ViT-B-16-SigLIP"),
        ("transformers:Qwen/Qwen2.5-7B", "transformers:Qwen/Qwen2.5-7B"),
        ("red and/or blue", "red and/or blue"),
        ("A prompt.\n/of lines/", "A prompt.\n/of lines/"),
    ],
)
def test_no_folder_is_named(text: str, shown: str) -> None:
    content = {"a": [text], "b": {"c": text}, "d": 1}
    assert without_folders(content) == {"a": [shown], "b": {"c": shown}, "d": 1}


def test_a_source_is_a_file_wherever_it_lies() -> None:
    content = {"source": ["secret/val.json", "/x/y.json"], "header": {"source": "secret/a.json"}}
    assert without_folders(content) == {
        "source": ["val.json", "y.json"],
        "header": {"source": "a.json"},
    }
