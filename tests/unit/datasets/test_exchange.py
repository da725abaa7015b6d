"""Triplets in other projects' shapes: real keys in and out, and errors that name them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.datasets import exchange, triplets
from pipeline.datasets.triplets import Triplet
from pipeline.errors import ConfigError, InputError

SET = {"id": 3, "members": ["a", "b", "c"], "reference_rank": 0, "target_rank": 1}
FACAP = [{"candidate": "x/1.jpg", "target": "x/2.jpg", "captions": ["The dress is red."]}]
FACAP_TOLD = [{"reference": "x/1.jpg", "target": "x/2.jpg", "modification": "The dress is red."}]
MTST_CIRR = {
    **{"pairid": 12, "reference": "a", "target_hard": "b", "caption": "has two dogs"},
    **{"img_set": SET, "modifier_generated": "has one dog"},
}
MTST_SYNTHETIC = {
    **{"reference": "a", "target": "b", "modifier_generated": "two dogs"},
    "modifier_reversed": "one dog",
}
MTST_FASHIONIQ = {
    **{"candidate": "B1.jpg", "target": "B2.jpg", "captions": ["is red", "is long"]},
    "modifier_generated": "is blue and short",
}
FINE_FASHIONIQ = {"target": "B2", "candidate": "B1", "finemt": "1. Make it red.\n2. Make it long."}
FINE_CIRR = {
    **{"pairid": 12, "reference": "a", "target_hard": "b", "finemt": "two dogs on grass"},
    "img_set": SET,
}
TRANSAGG_MAP = {"7": {"tgt_image_id": 9, "relative_cap": "is red", "tgt_cap": "a red dress"}}
TRANSAGG_LIST = [{"ref_image_id": "7", "relative_cap": "is red", "tgt_image_id": "9"}]

CASES: dict[str, tuple[Any, bool, str, dict[str, Any]]] = {
    "facap": (FACAP, False, "fashioniq", {"reference": "x/1.jpg", "target": "x/2.jpg"}),
    "facap as its page has it": (FACAP_TOLD, False, "fashioniq", {"text": "The dress is red."}),
    "mtst cirr": (
        *([MTST_CIRR], True, "mtst"),
        {"target": "b", "text": "has two dogs", "text_reverse": "has one dog"},
    ),
    "mtst synthetic": (
        *([MTST_SYNTHETIC], True, "mtst"),
        {"text": "two dogs", "text_reverse": "one dog"},
    ),
    "mtst fashioniq": (
        *([MTST_FASHIONIQ], True, "mtst"),
        {
            **{"reference": "B1", "target": "B2", "text": "is red and is long"},
            "text_reverse": "is blue and short",
        },
    ),
    "finecir fashioniq": (
        *([FINE_FASHIONIQ], True, "finecir"),
        {"reference": "B1", "text": "1. Make it red.\n2. Make it long."},
    ),
    "finecir cirr": ([FINE_CIRR], True, "finecir", {"target": "b", "text": "two dogs on grass"}),
    "transagg map": (
        *(TRANSAGG_MAP, False, "transagg"),
        {"reference": "7", "target": "9", "target_caption": "a red dress"},
    ),
    "transagg list": (TRANSAGG_LIST, False, "transagg", {"reference": "7", "text": "is red"}),
}


def written(file: Path, content: Any, lines: bool) -> Path:
    text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content, indent=1)
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", CASES)
def test_each_shape_is_told_by_its_keys(tmp_path: Path, name: str) -> None:
    content, lines, shape, expected = CASES[name]
    file = written(tmp_path / "file.json", content, lines)
    (found,) = exchange.read(file, category="dress")
    made = found.as_json()
    assert {key: made[key] for key in expected} == expected
    assert (found.generator, found.category) == (f"imported: {shape}", "dress")
    assert exchange.read(file, "facap" if "facap" in name else shape)[0].text == found.text


@pytest.mark.parametrize(
    ("content", "lines", "form", "named"),
    [
        ([*FACAP, {"candidate": "1", "captions": ["a"]}], False, None, "entry 1: 'target' is miss"),
        (
            [*FACAP, {"candidate": "1", "target": 2, "captions": ["a"]}],
            False,
            None,
            "'target' is w",
        ),
        ([MTST_CIRR, {"pairid": 1}], True, None, "line 2: 'reference' is missing"),
        ([{"pairid": 1}], True, None, "line 1 has the shape of no known file of triplets"),
        ([{"pairid": 1}], True, "mtst", "line 1: 'candidate' is missing"),
        ({"7": {"tgt_image_id": "9", "relative_cap": ""}}, False, None, "entry '7': 'text'"),
        ({"7": ["9"]}, False, None, "no known file"),
        ([], False, None, "holds no triplet"),
        (["a", "b"], False, None, r"entry 0 .* target_hard; captions; modification\.$"),
    ],
)
def test_malformed_entries_are_named(
    tmp_path: Path, content: Any, lines: bool, form: str | None, named: str
) -> None:
    file = written(tmp_path / "file.json", content, lines)
    with pytest.raises(InputError, match=named) as error:
        exchange.read(file, form)
    assert str(file) in str(error.value)


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'finecir'"):
        exchange.read(tmp_path / "x.json", "finecirr")


def test_what_was_imported_is_exported_as_it_was(tmp_path: Path) -> None:
    cirr = {key: value for key, value in MTST_CIRR.items() if key != "modifier_generated"}
    (found,) = exchange.read(written(tmp_path / "c.json", [cirr], False))
    assert exchange.cirr([found]) == [cirr | {"target_soft": {"b": 1.0}}]
    fashioniq = [{"target": "B2", "candidate": "B1", "captions": ["is red", "is long"]}]
    found, *_ = exchange.read(written(tmp_path / "f.json", fashioniq, False))
    assert exchange.fashioniq([found]) == fashioniq
    found, *_ = exchange.read(written(tmp_path / "t.json", TRANSAGG_MAP, False))
    assert exchange.transagg([found]) == {"7": TRANSAGG_MAP["7"] | {"tgt_image_id": "9"}}
    found, *_ = exchange.read(written(tmp_path / "l.json", TRANSAGG_LIST, False))
    assert exchange.transagg_list([found]) == TRANSAGG_LIST


def test_a_triplet_without_an_image_set_gets_one_of_its_two_images() -> None:
    (entry,) = exchange.cirr([Triplet(reference="a", text="x", target="b")])
    assert entry["pairid"] == 0
    assert entry["img_set"]["members"] == ["a", "b"]
    assert entry["img_set"]["members"][entry["img_set"]["target_rank"]] == entry["target_hard"]


def test_the_map_of_transagg_takes_one_triplet_a_reference() -> None:
    twice = [Triplet(reference="a", text=text, target="b") for text in ("x", "y")]
    with pytest.raises(ConfigError, match="transagg-list"):
        exchange.transagg(twice)


def test_the_commands_import_show_and_export(tmp_path: Path) -> None:
    source = written(tmp_path / "mtst.json", [MTST_SYNTHETIC, MTST_SYNTHETIC], True)
    out, exported = tmp_path / "t.jsonl", tmp_path / "cap.json"

    def run(*words: str) -> Any:
        result = CliRunner().invoke(main, ["triplets", *words, "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        return json.loads(result.stdout)

    made = run("import", str(source), "--out", str(out))
    assert made["triplets"] == made["with_text_reverse"] == 2
    assert made["written"] == {"imported: mtst": 2}
    more = [*triplets.read(out), Triplet(reference="a", text="is red", target_caption="red")]
    triplets.write(out, more)
    shown = run("show", str(out), "--limit", "1")
    assert (shown["triplets"], shown["with_target"], len(shown["first"])) == (3, 2, 1)
    told = run("export", str(out), "--format", "fashioniq", "--out", str(exported))
    assert (told["triplets"], told["without_target"]) == (2, 1)
    assert exchange.read(exported)[0].text == "two dogs"


def test_the_commands_name_what_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    out.write_text('{"reference": "a"}\n')
    result = CliRunner().invoke(main, ["triplets", "show", str(out)])
    assert result.exit_code == 3
    assert "line 1: 'text' is missing" in result.stderr
    triplets.write(out, [Triplet(reference="a", text="is red", target_caption="red")])
    words = ["triplets", "export", str(out), "--format", "cirr", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 3
    assert "no triplet with a target image" in result.stderr
