"""What files say besides their pixels: read once, kept, and read anew where they changed."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from pipeline import config
from pipeline.own import attributes, metadata
from pipeline.own.folder import Folder, open_folder
from pipeline.own.listing import update_listing
from pipeline.run import StageReport
from pipeline.store.schema import MetadataRecord

SETTINGS = config.load("demo")
LONG_AGO = 1_600_000_000
TAKEN = "2024:05:03 12:30:15"


def exif(taken: str | None = TAKEN, orientation: int = 1) -> bytes:
    made = Image.Exif()
    made[Base.Make], made[Base.Model], made[Base.Orientation] = "NIKON ", "Z 6\0", orientation
    inner = {Base.ISOSpeedRatings: 400, Base.LensModel: "50mm"}
    made[IFD.Exif] = inner | ({Base.DateTimeOriginal: taken} if taken else {})
    return made.tobytes()


def put(folder: Folder, path: str, size: tuple[int, int] = (40, 20), **saved: Any) -> Path:
    file = folder.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(file, **saved)
    os.utime(file, (LONG_AGO, LONG_AGO))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "photos").mkdir()
    return open_folder(tmp_path / "photos", SETTINGS, tmp_path / "cache")


def current(folder: Folder) -> dict[str, MetadataRecord]:
    listing = folder.records()
    return metadata.update(folder, listing, attributes.sidecars(folder, listing)).records()


def read(folder: Folder) -> dict[str, MetadataRecord]:
    update_listing(folder, StageReport("index", folder.name, [], ""))
    return current(folder)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_size_date_and_camera_come_from_the_file(folder: Folder, ending: str) -> None:
    put(folder, f"a.{ending}", exif=exif())
    (record,) = read(folder).values()
    assert (record["width"], record["height"]) == (40, 20)
    assert record["taken"] == "2024-05-03T12:30:15"
    assert (record["make"], record["model"]) == ("NIKON", "Z 6")
    assert (record["lens"], record["iso"]) == ("50mm", 400)
    assert record["broken"] is False


def test_size_is_upright(folder: Folder) -> None:
    put(folder, "a.jpg", exif=exif(orientation=6))
    put(folder, "b.jpg", exif=exif(orientation=3))
    found = read(folder)
    assert [(r["width"], r["height"]) for r in found.values()] == [(20, 40), (40, 20)]


def test_files_without_exif_and_dates_that_are_none_have_the_files_time(folder: Folder) -> None:
    put(folder, "a.jpg")
    put(folder, "b.jpg", exif=exif(taken="0000:00:00 00:00:00"))
    put(folder, "c.jpg", exif=exif(taken="yesterday"))
    for record in read(folder).values():
        assert record["taken"] is None
        assert record["broken"] is False
        assert record["mtime_ns"] == LONG_AGO * 10**9


def test_damaged_exif_is_counted_and_the_size_still_known(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    put(folder, "b.jpg", exif=b"Exif\0\0no exif at all")
    put(folder, "c.jpg", exif=exif())
    found = read(folder)
    assert [record["broken"] for record in found.values()] == [True, True, False]
    assert {record["width"] for record in found.values()} == {40}
    assert "The EXIF of 2 images is damaged" in caplog.text


def test_any_bytes_are_survived(folder: Folder) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "jpeg", exif=exif())
    content = buffer.getvalue()
    for end in range(0, len(content), 7):
        width, height, found = metadata.read_image(io.BytesIO(content[:end]))
        assert (width, height) in ((0, 0), (40, 20))
        assert found is None or found.taken in (None, "2024-05-03T12:30:15")


def test_only_files_that_changed_are_read_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        put(folder, name, exif=exif())
    first = read(folder)
    looked: list[str] = []
    stream = Folder.stream

    def seen(self: Folder, path: str) -> Any:
        looked.append(path)
        return stream(self, path)

    monkeypatch.setattr(Folder, "stream", seen)
    assert current(folder) == first
    assert looked == []
    os.utime(folder.root / "a.jpg", (LONG_AGO + 5, LONG_AGO + 5))
    (folder.root / "b.txt").write_text("beside", encoding="utf-8")
    (folder.root / "c.jpg").unlink()
    update_listing(folder, StageReport("index", folder.name, [], ""))
    looked.clear()
    found = current(folder)
    assert looked == ["a.jpg", "b.jpg", "b.txt"]
    assert found.keys() == {"a.jpg", "b.jpg"}
    assert found["a.jpg"]["mtime_ns"] == (LONG_AGO + 5) * 10**9
    assert found["b.jpg"]["text"] == "beside"
    assert metadata.by_path(metadata.file_of(folder.root, folder.cache)) == found


def test_a_file_that_changed_since_the_listing_has_none(folder: Folder) -> None:
    put(folder, "a.jpg")
    put(folder, "b.jpg")
    update_listing(folder, StageReport("index", folder.name, [], ""))
    put(folder, "a.jpg", size=(400, 200))
    assert current(folder).keys() == {"b.jpg"}
    assert read(folder).keys() == {"a.jpg", "b.jpg"}


def test_what_is_damaged_is_read_again(folder: Folder) -> None:
    put(folder, "a.jpg", exif=exif())
    first = read(folder)
    file = metadata.file_of(folder.root, folder.cache)
    file.write_bytes(file.read_bytes().replace(b"NIKON", b"CANON"))
    assert read(folder) == first
