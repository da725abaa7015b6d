"""A folder is searched among the images that meet conditions, as if it held no others."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from PIL.ExifTags import IFD, Base

from pipeline import config
from pipeline.cli import main
from pipeline.errors import ConditionError, ConfigError, InputError
from pipeline.own.checks import lacking
from pipeline.own.gallery import Gallery
from pipeline.retrieval import methods
from tests.app_server import Served

SETTINGS = config.load("demo", {"runtime.workers": 0, "own.group_at": None})
EVERY = [name for name in methods.selection("all", lacking(SETTINGS)) if not methods.by_model(name)]
TEXT = "has a dark background"
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def root(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures in two folders, with dates, a table of attributes and texts beside some."""
    root = tmp_path_factory.mktemp("filters") / "photos"
    rows = []
    for number, picture in enumerate(sorted((small_world / "CIRCO").rglob("*.jpg"))[:30]):
        path = f"{'summer' if number % 2 else 'winter'}/{number:02}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[Base.Make] = "NIKON" if number < 10 else "Canon"
        exif[IFD.Exif] = {Base.DateTimeOriginal: f"2024:{number % 12 + 1:02}:03 10:00:00"}
        with Image.open(picture) as image:
            image.save(root / path, exif=exif.tobytes(), quality=95)
        os.utime(root / path, (1_600_000_000, 1_600_000_000))
        rows.append((path, COLOURS[number % 3], number))
    with (root / "attributes.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "colour", "price"), *rows[:-1], ("gone", "red", 1)])
    (root / "summer/01.txt").write_text("a lighthouse", encoding="utf-8")
    (root / "summer/03.json").write_text('{"season": "late"}', encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def gallery(root: Path) -> Gallery:
    made = Gallery(root, SETTINGS, root.parent / "cache")
    made.index()
    return made


def reference(root: Path) -> Path:
    return root / "winter/00.jpg"


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("where", [["price>=4", "folder=summer"], ["taken<2024-07"]])
def test_a_filtered_ranking_is_the_ranking_of_a_folder_of_those_images(
    gallery: Gallery, root: Path, tmp_path: Path, method: str, where: list[str]
) -> None:
    found = gallery.with_search(method=method, top_k=8).query(reference(root), TEXT, where=where)
    matching = gallery.where(*where).matching
    assert matching is not None
    inside = [path for paths in matching.paths.values() for path in paths]
    assert 8 < len(inside) < 30
    for path in inside:
        (tmp_path / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, tmp_path / "own" / path)
    alone = Gallery(tmp_path / "own", SETTINGS, root.parent / "cache")
    alone.index()
    expected = alone.with_search(method=method, top_k=8).query(reference(root), TEXT)
    assert found.paths == expected.paths
    assert [one.score for one in found.images] == pytest.approx(
        [one.score for one in expected.images], abs=1e-5
    )


def test_the_best_of_those_that_match_are_found_not_those_among_the_best(
    gallery: Gallery, root: Path
) -> None:
    whole = gallery.with_search(top_k=30).query(reference(root), TEXT)
    last = whole.paths[-3:]
    for path in last:
        found = gallery.with_search(top_k=1).query(reference(root), TEXT, where=f"folder={path}")
        assert found.paths == [path]
        assert found.candidates == {"where": [f"folder={path}"], "matching": 1, "total": 30}


def test_a_filter_stays_in_rerankings_and_turns(gallery: Gallery, root: Path) -> None:
    found = gallery.where("colour=red").query(reference(root), TEXT)
    assert 0 < len(found.images) < 10
    assert any("gone" not in note and "name no image: 1" in note for note in found.notes)
    again = found.rerank(method="image+text")
    turned = found.turn("is green", "caption")
    for other in (again, turned):
        assert set(other.paths) <= set(found.paths) | {"winter/00.jpg"}
        assert other.candidates == found.candidates


def test_where_nothing_matches_no_model_is_asked(gallery: Gallery, tmp_path: Path) -> None:
    picture = tmp_path / "new.png"
    Image.new("RGB", (64, 64), "purple").save(picture)
    kept = sorted((gallery.folder.cache / "queries").rglob("*"))
    found = gallery.query(picture, "is purple", where=["colour=violet"])
    assert found.images == ()
    assert found.matching is not None
    assert found.matching.told == "0 of 30 images match colour=violet"
    assert sorted((gallery.folder.cache / "queries").rglob("*")) == kept


def test_conditions_that_cannot_be_met_are_refused(gallery: Gallery, root: Path) -> None:
    with pytest.raises(ConditionError, match="no field 'collour'"):
        gallery.query(reference(root), TEXT, where="collour=red")
    with pytest.raises(InputError, match="is no condition"):
        gallery.where("red")


def test_fields_have_the_values_of_the_folder(gallery: Gallery) -> None:
    fields = {one["name"]: one for one in gallery.fields()}
    assert set(fields["colour"]["values"]) == set(COLOURS)
    assert (fields["price"]["least"], fields["price"]["most"]) == (0, 28)
    assert fields["make"]["values"] == ["Canon", "NIKON"]
    assert fields["season"]["images"] == 1


def test_folders_that_were_indexed_before_get_theirs_without_embedding(
    gallery: Gallery, root: Path
) -> None:
    file = gallery.folder.cache / gallery.folder.name / "metadata.jsonl"
    file.unlink()
    features = gallery.folder.feature_file.stat().st_mtime_ns
    fresh = Gallery(root, SETTINGS, root.parent / "cache")
    assert len(fresh.query(None, "red stars", where=["make=nikon"]).images) == 10
    assert file.exists()
    file.unlink()
    assert fresh.index().computed == 0
    assert file.exists()
    assert gallery.folder.feature_file.stat().st_mtime_ns == features


def test_a_table_that_changed_is_read_again(gallery: Gallery, root: Path) -> None:
    table = root.parent / "other.csv"
    table.write_text("path,shelf\nwinter/00.jpg,3\n", encoding="utf-8")
    own = Gallery(root, SETTINGS, root.parent / "cache", attributes=table)
    assert own.query(None, "red stars", where="shelf=3").paths == ["winter/00.jpg"]
    table.write_text("path,shelf\nwinter/02.jpg,3\nwinter/04.jpg,3\n", encoding="utf-8")
    assert sorted(own.query(None, "red stars", where="shelf=3").paths) == [
        "winter/02.jpg",
        "winter/04.jpg",
    ]


def seize(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments])


def test_the_command_line_filters_one_query_and_a_file_of_them(
    gallery: Gallery, root: Path, tmp_path: Path
) -> None:
    given = ("--gallery", root, "--cache", gallery.folder.cache, "--config", "demo")
    where = ("--where", "colour=red", "--where", "price<15")
    done = seize("query", reference(root), TEXT, *given, *where)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("5 of 30 images match colour=red and price<15\n4 of 5 images by")
    assert "attributes.csv: rows that name no image: 1; files without a row: 1 of 30" in done.stderr
    told = json.loads(seize("query", reference(root), TEXT, *given, *where, "--json").stdout)
    assert (told["matching"], told["total"]) == (5, 30)
    assert told["where"] == ["colour=red", "price<15"]
    none = seize("query", reference(root), TEXT, *given, "--where", "price<0")
    assert none.exit_code == 0
    assert none.stdout.startswith("0 of 30 images match price<0\n0 of 0 images")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"image,text\n{reference(root)},{TEXT}\n,red stars\n", encoding="utf-8")
    many = seize("query", "--batch", pairs, *given, *where)
    assert many.exit_code == 0, many.stderr
    assert "5 of 30 images match" in many.stderr
    rows = list(csv.DictReader(many.stdout.splitlines()))
    paths = [row["path"] for row in rows if row["line"] == "2"]
    assert paths == [image["path"] for image in told["images"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--where", "collour=red"), "no field 'collour'. Fields: folder, name, taken"),
        (("--where", "width>=wide"), "'wide' is no number"),
        (("--where", "price<cheap"), "neither a number nor a date"),
        (("--where", "price"), "is no condition"),
        (("--attributes", "no.csv"), "no.csv does not exist"),
    ],
)
def test_the_command_line_refuses_them_in_one_line(
    gallery: Gallery, root: Path, options: tuple[str, ...], said: str
) -> None:
    given = ("--gallery", root, "--cache", gallery.folder.cache, "--config", "demo")
    refused = seize("query", "red stars", *given, *options)
    assert refused.exit_code == 3
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_http_api_filters_and_tells_the_fields(gallery: Gallery, root: Path) -> None:
    served = Served(root, gallery.folder.cache)
    try:
        fields = json.loads(served.request("/fields")[2])["fields"]
        assert "colour" in [one["name"] for one in fields]
        asked = {"relative_caption": "red stars", "where": "colour=red\nprice<15\n"}
        result = served.query(**asked)[1][-1]["result"]
        assert (result["matching"], result["total"]) == (5, 30)
        body = json.dumps(asked | {"captions": [], "edited_captions": []}).encode()
        kind = {"Content-Type": "application/json"}
        ranked = json.loads(served.request("/rank", "POST", body, kind)[2])
        assert ranked["images"] == result["images"]
        assert len(ranked["images"]) == 5
        assert "no field" in served.query(**asked | {"where": "no=1"})[1][-1]["error"]
        status, lines = served.query(**asked | {"where": "red"})
        assert status == 400
        assert "is no condition" in lines[-1]["error"]
    finally:
        assert served.stop() == 130


