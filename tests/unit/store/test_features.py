"""Feature files come back whole, by slices, or with an error that names what is damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipeline.errors import InputError
from pipeline.store.features import CHECKED, FeatureFile, write_feature_blocks, write_features

HEADER = {"stage": "test", "seed": 0}


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_flipped_bit_anywhere_in_a_feature_file_is_noticed(tmp_path: Path, dtype: type) -> None:
    file, copy = tmp_path / "f.safetensors", tmp_path / "copy.safetensors"
    rows = np.arange(CHECKED * 2 + 4, dtype=dtype).reshape(-1, 2)
    write_features(file, [f"é {number}" for number in range(len(rows))], rows, HEADER)
    content = bytearray(file.read_bytes())
    for place in range(0, len(content) * 8, 5):  # the campaign flips every one
        content[place // 8] ^= 1 << place % 8
        copy.write_bytes(content)
        content[place // 8] ^= 1 << place % 8
        with pytest.raises(InputError, match=r"copy\.safetensors"):
            FeatureFile(copy).all()


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 80),
    portions=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    flip=st.integers(0),
    asked=st.integers(0),
    whole=st.booleans(),
)
def test_a_damaged_row_is_never_read_and_the_others_are(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    portions: list[int],
    flip: int,
    asked: int,
    whole: bool,
) -> None:
    file = tmp_path_factory.getbasetemp() / "rows.safetensors"
    features = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
    cuts = np.cumsum(portions).clip(max=rows)
    names = [str(row) for row in range(rows)]
    write_feature_blocks(file, names, np.split(features, cuts), 5, features.dtype, HEADER)
    np.testing.assert_array_equal(FeatureFile(file).all(), features)
    content = bytearray(file.read_bytes())
    start = content.index(features.tobytes())
    place = flip % (features.nbytes * 8)
    content[start + place // 8] ^= 1 << place % 8
    file.write_bytes(content)
    read, row = FeatureFile(file), asked % rows
    lost = place // (5 * 32) // CHECKED
    assert read.damaged() == [row for row in range(rows) if row // CHECKED == lost]
    ask = (lambda: read.rows(row, row + 1)) if whole else (lambda: read.take(np.array([row])))
    if row // CHECKED == lost:
        with pytest.raises(InputError, match=f"between '{lost * CHECKED}' and"):
            ask()
    else:
        np.testing.assert_array_equal(ask()[0], features[row])


def test_a_feature_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    names = np.frombuffer(json.dumps(["a", "b", "c"]).encode(), np.uint8)
    content = {"header": json.dumps(HEADER)}
    save_file({"features": features, "names": names}, tmp_path / "second.safetensors", content)
    content["names"] = names.tobytes().decode()
    save_file({"features": features}, tmp_path / "first.safetensors", content)
    for name in ("first", "second"):
        read = FeatureFile(tmp_path / f"{name}.safetensors")
        assert read.names == ["a", "b", "c"]
        np.testing.assert_array_equal(read.take(np.array([2, 0])), features[[2, 0]])
        assert read.damaged() == []


def test_a_truncated_feature_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    write_features(file, ["a"], np.zeros((1, 2), dtype=np.float32), HEADER)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"f\.safetensors is damaged"):
        FeatureFile(file)
