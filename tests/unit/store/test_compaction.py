"""Features that grow and shrink are published in few files, and what is written stays in bounds."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import files
from pipeline.store.compaction import FANOUT, SHARE, full_tiers, publish, tier
from pipeline.store.features import FeatureFile
from pipeline.store.segments import SegmentedFeatures, folder_of, manifest_of
from pipeline.store.shards import Encoded, Shard, Stored

WIDTH = 4


def feature(name: int) -> np.ndarray:
    return np.full((1, WIDTH), name, np.float32)


def grow(file: Path, wanted: list[int], shard: int = 1) -> int:
    """Do what indexing does; return how many features were computed."""
    stored = Stored(file)
    todo = [number for number in wanted if str(number) not in stored.places]
    with Shard(file, 0, {}, shard) as shards:
        for number in todo:
            shards.add(Encoded([str(number)], feature(number)))
    stored.refresh()
    publish(file, [str(number) for number in wanted], {}, stored)
    return len(todo)


def found(file: Path, wanted: list[int]) -> bool:
    read = SegmentedFeatures(file)
    rows = np.array([read.row[str(number)] for number in wanted])
    return bool((read.take(rows) == np.array(wanted, np.float32)[:, None]).all())


def test_one_that_comes_is_a_segment_and_the_large_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    grow(file, list(range(100)))
    assert not folder_of(file).exists()
    before = file.stat()
    assert grow(file, list(range(101))) == 1
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert found(file, list(range(101)))
    manifest = manifest_of(file).stat()
    assert grow(file, list(range(101))) == 0
    again = manifest_of(file).stat()
    assert (again.st_ino, again.st_mtime_ns) == (manifest.st_ino, manifest.st_mtime_ns)


def test_few_segments_and_few_bytes_however_many_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, written = tmp_path / "f.safetensors", [0]
    to_disk = files._to_disk

    def counted(path: Path) -> None:
        written[0] += path.stat().st_size if path.is_file() else 0
        to_disk(path)

    wanted = list(range(400))
    grow(file, wanted, 100)
    monkeypatch.setattr(files, "_to_disk", counted)
    large = file.stat().st_size
    for number in range(400, 499):
        wanted.append(number)
        grow(file, wanted)
        assert len(list(folder_of(file).glob("*.safetensors"))) < 3 * FANOUT
    assert file.stat().st_size == large, "not written anew before a quarter came"
    assert written[0] < 99 * 5_000, "each costs a few small files"
    grow(file, [*wanted, *range(1000, 1100)])
    assert not folder_of(file).exists()
    assert FeatureFile(file).shape[0] == 599


def test_what_is_not_wanted_is_dropped_when_it_is_much_and_is_free_to_come_back(
    tmp_path: Path,
) -> None:
    file = tmp_path / "f.safetensors"
    grow(file, list(range(100)))
    size = file.stat().st_size
    grow(file, list(range(90)))
    assert file.stat().st_size == size
    assert grow(file, list(range(95))) == 0
    grow(file, list(range(70)))
    assert FeatureFile(file).names == [str(number) for number in range(70)]


@pytest.mark.parametrize("what", ["a row", "the file", "gone"])
def test_a_damaged_segment_is_named_and_its_own_are_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    file = tmp_path / "f.safetensors"
    grow(file, list(range(300)))
    grow(file, list(range(340)), 40)
    before = file.stat()
    (segment,) = folder_of(file).glob("*.safetensors")
    content = segment.read_bytes()
    place = content.index(feature(320).tobytes())
    if what == "gone":
        segment.unlink()
    elif what == "the file":
        segment.write_bytes(content[:-1])
    else:
        segment.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    assert grow(file, list(range(340))) == (16 if what == "a row" else 40)
    assert str(segment) in caplog.text
    assert found(file, list(range(340)))
    caplog.clear()
    assert grow(file, list(range(340))) == 0
    assert caplog.text == ""
    assert file.stat().st_mtime_ns == before.st_mtime_ns


class Stopped(BaseException):
    """As a kill: nothing after it runs."""


@pytest.mark.parametrize("seed", range(6))
def test_stopped_at_any_change_of_the_disk_nothing_is_lost_or_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Every rename and deletion of a random history is a moment at which it ends."""
    rng = random.Random(seed)
    file = tmp_path / "f.safetensors"
    rename, unlink = Path.replace, Path.unlink
    left = [0]

    def stopping(change: object, when: str) -> object:
        def run(path: Path, *arguments: object, **named: object) -> object:
            left[0] -= 1
            if left[0] == 0 and when == "before":
                raise Stopped
            made = change(path, *arguments, **named)  # type: ignore[operator]
            if left[0] == 0:
                raise Stopped
            return made

        return run

    wanted = list(range(40))
    grow(file, wanted, 16)
    latest, stops = 40, 0
    for _ in range(40):
        if rng.random() < 0.3:
            wanted = sorted(rng.sample(wanted, len(wanted) - rng.randint(1, 3)))
        fresh = rng.choice([1, 1, 1, 2, 9])
        wanted = [*wanted, *range(latest, latest + fresh)]
        latest += fresh
        when, left[0] = rng.choice(["before", "after"]), rng.randint(1, 12)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stopping(rename, when))
            patched.setattr(Path, "unlink", stopping(unlink, when))
            try:
                grow(file, wanted)
            except Stopped:
                stops += 1
        known = set(Stored(file).places)
        read = SegmentedFeatures(file)  # whoever reads meanwhile
        np.testing.assert_array_equal(read.all()[:, 0], [int(name) for name in read.names])
        assert grow(file, wanted) == len({str(number) for number in wanted} - known)
        assert found(file, wanted)
    assert stops > 10


@given(st.lists(st.integers(1, 5_000), max_size=200))
def test_no_tier_stays_full(sizes: list[int]) -> None:
    chosen = full_tiers(sizes)
    left = [size for place, size in enumerate(sizes) if place not in set(chosen)]
    if chosen:
        left.append(sum(sizes[place] for place in chosen))
    tiers = [tier(size) for size in left]
    assert all(tiers.count(level) < FANOUT for level in tiers)
    assert len(set(chosen)) == len(chosen) != 1


def test_tiers_are_powers() -> None:
    assert [tier(size) for size in (1, 7, 8, 63, 64, 512, 4096)] == [0, 0, 1, 1, 2, 3, 4]
    assert 0 < SHARE < 1
