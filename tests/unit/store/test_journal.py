"""A journal says what a dictionary would, whoever reads it and whenever it was written anew."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.store import snapshots
from pipeline.store.journal import STALE, Journal
from pipeline.store.jsonl import RecordFile
from pipeline.store.schema import FileRecord


def record(path: str, size: int) -> Any:
    return {"path": path, "size": size, "mtime_ns": 4, "hash": "0" * 64}


def opened(folder: Path) -> Journal[FileRecord]:
    return Journal(RecordFile(folder / "files.jsonl", {"stage": "x"}), FileRecord)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-3, 9)), max_size=9)))
def test_it_says_what_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    expected: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "WORTH", 0)
        for changes in rounds:
            with opened(folder) as journal:
                for path, size in changes:
                    if size >= 0:
                        journal.put(record(path, size))
                        expected[path] = record(path, size)
                    elif path in journal.current:
                        journal.drop(path)
                        del expected[path]
                assert journal.current == expected
            assert opened(folder).read() == expected
            lines = len(RecordFile(folder / "files.jsonl", {}).read())
            assert lines <= (1 + STALE) * len(expected)


def test_what_an_error_interrupts_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyError), opened(tmp_path) as journal:
        journal.put(record("a", 1)) or journal.drop("b")
    assert opened(tmp_path).read() == {"a": record("a", 1)}
    with opened(tmp_path) as journal:  # its lock is free
        journal.drop("a")
    assert opened(tmp_path).read() == {}


def test_what_another_wrote_between_reading_and_changing_is_read(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        first.put(record("a", 1))
    mine = opened(tmp_path)
    assert mine.read() == {"a": record("a", 1)}
    with opened(tmp_path) as other:
        other.put(record("b", 2))
        other.drop("a")
    with mine:
        assert mine.current == {"b": record("b", 2)}
        mine.put(record("c", 3))
    assert opened(tmp_path).read() == {"b": record("b", 2), "c": record("c", 3)}


def test_what_was_damaged_when_it_was_read_is_dropped_by_who_changes_it(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        first.put(record("a", 1))
        first.put(record("b", 2))
    file = tmp_path / "files.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"size": 1', b'"size": 7'))
    journal = opened(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        journal.read()
    with journal:
        assert journal.current == {"b": record("b", 2)}
    assert opened(tmp_path).read() == {"b": record("b", 2)}
