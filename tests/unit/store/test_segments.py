"""A large file and its segments are read as one, as they were published last."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.store import segments
from pipeline.store.features import FeatureFile, write_features
from pipeline.store.segments import (
    SegmentedFeatures,
    folder_of,
    manifest_of,
    read_manifest,
    write_manifest,
)


def rows(first: int, last: int) -> np.ndarray:
    return np.repeat(np.arange(first, last, dtype=np.float32)[:, None], 3, axis=1)


def names(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Rows 0 to 40 in the large file, up to 43 and 60 in two segments; a shard that is none yet."""
    file = tmp_path / "f.safetensors"
    write_features(file, names(0, 40), rows(0, 40), {"seed": 1})
    for number, (first, last) in enumerate([(40, 43), (43, 60), (60, 64)]):
        place = folder_of(file) / f"0000-{number:06}.safetensors"
        write_features(place, names(first, last), rows(first, last), {})
    publish(file, 2)
    return file


def publish(file: Path, count: int) -> None:
    parts = sorted(folder_of(file).glob("*.safetensors"))[:count]
    listed = {part.name: FeatureFile(part).identity for part in parts}
    write_manifest(file, FeatureFile(file).identity, listed)


def test_what_is_published_is_one(file: Path) -> None:
    read = SegmentedFeatures(file)
    assert read.names == names(0, 60)
    assert (read.shape, read.header) == ((60, 3), {"seed": 1})
    np.testing.assert_array_equal(read.all(), rows(0, 60))
    asked = np.array([59, 0, 41, 41, 39, 43])
    np.testing.assert_array_equal(read.take(asked)[:, 0], asked)
    assert read.take(np.array([], np.int64)).shape == (0, 3)
    assert read.row["42"] == 42


def test_a_file_alone_is_read_as_it_is(file: Path) -> None:
    manifest_of(file).unlink()
    read = SegmentedFeatures(file)
    assert read.names == names(0, 40)
    np.testing.assert_array_equal(read.all(), rows(0, 40))


def test_a_manifest_of_another_large_file_does_not_count(file: Path) -> None:
    write_features(file, names(0, 64), rows(0, 64), {"seed": 1})
    assert SegmentedFeatures(file).names == names(0, 64)


@pytest.mark.parametrize("what", ["manifest", "segment", "gone", "another", "row"])
def test_what_is_damaged_or_missing_is_named(file: Path, what: str) -> None:
    _, second, third = sorted(folder_of(file).glob("*.safetensors"))
    if what == "manifest":
        manifest_of(file).write_text(manifest_of(file).read_text().replace("a", "b", 1))
    elif what == "segment":
        second.write_bytes(second.read_bytes()[:-3])
    elif what == "gone":
        second.unlink()
    elif what == "another":
        third.replace(second)
    else:
        content = bytearray(second.read_bytes())
        content[content.index(rows(50, 51).tobytes())] ^= 1
        second.write_bytes(content)
    named = manifest_of(file) if what == "manifest" else second
    with pytest.raises(InputError, match=rf"{named.name} .*(damaged|missing|not what was)"):
        SegmentedFeatures(file).all()


def test_what_is_replaced_while_it_is_opened_is_opened_anew(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments are merged and deleted after the manifest was read."""
    read = segments.read_manifest
    whole = rows(0, 60)

    def overtaken(place: Path) -> segments.Manifest | None:
        found = read(place)
        if manifest_of(file).exists():
            write_features(file, names(0, 60), whole, {})
            manifest_of(file).unlink()
            for part in folder_of(file).glob("*.safetensors"):
                part.unlink()
        return found

    monkeypatch.setattr(segments, "read_manifest", overtaken)
    np.testing.assert_array_equal(SegmentedFeatures(file).all(), whole)


def test_the_stamp_changes_with_what_is_published(file: Path) -> None:
    before = segments.stamp(file)
    assert segments.stamp(file) == before
    publish(file, 3)
    assert segments.stamp(file) != before
    assert SegmentedFeatures(file).names == names(0, 64)
    assert read_manifest(file) is not None