def test_near_duplicates_are_one_result_with_members(
    root: Path, small_world: Path, tmp_path: Path
) -> None:
    """Every fourth picture has a copy that was saved again, and one of three quarters the size."""
    photos = tmp_path / "photos"
    shutil.copytree(root, photos)
    (photos / "copies").mkdir()
    for picture in sorted((photos / "winter").glob("*.jpg"))[:4]:
        with Image.open(picture) as image:
            image.save(photos / "copies" / f"{picture.stem}-again.jpg", quality=95)
            small = image.resize((48, 48), Image.Resampling.BICUBIC)
            small.save(photos / "copies" / f"{picture.stem}-small.png")
    grouping = SETTINGS.with_own(group_at=0.995)
    gallery = Gallery(photos, grouping, tmp_path / "cache").with_search(top_k=12)
    gallery.index()
    found = gallery.query(None, "red stars")
    plain = gallery.grouped(None).with_search(top_k=38).query(None, "red stars")
    assert len(found.images) == 12
    grouped = [image for image in found.images if image.members]
    assert grouped
    order = {image.hash: place for place, image in enumerate(plain.images)}
    rows = gallery._images
    for image in found.images:
        assert image.score == pytest.approx(plain.images[order[image.hash]].score, abs=1e-6)
        for member in image.members:
            assert order[member.hash] > order[image.hash]
            first, second = (
                rows.gallery.features[rows.row[name]] for name in (image.hash, member.hash)
            )
            assert float(first @ second) >= 0.995
    firsts = [order[image.hash] for image in found.images]
    assert firsts == sorted(firsts)
    assert firsts[0] == 0
    shown = {one.hash for image in found.images for one in (image, *image.members)}
    assert shown >= {image.hash for image in plain.images[: firsts[-1] + 1]}
    told = found.as_json()["images"][found.images.index(grouped[0])]
    assert told["members"][0]["path"] == grouped[0].members[0].path
    given = ("--gallery", photos, "--cache", tmp_path / "cache", "--config", "demo", "--top-k", 12)
    group = ("--group-at", 0.995)
    printed = seize("query", "red stars", *given, *group).stdout
    assert printed.count("\n  = ") == sum(len(image.members) for image in found.images)
    assert "\n  = " not in seize("query", "red stars", *given, *group, "--no-group").stdout
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("image,text\n,red stars\n", encoding="utf-8")
    lines = csv.DictReader(seize("query", "--batch", pairs, *given, *group).stdout.splitlines())
    assert [json.loads(line["members"]) for line in lines] == [
        [member.path for member in image.members] for image in found.images
    ]
    page = tmp_path / "found.html"
    assert seize("query", "red stars", *given, *group, "--out", page).exit_code == 0
    assert "nearly the same" in page.read_text(encoding="utf-8")
    assert "nearly the same" in found._repr_html_()


def test_groups_fill_up_to_the_number_that_was_asked_for(root: Path, tmp_path: Path) -> None:
    gallery = Gallery(root, SETTINGS, root.parent / "cache")
    every = gallery.with_search(top_k=30)
    for at in (0.3, 0.6, 0.9):
        whole = every.grouped(at).query(None, "red stars")
        assert sum(1 + len(image.members) for image in whole.images) == 30
        few = gallery.grouped(at).with_search(top_k=3).query(None, "red stars")
        assert few.paths == whole.paths[:3]
    with pytest.raises(ConfigError, match="group_at"):
        gallery.grouped(0)
