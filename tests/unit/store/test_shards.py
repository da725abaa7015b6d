"""Features written by shards come back as one file, whatever wrote them and in whatever order."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from pipeline.processes import Processes
from pipeline.store import shards
from pipeline.store.features import FeatureFile, write_feature_blocks, write_features
from pipeline.store.jsonl import RecordFile
from pipeline.store.shards import Encoded, Shard, Stored, merge


def feature(name: int) -> np.ndarray:
    return np.full((1, 3), name, dtype=np.float32)


def encoded(name: int, copies: dict[str, str] | None = None) -> Encoded:
    return Encoded([str(name)], feature(name), [f"digest {name}"], copies or {})


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    writers=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    order=st.randoms(use_true_random=False),
    size=st.integers(1, 5),
    block=st.integers(1, 7),
)
def test_merging_keeps_every_feature_in_the_order_asked_for(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    writers: list[int],
    order: random.Random,
    size: int,
    block: int,
) -> None:
    monkeypatch.setattr(shards, "BLOCK", block)
    file = tmp_path_factory.mktemp("features") / "f.safetensors"
    folder = shards.folder_of(file)
    half = len(writers) // 2
    wanted = [str(number) for number in range(len(writers))]
    for numbers in (range(half), range(half, len(writers))):  # merged once in between
        for process in range(4):
            with Shard(file, process, {"stage": "test"}, size) as shard:
                for number in numbers:
                    if writers[number] == process:
                        shard.add(encoded(number))
        order.shuffle(wanted)
        merge(file, wanted, {"stage": "test"})
    features = FeatureFile(file)
    assert features.names == wanted
    np.testing.assert_array_equal(features.all()[:, 0], [int(name) for name in wanted])
    assert not folder.exists()


def test_copies_share_a_feature_in_other_shards_and_alone(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    with Shard(file, 1, {}, 1) as shard:
        shard.add(encoded(7))
    digests = Stored(file).digests
    assert digests == {"digest 7": "7"}
    with Shard(file, 0, {}, 1) as shard:
        shard.add(encoded(8, {"a copy": "7"}))
        shard.add(Encoded(copies={"another": "8"}))
    merge(file, ["a copy", "7", "another", "8"], {})
    assert FeatureFile(file).all()[:, 0].tolist() == [7, 7, 8, 8]


def damage(file: Path, text: bytes) -> None:
    """Flip a bit of the first of these bytes in the file."""
    content = bytearray(file.read_bytes())
    content[content.index(text)] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("where", ["rows", "names", "shard"])
def test_what_is_damaged_is_named_and_left_out_and_the_rest_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    file = tmp_path / "f.safetensors"
    rows = np.concatenate([feature(number) for number in range(100)])
    write_features(file, [str(number) for number in range(90)], rows[:90], {})
    with Shard(file, 0, {}, 10) as shard:
        shard.add(Encoded([str(number) for number in range(90, 100)], rows[90:]))
    (part,) = shards.folder_of(file).iterdir()
    bad = part if where == "shard" else file
    damage(bad, b'"17"' if where == "names" else rows[95 if where == "shard" else 33].tobytes())
    stored = Stored(file)
    lost = {"rows": range(32, 48), "names": range(90), "shard": range(90, 100)}[where]
    assert set(stored.places) == {str(number) for number in range(100) if number not in lost}
    assert str(bad) in caplog.text
    merge(file, [str(number) for number in range(100)], {})
    kept = FeatureFile(file)
    assert kept.names == [str(number) for number in range(100) if number not in lost]
    np.testing.assert_array_equal(kept.all()[:, 0], [int(name) for name in kept.names])
    assert not Stored(file).damaged


def test_a_file_of_which_nothing_is_left_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    write_features(file, ["7"], feature(7), {})
    damage(file, feature(7).tobytes()[2:])
    merge(file, ["7"], {})
    assert not file.exists()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_blocks_make_a_file_that_safetensors_reads(tmp_path: Path, dtype: type) -> None:
    file = tmp_path / "f.safetensors"
    whole = np.arange(21, dtype=dtype).reshape(7, 3)
    names = [f"é {number}" for number in range(7)]
    write_feature_blocks(file, names, [whole[:5], whole[5:]], 3, whole.dtype, {"seed": 1})
    np.testing.assert_array_equal(load_file(file)["features"], whole)
    read = FeatureFile(file)
    assert read.names == names
    assert read.header == {"seed": 1}
    np.testing.assert_array_equal(read.rows(4, 6), whole[4:6])


def test_shards_of_records_count_and_are_merged_once(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "r.jsonl", {"seed": 0})
    with records:
        records.append({"n": 0})
    for process, numbers in enumerate(([0, 1], [2, 3])):
        with records.shard(process) as shard:
            for number in numbers:
                shard.append({"n": number})
    with records.shard(1).file.open("ab") as stream:
        stream.write(b'{"n": 4')  # its writer was killed
    with records.shard(1):
        # It is being written: left alone, and read without being merged.
        assert [record["n"] for record in records.read()] == [0, 1, 2, 3]
        with records:
            pass
        assert not records.shard(0).file.exists()
        assert records.shard(1).file.exists()
        assert [record["n"] for record in records.read()] == [0, 1, 2, 3]
    with records:
        records.append({"n": 5})
    assert not records.shard(1).file.exists()
    assert [record["n"] for record in records.read()] == [0, 1, 2, 3, 5]


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_disjoint_even_and_complete(items: int, count: int) -> None:
    shares = [Processes(index, count).share(range(items)) for index in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {0, 1}, {0, 2}, {0, 1, 2}])
def test_a_deleted_shard_loses_its_own_features_and_no_others(
    tmp_path: Path, lost: set[int]
) -> None:
    file = tmp_path / "f.safetensors"
    with Shard(file, 0, {}, 1) as shard:
        for number in range(3):
            shard.add(encoded(number))
    for number in lost:
        (shards.folder_of(file) / f"0000-{number:06d}.safetensors").unlink()
    missing = {0, 1, 2} - {int(name) for name in Stored(file).places}
    assert missing == lost
    with Shard(file, 0, {}, 1) as shard:
        for number in missing:
            shard.add(encoded(number))
    merge(file, ["0", "1", "2"], {})
    assert FeatureFile(file).all()[:, 0].tolist() == [0, 1, 2]
