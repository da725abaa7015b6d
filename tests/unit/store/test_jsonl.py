"""Record files keep what was computed, whatever happens to the process or the file."""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, StorageError
from pipeline.store.files import lock
from pipeline.store.jsonl import RecordFile, read_header

HEADER = {"stage": "test", "seed": 0}


def fill(file: Path, count: int) -> None:
    with RecordFile(file, HEADER) as records:
        done = {record["n"] for record in records.read()}
        for number in range(count):
            if number not in done:
                records.append({"n": number, "text": f"línea {number}"})


def test_records_cut_at_any_byte_resume_to_the_same_content(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    fill(whole, 3)
    content = whole.read_bytes()
    lines = content.count(b"\n")
    for cut in range(len(content)):
        file = tmp_path / f"{cut}.jsonl"
        file.write_bytes(content[:cut])
        kept = content[:cut].count(b"\n")
        assert len(RecordFile(file, HEADER).read()) == max(kept - 1, 0)
        fill(file, 3)
        assert RecordFile(file, HEADER).read() == RecordFile(whole, HEADER).read()
        assert len(file.read_bytes().splitlines()) == lines


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    fill(file, 2)
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:-3]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"r\.jsonl, line 2 is damaged"):
        RecordFile(file, HEADER).read()


def slow_fill(file: Path) -> None:
    with RecordFile(file, HEADER) as records:
        for number in range(10_000):
            records.append({"n": number})
            time.sleep(0.002)


