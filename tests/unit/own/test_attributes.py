"""What people say of their images, in a CSV and beside them."""

import json
import os
from pathlib import Path

import pytest

from pipeline import config
from pipeline.errors import InputError
from pipeline.own import attributes
from pipeline.own.attributes import LARGEST, read
from pipeline.own.folder import Folder, open_folder

SETTINGS = config.load("demo")


def written(root: Path, text: str | bytes, name: str = "attributes.csv") -> Path:
    file = root / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_rows_are_found_by_path_and_columns_without_case(tmp_path: Path) -> None:
    text = "\ufeffPath;Colour;Price\r\n./a.jpg;red;5\r\nsub\\b.jpg; ;7\r\n;blue;1\r\n"
    table = read(written(tmp_path, text), tmp_path)
    assert table.rows == {"a.jpg": {"colour": "red", "price": "5"}, "sub/b.jpg": {"price": "7"}}
    assert table.columns == {"colour": "Colour", "price": "Price"}


def test_paths_may_be_absolute_and_the_last_row_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    table = read(written(tmp_path, f'path,note\na.jpg,old\n"{file}","new, red"\n'), tmp_path)
    assert table.rows == {"a.jpg": {"note": "new, red"}}
    assert table.repeated == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "column path"),
        (b"file,colour\na,b\n", "column path"),
        (b"path,a,A\nx,1,2\n", "column a twice"),
        (b"path,\xff\n", "UTF-8"),
        (b'path,a\n"x\n', "cannot be read as a CSV"),
    ],
)
def test_a_file_that_is_none_such_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(written(tmp_path, text), tmp_path)


def test_the_folders_own_file_is_taken_unless_it_leads_out(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    assert attributes.find(root, None) is None
    outside = written(tmp_path, "path,a\n", "outside.csv")
    assert attributes.find(root, outside) == outside
    with pytest.raises(InputError, match=r"no\.csv does not exist"):
        attributes.find(root, root / "no.csv")
    (root / attributes.FILE).symlink_to(outside)
    with pytest.raises(InputError, match="leads out of the folder"):
        attributes.find(root, None)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    return open_folder(root, SETTINGS, tmp_path / "cache")


def test_texts_and_json_files_beside_an_image_are_its_own(folder: Folder) -> None:
    root = folder.root
    (root / "sub/a.jpg.txt").write_text("a red bicycle\n", encoding="utf-8")
    (root / "sub/a.txt").write_text("bought in May", encoding="utf-8")
    said = {"Price": 12.5, "new": True, "tags": ["city", 3], "none": None, "deep": {"a": 1}}
    (root / "sub/a.json").write_text(json.dumps(said), encoding="utf-8")
    (root / "b.txt").symlink_to(root / "sub/a.txt")
    found = attributes.sidecars(folder, ["sub/a.jpg", "b.jpg", "sub/c.jpg"])
    assert {path: list(files) for path, files in found.items()} == {
        "sub/a.jpg": ["sub/a.jpg.txt", "sub/a.txt", "sub/a.json"]
    }
    text, own, failed = attributes.read_sidecars(folder, found["sub/a.jpg"])
    assert text == "a red bicycle\nbought in May"
    assert own == {"price": "12.5", "new": "yes", "tags": "city, 3"}
    assert failed == 0


def test_sidecars_that_cannot_be_read_are_counted(folder: Folder) -> None:
    root = folder.root
    (root / "a.txt").write_bytes(b"\xff\xfe")
    (root / "a.json").write_text("[1]", encoding="utf-8")
    (root / "a.jpg.json").write_text("[" * 100_000, encoding="utf-8")
    (root / "a.jpg.txt").write_text("x" * (LARGEST + 1), encoding="utf-8")
    files = attributes.sidecars(folder, ["a.jpg"])["a.jpg"]
    assert len(files) == 4
    assert attributes.read_sidecars(folder, files) == ("", {}, 4)
    os.remove(root / "a.jpg.txt")
    (root / "a.jpg.txt").write_text("there", encoding="utf-8")
    text, _, failed = attributes.read_sidecars(
        folder, attributes.sidecars(folder, ["a.jpg"])["a.jpg"]
    )
    assert (text, failed) == ("there", 3)


def test_half_a_surrogate_pair_is_no_text(folder: Folder) -> None:
    (folder.root / "a.json").write_text('{"a\\ud800": "b\\udfff"}', encoding="utf-8")
    files = attributes.sidecars(folder, ["a.jpg"])["a.jpg"]
    assert attributes.read_sidecars(folder, files)[1] == {"a?": "b?"}
