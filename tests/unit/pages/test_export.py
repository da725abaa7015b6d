"""The ZIP file of originals: its names, its bounds, and what becomes of an image that is gone."""

import io
import zipfile
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import config
from pipeline.errors import InputError
from pipeline.own.gallery import Gallery
from pipeline.pages import export
from pipeline.pages.export import Names, archive, check

PATHS = st.lists(
    st.text(st.sampled_from("aA.\\/ :(2)\x1b\u202e\ud800ä"), min_size=1, max_size=12), max_size=20
)


@given(PATHS)
def test_names_are_below_the_folder_and_no_two_alike(paths: list[str]) -> None:
    names = Names()
    made = [names.unique(path) for path in paths]
    assert len({name.casefold() for name in made}) == len(paths)
    for name in made:
        assert not {"", ".", ".."} & set(name.split("/"))
        assert not PureWindowsPath(name).drive
        assert "\\" not in name
        name.encode()


def test_plain_names_stay_and_equal_ones_are_counted() -> None:
    names = Names()
    given = ("2024/beach.jpg", "2024/Beach.jpg", "x\\y.png", "x_y.png")
    made = ["2024/beach.jpg", "2024/Beach (2).jpg", "x_y.png", "x_y (2).png"]
    assert [names.unique(path) for path in given] == made


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / "sub" / f"{number}.png")
    made = Gallery(root, config.load("demo", {"runtime.workers": 0}), tmp_path / "cache")
    made.index()
    return made


def test_the_files_come_one_by_one_as_they_are(gallery: Gallery) -> None:
    images = list(gallery.paths)
    parts = list(archive(gallery, images))
    assert len(parts) == 4
    assert all(parts)
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as made:
        assert made.testzip() is None
        assert made.namelist() == ["sub/0.png", "sub/1.png", "sub/2.png"]
        for name in made.namelist():
            assert made.read(name) == (gallery.folder.root / name).read_bytes()
    assert list(archive(gallery, images)) == parts


def test_what_is_gone_or_too_large_is_refused_before_anything_is_sent(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = list(gallery.paths)
    check(gallery, images)
    total = sum((gallery.folder.root / "sub" / f"{i}.png").stat().st_size for i in range(3))
    monkeypatch.setattr(export, "MOST_BYTES", total)
    check(gallery, images)
    monkeypatch.setattr(export, "MOST_BYTES", total - 1)
    with pytest.raises(InputError, match="select fewer"):
        check(gallery, images)
    (gallery.folder.root / "sub" / "1.png").unlink()
    with pytest.raises(InputError, match="no such image"):
        check(gallery, images)
    parts = archive(gallery, images)
    assert next(parts)
    with pytest.raises(InputError, match="gone or was changed"):
        next(parts)
