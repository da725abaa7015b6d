"""The index that is made beside the page: first images soon, how far it is, and what went wrong."""

import shutil
from pathlib import Path

import pytest

from pipeline import config
from pipeline.own import folder
from pipeline.own.gallery import Gallery
from pipeline.pages.indexing import Indexing

SETTINGS = config.load("demo", {"runtime.workers": 0, "runtime.embed_batch": 4})


def finished(gallery: Gallery) -> dict[str, object]:
    done: list[bool] = []
    indexing = Indexing(gallery, lambda: done.append(True))
    assert indexing.as_json() is None
    indexing.start()
    assert indexing._thread is not None
    indexing._thread.join(300)
    told = indexing.as_json()
    assert told is not None
    assert not told["running"]
    assert bool(done) == (told["error"] is None)
    return told


def test_images_can_be_searched_round_by_round(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "FIRST_ROUND", 8)
    root = tmp_path / "photos"
    root.mkdir()
    pictures = sorted((small_world / "CIRCO").rglob("*.jpg"))[:30]
    for picture in pictures:
        shutil.copy(picture, root)
    (root / "broken.jpg").write_bytes(b"no image")
    gallery = Gallery(root, SETTINGS, tmp_path / "cache")
    sizes = [len(gallery) for _ in gallery.index_in_rounds(lambda report, count: None)]
    distinct = len({picture.read_bytes() for picture in pictures})
    assert sizes == sorted(sizes)
    assert len(sizes) > 2
    assert sizes[-1] == distinct
    again = Gallery(root, SETTINGS, tmp_path / "cache").index()
    assert again.computed == 0

    told = finished(gallery)
    assert told["done"] == distinct
    assert told["total"] == distinct + 1
    assert told["failed"] == 1


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.doc").write_text("text")
    told = finished(Gallery(tmp_path / "photos", SETTINGS, tmp_path / "cache"))
    assert "no image" in str(told["error"]) or "log says" in str(told["error"])
