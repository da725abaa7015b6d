"""Captions and edits in the JSON that SEIZE and LDRE released: imported, searched, exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import config, datasets
from pipeline.errors import ConfigError, InputError, MissingStageError
from pipeline.run import Run
from pipeline.stages import caption, edit, export, released, search
from pipeline.stages.everything import run_stages
from tests.conftest import PROJECT

MakeRun = Callable[..., Run]
SHARED = PROJECT.parent / "shared" / "data"
USE = {
    "captioner__model": "imported:multi_caption_opt",
    "llm__model": "imported:multi_gpt-3.5_opt",
}


def with_texts(run: Run, folder: Path, **changes: Any) -> list[Path]:
    """Write the annotations of ``run`` with released fields, as SEIZE does; return the files."""
    folder.mkdir()
    files = []
    for name, entries in run.dataset.annotations.items():
        content = []
        for number, entry in enumerate(entries):
            texts = [f"a red circle {number}", "a red circle", "a red circle"]
            edits = [f"a blue circle {number}", " a cyan circle", "a green circle\n"]
            added = {"multi_caption_opt": texts, "multi_gpt-3.5_opt": edits}
            single = {"blip2_caption": texts[0], "gpt-3.5-turbo": edits[0]}
            content.append(entry | added | single | {"gpt-3.5-turbo_none": "unused"})
        content[1] |= changes
        file = folder / Path(name).name
        file.write_text(json.dumps(content))
        files.append(file)
    return files


@pytest.mark.parametrize(
    ("name", "split"), [("circo", "val"), ("circo", "test"), ("cirr", "val"), ("fashioniq", "val")]
)
def test_imported_texts_are_searched_and_exported_byte_for_byte(
    make_run: MakeRun, tmp_path: Path, name: str, split: str
) -> None:
    plain = make_run(name, split)
    files = with_texts(plain, tmp_path / "in")
    sets = released.import_files(plain.dataset, files, plain.cache)
    assert [(found.name, found.stage) for found in sets] == [
        ("multi_caption_opt", "caption"),
        ("multi_gpt-3.5_opt", "edit"),
        ("blip2_caption", "caption"),
        ("gpt-3.5-turbo", "edit"),
    ]
    assert all(found.queries == len(plain.queries) and not found.missing for found in sets)
    run = make_run(name, split, **USE)
    # Equal captions keep their own edits, and nothing is stripped.
    first = run.queries[0].id
    assert edit.read(run)[first] == ["a blue circle 0", " a cyan circle", "a green circle\n"]
    reports, _ = run_stages(run)
    assert [report.computed for report in reports[:2]] == [0, 0]
    assert not any(report.failed for report in reports)
    for written in export.export(run, tmp_path / "out"):
        before = json.loads((tmp_path / "in" / written.name).read_text())
        after = json.loads(written.read_text())
        assert len(after) == len(before)
        for old, new in zip(before, after, strict=True):
            assert old | new == old
            assert new["multi_caption_opt"] == old["multi_caption_opt"]
            assert new["multi_gpt-3.5_opt"] == old["multi_gpt-3.5_opt"]
    one = make_run(
        name, split, captioner__model="imported:blip2_caption", llm__model="imported:gpt-3.5-turbo"
    )
    assert edit.read(one)[first] == ["a blue circle 0"]


def test_own_captions_and_edits_survive_export_and_import(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("cirr")
    caption.caption(run)
    edit.edit(run)
    (file,) = export.export(run, tmp_path / "out")
    names = [found.name for found in released.import_files(run.dataset, [file], run.cache)]
    assert names == ["multi_caption_opt", "multi_llm_opt"]
    imported = make_run(
        "cirr",
        captioner__model="imported:multi_caption_opt",
        llm__model="imported:multi_llm_opt",
    )
    assert caption.read(imported) == caption.read(run)
    assert edit.read(imported) == edit.read(run)


def test_own_llm_edits_imported_captions(make_run: MakeRun, tmp_path: Path) -> None:
    plain = make_run()
    released.import_files(plain.dataset, with_texts(plain, tmp_path / "in"), plain.cache)
    run = make_run(captioner__model=USE["captioner__model"])
    assert edit.edit(run).computed == len(edit.pairs(run, caption.read(run))) > 0
    assert all(len(texts) == 3 for texts in edit.read(run).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multi_caption_opt": "one text"}, r"'multi_gpt-3.5_opt' has 3 texts.*has 1"),
        ({"multi_gpt-3.5_opt": ["x", 3, "y"]}, r"query 1: 'multi_gpt-3.5_opt' must be a text or"),
        ({"relative_caption": "is else"}, r"is no query of circo val"),
        ({"reference_img_id": "x"}, r"entry 1: 'reference_img_id' is wrong"),
    ],
)
def test_a_wrong_entry_is_named(
    make_run: MakeRun, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = make_run()
    with pytest.raises(InputError, match=message):
        released.import_files(run.dataset, with_texts(run, tmp_path / "in", **changes), run.cache)
    assert not run.cache.exists()


def test_missing_fields_are_reported_and_search_goes_on(make_run: MakeRun, tmp_path: Path) -> None:
    plain = make_run()
    (file,) = with_texts(plain, tmp_path / "in")
    content = json.loads(file.read_text())
    del content[2]["multi_gpt-3.5_opt"]
    file.write_text(json.dumps(content))
    sets = released.import_files(plain.dataset, [file], plain.cache)
    lacking = {found.name: found.missing for found in sets}
    assert lacking["multi_gpt-3.5_opt"] == [plain.queries[2].id]
    reports, metrics = run_stages(make_run(**USE))
    assert metrics
    told = {f"query {plain.queries[2].id}": "no edited caption; its relative caption is used"}
    assert reports[-2].failed == told
    several = "seize,image,image+text,pdv,text"  # methods that read no edits lack none
    made = search.search(make_run(**USE, search__method=several))
    assert [report.failed for report in made] == [told, {}, {}, told, {}]


def test_other_texts_under_a_taken_name_are_refused_and_a_name_sets_them_apart(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    first = with_texts(run, tmp_path / "in")
    released.import_files(run.dataset, first, run.cache)
    released.import_files(run.dataset, first, run.cache)  # the same again changes nothing
    second = with_texts(run, tmp_path / "in2", multi_caption_opt=["a", "b", "c"])
    with pytest.raises(ConfigError, match="--name"):
        released.import_files(run.dataset, second, run.cache)
    released.import_files(run.dataset, second, run.cache, "mine-")
    mine = make_run(captioner__model="imported:mine-multi_caption_opt")
    assert caption.read(mine)[run.queries[1].id] == ["a", "b", "c"]
    mixed = make_run(
        captioner__model="imported:mine-multi_caption_opt", llm__model="imported:multi_gpt-3.5_opt"
    )
    with pytest.raises(ConfigError, match=r"Add: --captioner imported:multi_caption_opt"):
        edit.read(mixed)


def test_texts_that_were_not_imported_are_a_missing_stage(make_run: MakeRun) -> None:
    with pytest.raises(MissingStageError, match=r"seize import FILE --dataset circo --split val"):
        caption.read(make_run(**USE))


@pytest.mark.skipif(not SHARED.is_dir(), reason="no released files here")
def test_the_released_circo_file_makes_the_round_trip(tmp_path: Path) -> None:
    source = SHARED / "circo" / "seize_released_test.json"
    entries = json.loads(source.read_text())
    root = tmp_path / "CIRCO"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "test.json").symlink_to(SHARED / "circo" / "test.json")
    info = root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    info.parent.mkdir(parents=True)
    ids = sorted({entry["reference_img_id"] for entry in entries})
    info.write_text(json.dumps({"images": [{"id": n, "file_name": f"{n}.jpg"} for n in ids]}))
    dataset = datasets.load("circo", "test", tmp_path)
    sets = released.import_files(dataset, [source], tmp_path / "cache")
    assert {found.name: found.texts for found in sets} == {
        "blip2_caption": 800,
        "gpt-3.5-turbo": 800,
        "blip2_caption_t5": 800,
        "gpt-3.5-turbo_t5": 800,
        "multi_caption_opt": 12_000,
        "multi_gpt-3.5_opt": 12_000,
    }
    fields = {name.replace("__", "."): value for name, value in USE.items()}
    run = Run(dataset, config.load("paper-b32", fields), tmp_path / "cache", tmp_path)
    (written,) = export.export(run, tmp_path / "out")
    exported = json.loads(written.read_text())
    assert len(exported) == len(entries) == 800
    for old, new in zip(entries, exported, strict=True):
        for key in ("id", "relative_caption", "multi_caption_opt", "multi_gpt-3.5_opt"):
            assert new[key] == old[key]