def test_kill_loses_at_most_the_item_in_flight_and_frees_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    process = multiprocessing.get_context("fork").Process(target=slow_fill, args=(file,))
    process.start()
    while not file.exists() or len(RecordFile(file, HEADER).read()) < 20:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    numbers = [record["n"] for record in RecordFile(file, HEADER).read()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 20
    fill(file, len(numbers) + 5)
    assert [r["n"] for r in RecordFile(file, HEADER).read()] == list(range(len(numbers) + 5))


def test_two_processes_do_not_double_or_tear_records(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(file, 300)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [record["n"] for record in RecordFile(file, HEADER).read()] == list(range(300))


def test_header_tells_what_made_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    fill(file, 1)
    header = json.loads(file.read_text().splitlines()[0])["header"]
    assert header["stage"] == "test"
    assert header["seed"] == 0
    assert "torch" in header["versions"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="What was computed before is kept; choose another"):
        fill(blocked / "r.jsonl", 1)


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    fill(file, 3)
    before = RecordFile(file, HEADER).read()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"Cannot write .*; make room or choose another"):
            fill(file, 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert RecordFile(file, HEADER).read() == before
    fill(file, 50)
    assert len(RecordFile(file, HEADER).read()) == 50


TEXTS = ("línea", 'a "quoted" text, "checksum": "0123456789abcdef"}', "", "\n\t€")


@pytest.fixture
def flips(tmp_path: Path) -> tuple[Path, list[dict[str, object]], Callable[[int], bool]]:
    """A record file, what it held, and a function that flips one bit of it as it was written.

    The function returns whether the last line has lost its end, as where its writer was killed.
    """
    file = tmp_path / "flipped.jsonl"
    wanted: list[dict[str, object]] = [{"n": n, "text": text} for n, text in enumerate(TEXTS)]
    with RecordFile(file, HEADER) as records:
        for record in wanted:
            records.append(record)
    content = file.read_bytes()

    def flip(place: int) -> bool:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        return place // 8 == len(content) - 1

    return file, wanted, flip


def test_a_flipped_bit_anywhere_in_a_record_file_is_noticed_or_harmless(flips: Any) -> None:
    file, wanted, flip = flips
    for place in range(0, file.stat().st_size * 8, 3):
        torn = flip(place)
        try:
            found = plain(RecordFile(file, HEADER).read())
        except InputError as error:
            found, message = None, str(error)
        assert found == wanted[: -1 if torn else None] or "flipped.jsonl, line" in message


def test_a_flipped_bit_costs_the_records_it_is_in_and_no_other(
    flips: Any, caplog: pytest.LogCaptureFixture
) -> None:
    file, wanted, flip = flips
    for place in range(0, file.stat().st_size * 8, 29):
        torn = flip(place)
        caplog.clear()
        with RecordFile(file, HEADER) as records:
            kept = plain(records.read())
            dropped = [record for record in wanted if record not in kept]
            assert [record for record in wanted if record in kept] == kept
            assert len(dropped) <= 2  # two where the end of the line between them was flipped
            assert not dropped or torn or "flipped.jsonl, line" in caplog.text
            for record in dropped:
                records.append(record)
        assert sorted(plain(RecordFile(file, HEADER).read()), key=itemgetter("n")) == wanted
        assert read_header(file)["stage"] == "test"


def plain(records: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the records without a field whose name is a damaged "checksum"."""
    return [{name: record[name] for name in ("n", "text")} for record in records]


def test_lines_of_an_earlier_version_and_lines_edited_by_hand_are_read(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"header": HEADER}) + '\n{"n": 0, "text": "old"}\n')
    with RecordFile(file, HEADER) as records:
        records.append({"n": 1, "text": "new"})
    assert [record["text"] for record in RecordFile(file, HEADER).read()] == ["old", "new"]
    edited = file.read_text().replace('"text": "new"', '"text": "by hand"')
    file.write_text(edited)
    with pytest.raises(InputError, match="line 3 is damaged"):
        RecordFile(file, HEADER).read()
    head, old, new = edited.splitlines()
    new = json.dumps({k: v for k, v in json.loads(new).items() if k != "checksum"})
    file.write_text("\n".join([head, old, new, ""]))
    assert [record["text"] for record in RecordFile(file, HEADER).read()] == ["old", "by hand"]


def test_a_damaged_line_of_a_shard_is_dropped_by_whoever_merges(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = RecordFile(tmp_path / "r.jsonl", HEADER)
    with records.shard(1) as shard:
        for number in range(3):
            shard.append({"n": number})
    file = records.shard(1).file
    file.write_bytes(file.read_bytes().replace(b'{"n": 1', b'{"n": 7'))
    with records:
        assert [record["n"] for record in records.read()] == [0, 2]
    assert "shard-1, line 3 is damaged" in caplog.text
    assert not file.exists()


@pytest.fixture
def other_user() -> Iterator[Path]:
    """A folder, as one who is neither root nor the owner of what was put there before."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        fill(folder / "r.jsonl", 3)
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 0)
            stack.callback(os.setresuid, 0, 0, 0)
        yield folder


def test_a_lock_that_cannot_be_opened_is_an_error_where_the_file_can_be_written(
    other_user: Path,
) -> None:
    file = other_user / "r.jsonl"
    with as_owner():
        (other_user / ".r.jsonl.lock").chmod(0o444)
        file.chmod(0o666)
    for exists in (True, False):  # the file itself, or the folder in which it may be made
        with pytest.raises(StorageError, match=r"Cannot lock .*r\.jsonl: Permission denied"):
            fill(file, 5)
        if exists:
            file.unlink()


def test_what_may_only_be_read_is_read_without_a_lock(other_user: Path) -> None:
    file = other_user / "r.jsonl"
    with as_owner():
        (other_user / ".r.jsonl.lock").unlink()
        file.chmod(0o444)
        other_user.chmod(0o555)
    with lock(file) as held:
        assert not held
    fill(file, 3)  # all is there
    with pytest.raises(StorageError, match="Cannot write"):
        fill(file, 4)
    with as_owner():
        other_user.chmod(0o777)


@contextlib.contextmanager
def as_owner() -> Iterator[None]:
    """Be root again, where that is what the tests run as."""
    real, effective, saved = os.getresuid()
    if saved == 0:
        os.setresuid(0, 0, 0)
    try:
        yield
    finally:
        os.setresuid(real, effective, saved)
