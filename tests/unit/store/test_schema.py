"""Records that are not what the stages write are named by file, number and field."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.store.jsonl import RecordFile, write_records
from pipeline.store.schema import (
    CaptionRecord,
    EditRecord,
    FileRecord,
    ImportedCaptions,
    ImportedEdits,
    RankingRecord,
    VerdictRecord,
    typed,
)

EDIT = {"caption": "a", "relative_caption": "b", "edited_caption": "c"}
VERDICT = {"query": "1", "candidate": "2", "edited_caption": "", "probability": 0.5}
RANKING = {"query": "1", "images": ["2"], "scores": [0.5], "subset": []}
FILE = {"path": "a.jpg", "size": 3, "mtime_ns": 4, "hash": "0" * 64}
GOOD: dict[Any, dict[str, Any]] = {
    CaptionRecord: {"image": "1", "captions": ["a", "b"]},
    EditRecord: EDIT,
    ImportedCaptions: {"query": "1", "captions": ["a"]},
    ImportedEdits: {"query": "1", "edited_captions": ["a"]},
    RankingRecord: RANKING,
    VerdictRecord: VERDICT,
    FileRecord: FILE,
}


def written(folder: Path, *records: dict[str, Any]) -> RecordFile:
    file = folder / "records.jsonl"
    write_records(file, {"stage": "x"}, records)
    return RecordFile(file, {"stage": "x"})


@pytest.mark.parametrize("kind", GOOD)
def test_every_field_is_checked(tmp_path: Path, kind: Any) -> None:
    good = GOOD[kind]
    assert typed(written(tmp_path, good), kind) == [good]
    for field in good:
        without = {name: value for name, value in good.items() if name != field}
        odd: tuple[Any, ...] = ({"x": 1}, True, [[1]])
        for bad in (without, *(good | {field: value} for value in odd)):
            with pytest.raises(InputError, match=rf"records\.jsonl, record 2: '{field}"):
                typed(written(tmp_path, good, bad), kind)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (RankingRecord, "scores", [float("nan")]),
        (RankingRecord, "probabilities", [float("nan")]),
        (VerdictRecord, "probability", float("nan")),
        (VerdictRecord, "probability", 1.5),
        (EditRecord, "desired", "red"),
        (FileRecord, "hash", "../../x"),
    ],
)
def test_values_have_bounds(tmp_path: Path, kind: Any, field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"record 1: '{field}"):
        typed(written(tmp_path, GOOD[kind] | {field: value}), kind)


odd_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(record=st.dictionaries(st.sampled_from([*EDIT, *RANKING, "x"]), odd_json, min_size=1))
def test_anything_is_a_record_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]
) -> None:
    records = written(tmp_path_factory.mktemp("records"), record)
    for kind in GOOD:
        refused = ""
        try:
            assert json.dumps(typed(records, kind))
        except InputError as error:
            refused = str(error)
        assert not refused or "record 1" in refused
