"""Answers about images of one's own are kept as they come, and read once."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.own.answers import Kept
from pipeline.store.jsonl import RecordFile

HEADER = {"stage": "caption"}


def kept(file: Path, reads: list[Path]) -> Kept[str, list[str]]:
    def load(records: RecordFile) -> dict[str, list[str]]:
        reads.append(records.file)
        return {record["image"]: record["captions"] for record in records.read()}

    return Kept(file, HEADER, load)


def add(answers: Kept[str, list[str]], image: str) -> dict[str, Any]:
    record = {"image": image, "captions": [f"a {image}"]}
    answers.add(image, record["captions"], record)
    return record


def test_what_is_added_is_known_at_once_and_at_the_next_start(tmp_path: Path) -> None:
    file, reads = tmp_path / "captions.jsonl", list[Path]()
    first = kept(file, reads)
    assert first.values == {}
    add(first, "dog")
    add(first, "cat")
    assert first.values == {"dog": ["a dog"], "cat": ["a cat"]}
    assert len(reads) == 1
    assert kept(file, reads).values == first.values


def test_what_another_process_adds_shows_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    first, second = kept(file, []), kept(file, [])
    assert first.values == second.values == {}
    add(second, "dog")
    assert first.values == {}
    add(first, "cat")
    assert kept(file, []).values == {"dog": ["a dog"], "cat": ["a cat"]}


def test_what_is_damaged_is_dropped_to_be_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "captions.jsonl"
    answers = kept(file, [])
    for image in ("dog", "cat", "cow"):
        add(answers, image)
    file.write_text(file.read_text().replace('"a cat"', '"a bat"'))
    again = kept(file, [])
    assert again.values == {"dog": ["a dog"], "cow": ["a cow"]}
    assert "line 3 is damaged" in caplog.text
    add(again, "cat")
    assert kept(file, []).values.keys() == {"dog", "cow", "cat"}
