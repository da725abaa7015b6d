"""The store keeps what was computed, whatever happens to the process or the file."""

import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import cache
from pipeline.cache import FeatureFile, RecordFile, atomic, fingerprint, write_features
from pipeline.errors import InputError, ModelError, StorageError

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


def test_fingerprint_depends_on_content_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("old")

    def write_half() -> None:
        with atomic(file) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="What was computed before is kept"):
        fill(blocked / "r.jsonl", 1)


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    fill(file, 3)
    before = RecordFile(file, HEADER).read()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(StorageError, match="Cannot write"):
            fill(file, 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert RecordFile(file, HEADER).read() == before
    fill(file, 50)
    assert len(RecordFile(file, HEADER).read()) == 50


def test_features_come_back_by_slices_with_names_and_header(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    write_features(file, ["a", "b", "ç", "d"], features, HEADER)
    loaded = FeatureFile(file)
    assert loaded.names == ["a", "b", "ç", "d"]
    assert loaded.shape == (4, 3)
    assert loaded.header == HEADER
    np.testing.assert_array_equal(loaded.rows(1, 3), features[1:3])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_names_its_item(tmp_path: Path, bad: float) -> None:
    features = np.zeros((3, 2), dtype=np.float32)
    features[1, 0] = bad
    write_features(tmp_path / "f.safetensors", ["a", "b", "c"], features, HEADER)
    with pytest.raises(InputError, match="'b' is NaN or infinite"):
        FeatureFile(tmp_path / "f.safetensors").all()


def test_a_truncated_feature_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    write_features(file, ["a"], np.zeros((1, 2), dtype=np.float32), HEADER)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"f\.safetensors is damaged"):
        FeatureFile(file)


def test_a_folder_of_everything_is_no_model(tmp_path: Path) -> None:
    for number in range(cache.MOST_FILES + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(ModelError, match=f"{tmp_path} holds more than 1,000 files"):
        cache.model_identity(str(tmp_path))
    (tmp_path / "0").unlink()
    assert "@" in cache.model_identity(str(tmp_path))
