"""Published figures: data with sources, beside one's own."""

import json
from pathlib import Path

import pytest

from pipeline.datasets import known
from pipeline.errors import ConfigError, InputError
from pipeline.study import published
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
    assert not any("B/32" in line for line in lines[:-10])
    result = seize("table", "--dataset", "circo", "--mine", f"me={file}", "--json")
    assert json.loads(result.stdout)["table"][-1]["mAP@10"] is None


@pytest.mark.parametrize("content", ['{"map": 3}', '{"mAP@5": 101}', '{"mAP@5": "25"}', "[]"])
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
