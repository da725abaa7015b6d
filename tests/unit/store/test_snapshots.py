"""A snapshot stands for the beginning of a record file, as long as that is the same."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.store import snapshots
from pipeline.store.jsonl import RecordFile, write_records
from pipeline.store.schema import FileRecord, typed


def record(number: int, **more: Any) -> dict[str, Any]:
    return {"path": f"é{number}.jpg", "size": number, "mtime_ns": 4, "hash": "0" * 64} | more


RECORDS = [
    record(0),
    record(1, broken="", decoder="x"),
    record(2, ctime_ns=1, inode=2),
    record(3, removed=True),
]


@pytest.fixture
def source(tmp_path: Path) -> RecordFile:
    """Four records, of which there is a snapshot, and a fifth."""
    file = tmp_path / "files.jsonl"
    write_records(file, {"stage": "x"}, RECORDS)
    source = RecordFile(file, {"stage": "x"})
    snapshots.keep(source, RECORDS)
    with source:
        source.append(record(4))
    return source


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.lists(st.sampled_from(RECORDS)),
    later=st.lists(st.sampled_from(RECORDS), max_size=3),
)
def test_records_come_back_whatever_fields_they_have(
    tmp_path_factory: pytest.TempPathFactory,
    chosen: list[dict[str, Any]],
    later: list[dict[str, Any]],
) -> None:
    file = tmp_path_factory.mktemp("records") / "files.jsonl"
    source = RecordFile(file, {"stage": "x"})
    write_records(file, source.header, chosen)
    size = file.stat().st_size
    snapshots.keep(source, chosen)
    with source:
        for one in later:
            source.append(one)
    read = snapshots.read(source, FileRecord)
    assert read.records == [*chosen, *later] == typed(source, FileRecord)
    assert read.quickly == size


def test_the_lines_that_a_snapshot_stands_for_are_not_read(
    source: RecordFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordFile, "read", None)
    assert snapshots.read(source, FileRecord).records == [*RECORDS, record(4)]


@pytest.mark.parametrize("what", ["snapshot", "gone", "older", "no columns", "torn"])
def test_without_a_snapshot_that_fits_all_lines_are_read(source: RecordFile, what: str) -> None:
    place = snapshots.file_of(source.file)
    if what == "snapshot":
        place.write_bytes(place.read_bytes().replace(b'"size"', b'"sise"'))
    elif what == "gone":
        place.unlink()
    elif what == "older":
        write_records(source.file, {"stage": "x", "again": True}, [*RECORDS, record(4)])
    elif what == "no columns":
        place.write_text(f"{snapshots._checksum(b'{}')}\n{{}}")
    else:
        with source.file.open("ab") as stream:
            stream.write(b'{"path"')
    read = snapshots.read(source, FileRecord)
    assert read.records == [*RECORDS, record(4)]
    assert (read.quickly > 0) == (what == "torn")


@pytest.mark.parametrize("line", [2, 5])
def test_a_damaged_line_is_told_by_its_number_and_dropped_by_who_appends(
    source: RecordFile, line: int, caplog: pytest.LogCaptureFixture
) -> None:
    lines = source.file.read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b"size", b"sise")
    source.file.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=f"line {line + 1} is damaged"):
        snapshots.read(source, FileRecord)
    with source:
        kept = snapshots.read(source, FileRecord).records
    assert f"line {line + 1} is damaged" in caplog.text
    assert kept == [one for place, one in enumerate([*RECORDS, record(4)], 1) if place != line]


def test_a_snapshot_is_worth_it_once_much_was_appended(
    source: RecordFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = source.file.stat().st_size
    assert not snapshots.is_worth_it(source, 0)
    monkeypatch.setattr(snapshots, "WORTH", 0)
    assert snapshots.is_worth_it(source, 0)
    assert not snapshots.is_worth_it(source, size - 10)
    source.file.unlink()
    assert not snapshots.is_worth_it(source, 0)


def test_what_shards_hold_counts(source: RecordFile) -> None:
    with source.shard(1) as shard:
        shard.append(record(9))
    assert snapshots.read(source, FileRecord).records[-1] == record(9)
