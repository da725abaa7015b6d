"""Which images meet conditions, and what is said of those that conditions cannot see."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConditionError, InputError
from pipeline.own import filters
from pipeline.own.attributes import Table
from pipeline.own.conditions import parse_all
from pipeline.own.filters import Matching, Properties
from pipeline.store.schema import MetadataRecord


def record(path: str, **own: object) -> MetadataRecord:
    plain = MetadataRecord(
        path=path,
        hash=path,
        bytes=100,
        mtime_ns=1_600_000_000_000_000_000,
        ctime_ns=0,
        width=40,
        height=20,
        taken=None,
        make=None,
        model=None,
        lens=None,
        iso=None,
        broken=False,
        text="",
        attributes={},
        sidecars={},
        unread=0,
    )
    return plain | own  # type: ignore[operator,no-any-return]  # its fields, as any mapping's


RECORDS = {
    made["path"]: made
    for made in (
        record("a.jpg", taken="2024-05-03T10:00:00", make="NIKON", iso=100.0, text="a dog"),
        record("summer/b.jpg", width=20, height=40, broken=True),
        record("summer/c.png", width=20, attributes={"colour": "blue", "price": "7"}, unread=1),
    )
}
TABLE = Table(
    "attributes.csv",
    {
        "a.jpg": {"colour": "red", "price": "5", "width": "wide"},
        "summer/b.jpg": {"colour": "red", "price": "n/a"},
        "gone.jpg": {"colour": "red"},
    },
    {"colour": "Colour", "price": "Price", "width": "Width"},
    repeated=2,
)
PROPERTIES = Properties(RECORDS, TABLE)
PATHS = {path: [path] for path in RECORDS}


def matching(*where: str, paths: dict[str, list[str]] = PATHS) -> Matching:
    return PROPERTIES.matching(paths, parse_all(where))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["folder=summer"], ["summer/b.jpg", "summer/c.png"]),
        (["name=*.jpg", "folder=summer"], ["summer/b.jpg"]),
        (["taken=2024-05"], ["a.jpg"]),
        (["taken<2021"], ["summer/b.jpg", "summer/c.png"]),
        (["orientation=portrait"], ["summer/b.jpg"]),
        (["orientation=square"], ["summer/c.png"]),
        (["width>=40"], ["a.jpg"]),
        (["bytes=100", "height<=20"], ["a.jpg", "summer/c.png"]),
        (["make=nikon"], ["a.jpg"]),
        (["make!=nikon"], ["summer/b.jpg", "summer/c.png"]),
        (["iso>50"], ["a.jpg"]),
        (["text~DOG"], ["a.jpg"]),
        (["colour=red"], ["a.jpg", "summer/b.jpg"]),
        (["colour=blue"], ["summer/c.png"]),
        (["price<6"], ["a.jpg"]),
        (["price>=6"], ["summer/c.png"]),
        (["attributes.width=wide"], ["a.jpg"]),
        (["Colour=RED", "price<1"], []),
    ],
)
def test_images_that_meet_all_conditions(where: list[str], expected: list[str]) -> None:
    assert list(matching(*where).paths) == expected


def test_how_many_match_is_told() -> None:
    found = matching("colour=red", "width>=40")
    assert found.told == "1 of 3 images match colour=red and width>=40"


def test_an_image_in_several_files_is_met_by_any_of_them() -> None:
    copies = {"one": ["a.jpg", "summer/b.jpg"], "other": ["summer/c.png"]}
    assert matching("folder=summer", paths=copies).paths == {
        "one": ["summer/b.jpg"],
        "other": ["summer/c.png"],
    }
    # One file has to meet all of them:
    assert matching("folder=summer", "make=nikon", paths=copies).paths == {}


def test_what_conditions_cannot_see_is_said() -> None:
    assert matching("folder=summer").notes == ()
    assert matching("taken>2000").notes == (
        "taken: 1 by EXIF, 2 by the file's time.",
        "The EXIF of 1 file is damaged.",
    )
    assert matching("price<6").notes == (
        "1 file beside images cannot be read.",
        "attributes.csv: rows that name no image: 1; files without a row: 1 of 3; rows "
        "behind which another one counts: 2.",
        "Values of price that are no numbers: 1.",
    )
    unknown = {"new": ["new.jpg"]}
    assert "1 file that changed since the index" in matching("width>1", paths=unknown).notes[0]


@pytest.mark.parametrize("where", ["collour=red", "width>=wide", "price<cheap", "make<3"])
def test_what_no_image_can_meet_is_refused_with_the_fields(where: str) -> None:
    with pytest.raises(ConditionError) as refused:
        matching(where)
    told = str(refused.value)
    assert "\n" not in told
    assert told.startswith(where)
    assert told.endswith("iso, text, colour, price, attributes.width.")


@given(
    st.lists(
        st.sampled_from(["width>=40", "colour=red", "folder!=summer", "price<6", "taken>2022"]),
        max_size=4,
    )
)
def test_conditions_are_met_together(where: list[str]) -> None:
    each = [set(matching(one).paths) for one in where]
    assert set(matching(*where).paths) == set(PATHS).intersection(*each)


def test_fields_are_described_by_their_values() -> None:
    fields = {one["name"]: one for one in PROPERTIES.as_json(PATHS)}
    assert fields["width"] | {"about": ""} == {
        "name": "width",
        "kind": "number",
        "about": "",
        "images": 3,
        "least": 20,
        "most": 40,
    }
    assert fields["taken"]["most"] == "2024-05-03T10:00:00"
    assert fields["colour"]["values"] == ["red", "blue"]
    assert fields["price"]["kind"] == "text"  # one of them is no number
    assert fields["make"]["images"] == 1
    only = Properties(RECORDS).as_json(PATHS)
    assert {one["name"]: one for one in only}["price"] | {"about": ""} == {
        "name": "price",
        "kind": "number",
        "about": "",
        "images": 1,
        "least": 7.0,
        "most": 7.0,
    }


def test_a_folder_that_was_not_read_may_have_more_fields(tmp_path: Path) -> None:
    root, cache = tmp_path / "photos", tmp_path / "cache"
    root.mkdir()
    filters.check(root, cache, None, ["width>1"])
    with pytest.raises(ConditionError, match="no field 'colour'"):
        filters.check(root, cache, None, ["colour=red"])
    (root / "a.json").write_text('{"colour": "red"}', encoding="utf-8")
    filters.check(root, cache, None, ["colour=red"])
    with pytest.raises(ConditionError, match="no number"):
        filters.check(root, cache, None, ["colour=red", "width>wide"])
    (root / "attributes.csv").write_text("path,price\na.jpg,5\n", encoding="utf-8")
    with pytest.raises(ConditionError, match="neither a number nor a date"):
        filters.check(root, cache, None, ["price<cheap"])
    with pytest.raises(InputError, match="is not a folder"):
        filters.check(root / "no", cache, None, [])
    with pytest.raises(InputError, match=r"no\.csv does not exist"):
        filters.check(root, cache, root / "no.csv", [])
