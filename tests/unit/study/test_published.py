"""Published figures: data with sources, beside one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.datasets import known
from pipeline.errors import ConfigError, InputError
from pipeline.study import published
from pipeline.study.protocol import COLUMNS, Conditions
from tests.integration.test_cli import seize


def test_every_figure_is_a_percentage_of_a_known_metric_that_rises_with_k() -> None:
    found = published.load()
    assert set(found.datasets) <= set(known())
    for name, benchmark in found.datasets.items():
        assert benchmark.split in known()[name].splits
        rows = [(method, backbone) for method, backbone, _, _ in benchmark.rows]
        assert len(rows) == len(set(rows))
        for method, backbone, _, values in benchmark.rows:
            by_metric = dict(zip(benchmark.metrics, values, strict=True))
            assert all(0 < value < 100 for value in values if value is not None)
            recalls = [
                by_metric[m] for m in ("recall@1", "recall@5", "recall@10") if by_metric.get(m)
            ]
            assert recalls == sorted(recalls), (method, backbone)


def test_the_fashioniq_average_is_that_of_its_categories_but_for_rounding() -> None:
    benchmark = published.load().datasets["fashioniq"]
    for method, backbone, _, values in benchmark.rows:
        row = dict(zip(benchmark.metrics, values, strict=True))
        for k in (10, 50):
            parts = [row[f"recall@{k}/{c}"] for c in ("dress", "shirt", "toptee")]
            if None not in parts:
                mean = sum(part for part in parts if part is not None) / 3
                assert mean == pytest.approx(row[f"recall@{k}"], abs=0.02), (method, backbone)


def test_ones_own_row_stands_below_the_published_ones_of_its_backbone(tmp_path: Path) -> None:
    file = tmp_path / "server.json"
    file.write_text(json.dumps({"mAP@5": 25.5, "other": "text"}))
    result = seize("table", "--dataset", "circo", "--backbone", "L/14", "--mine", f"me@L/14={file}")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (seize_line,) = [line for line in lines if line.startswith("SEIZE ")]
    (mine,) = [line for line in lines if line.startswith("me ")]
    assert "24.98" in seize_line
    assert "published (SDR, PDV, LM)" in seize_line
    assert "25.50" in mine
    assert "arXiv 2602.04451" in result.stdout
    assert not any("B/32" in line for line in lines[: lines.index(mine)])
    result = seize("table", "--dataset", "circo", "--mine", f"me={file}", "--json")
    assert json.loads(result.stdout)["table"][-1]["mAP@10"] is None


def entry(method: str, value: float, **conditions: str) -> published.Entry:
    told = Conditions(**conditions)
    return published.Entry(method, "L/14", {"mAP@5": value, "mAP@10": None}, "x", told, ())


ALL = {
    "reference": "masked",
    "concept": "no",
    "fashioniq_split": "n/a",
    "gallery_size": "123,403",
    "training": "training-free",
}


def test_rows_of_one_protocol_are_ranked_and_others_refused_unless_told() -> None:
    alike = [entry("a", 20, **ALL), entry("b", 30, **ALL)]
    assert [e.method for e in published.ranked("circo", alike, "mAP@5", False)] == ["b", "a"]
    for field, word in {"reference": "kept", "training": "trained", "concept": "unknown"}.items():
        rows = [*alike, entry("c", 25, **(ALL | {field: word}))]
        with pytest.raises(ConfigError, match=rf"\({COLUMNS[field]}: .*{word}\).*--where"):
            published.ranked("circo", rows, "mAP@5", False)
        assert [e.method for e in published.ranked("circo", rows, "mAP@5", True)] == ["b", "c", "a"]
        if word != "unknown":
            assert [e.method for e in published.where(rows, {field: word})] == ["c"]
    rows = [*alike, entry("unknown", 25)]
    with pytest.raises(ConfigError, match="unknown"):  # all alike, but nobody knows how
        published.ranked("circo", rows[2:], "mAP@5", False)
    with pytest.raises(ConfigError, match="Did you mean 'mAP@5'"):
        published.ranked("circo", alike, "mAP5", True)
    assert published.ranked("circo", alike, "mAP@10", False) == []
    with pytest.raises(ConfigError, match="Did you mean 'training'"):
        published.where(alike, {"trainig": "trained"})
    with pytest.raises(ConfigError, match="No row is known to have training=trained"):
        published.where(alike, {"training": "trained"})


def test_of_what_is_wrong_less_is_better() -> None:
    rows = published.entries(published.load(), "pinpoint", [], {})
    by_wrong = published.ranked("pinpoint", rows, "negative_recall@10", True)
    shares = [row.values["negative_recall@10"] or 0 for row in by_wrong]
    assert shares == sorted(shares)
    by_right = [
        row.values["mAP@10"] or 0 for row in published.ranked("pinpoint", rows, "mAP@10", True)
    ]
    assert by_right == sorted(by_right, reverse=True)


def test_conditions_are_told_where_a_source_says_so_and_unknown_elsewhere() -> None:
    found = published.load()
    seize_row = found.conditions("circo", "SEIZE")
    assert seize_row.as_json() == ALL
    assert found.conditions("circo", "LDRE").reference == "kept"
    assert found.conditions("cirr", "LDRE").reference == "masked"
    assert found.conditions("circo", "BGE-VL-base").concept == "yes"
    assert found.conditions("fashioniq", "SEIZE").gallery_size == "3,817 / 6,346 / 5,373"
    assert found.conditions("circo", "a row of tomorrow").reference == "unknown"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("reference: kept, concept", "reference: keptt, concept", "reference is 'keptt'"),
        ("  SDR-CIR: {", "  SDR-CIRR: {", "SDR-CIRR"),
        ("seconds: 0.37, source: SDR", "seconds: 0.37, source: XYZ", "XYZ"),
        ("seconds: 0.37", "seconds: -1", "seconds"),
        ("{reference: kept}", "{refrence: kept}", "refrence"),
    ],
)
def test_a_wrong_condition_or_cost_is_refused(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    text = published.FILE.read_text()
    assert old in text
    file = tmp_path / "published.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=problem):
        published.load(file)


def test_the_command_ranks_selects_and_draws(tmp_path: Path) -> None:
    file, picture = tmp_path / "mine.json", tmp_path / "cost.png"
    told = {"mAP@5": 26.5, "conditions": ALL, "cost": {"calls": 3, "seconds": 0.5}}
    file.write_text(json.dumps(told))
    given = ("table", "--dataset", "circo", "--backbone", "L/14", "--mine", f"me@L/14={file}")
    refused = seize(*given, "--rank", "mAP@5")
    assert refused.exit_code == 2
    assert "one protocol" in refused.stderr
    one = [f"--where={field}={word}" for field, word in ALL.items()]
    done = seize(*given, "--rank", "mAP@5", *one, "--json", "--picture", str(picture))
    assert done.exit_code == 0, done.output
    assert [row["method"] for row in json.loads(done.stdout)["table"]] == ["me", "SEIZE"]
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 500
    mixed = seize(*given, "--rank", "mAP@5", "--mixed", "--format", "markdown")
    assert mixed.exit_code == 0, mixed.output
    assert "| training " in mixed.stdout
    assert seize("table", "--dataset", "circo", "--where", "reference").exit_code == 2
    nothing = ("--where", "training=few-label", "--picture", str(tmp_path / "none.png"))
    refused = seize("table", "--dataset", "circo", *nothing)
    assert refused.exit_code == 2
    assert "nothing can be drawn" in refused.stderr


@pytest.mark.parametrize(
    "more",
    [
        {"cost": {"calls": -1}},
        {"cost": {"dollars": 1}},
        {"cost": 3},
        {"conditions": {"reference": "hidden"}},
        {"conditions": ["masked"]},
        {"conditions": {"gallery_size": 5}},
    ],
)
def test_wrong_conditions_or_costs_of_ones_own_are_named(tmp_path: Path, more: Any) -> None:
    file = tmp_path / "server.json"
    file.write_text(json.dumps({"mAP@5": 25} | more))
    with pytest.raises(InputError, match=rf"server\.json: {next(iter(more))}"):
        published.table("circo", [], {"me": file})


@pytest.mark.parametrize(
    "content", ['{"map": 3}', '{"mAP@5": 101}', '{"mAP@5": "25"}', '{"mAP@5": true}', "[]"]
)
def test_a_wrong_own_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "server.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"server\.json"):
        published.table("circo", [], {"me": file})


def test_a_row_without_source_or_value_is_refused(tmp_path: Path) -> None:
    text = published.FILE.read_text().replace("[SEIZE, L/14, SDR PDV LM,", "[SEIZE, L/14, XYZ,")
    file = tmp_path / "published.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="SEIZE L/14"):
        published.load(file)
