"""Tables whose names come from others: no program that opens one obeys them."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.printable import STEERING
from pipeline.study.tables import FORMULA, percent, render
from pipeline.study.tables import csv as as_csv

FORMULAS = [
    "=cmd|'/c calc'!A0",
    '=HYPERLINK("http://evil","x")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "＝1",
]
NASTY = "x\n\\input{/etc/passwd}\\write18{id}\n%\x1b[31m\u202e<b onclick=a>|[y](javascript:z) `*`"


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_and_no_heading_of_a_csv_is_computed(formula: str) -> None:
    frame = pd.DataFrame({"method": [formula, "seize"], formula: [-1.5, 2.0], "whole": [-3, 4]})
    heading, first, second = csv.reader(io.StringIO(as_csv(frame)))
    for text in (heading[1], first[0]):
        assert text.startswith("'")
        assert not FORMULA.match(text)
    assert first[1:] == ["-1.5", "-3"], "numbers stay numbers"
    assert second == ["seize", "2.0", "4"]
    read = pd.read_csv(io.StringIO(as_csv(frame)))
    assert read["whole"].tolist() == [-3, 4]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_whatever_a_csv_holds_its_cells_begin_as_words(texts: list[str]) -> None:
    text = as_csv(pd.DataFrame({"name": texts, "value": range(len(texts))}))
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert len(rows) == len(texts)
    assert not any(FORMULA.match(row[0]) for row in rows)


def test_latex_holds_neither_commands_nor_more_lines() -> None:
    text = render([{"method": NASTY, NASTY: NASTY}], "latex")
    assert "\\input" not in text
    assert "\\write18" not in text
    assert "\\textbackslash{}write18\\{id\\}" in text
    assert len(text.splitlines()) == 7
    assert not STEERING.search(text)


def test_markdown_holds_neither_markup_nor_more_cells() -> None:
    text = render([{"method": NASTY, NASTY: NASTY}], "markdown")
    assert "<b" not in text
    assert "&lt;b" in text
    assert "\\[y\\](javascript" in text
    assert [line.replace("\\|", "").count("|") for line in text.splitlines()] == [3, 3, 3]
    assert not STEERING.search(text)


def test_text_steers_no_terminal() -> None:
    text = render([{"method": NASTY, NASTY: NASTY}], "text")
    assert len(text.splitlines()) == 3
    assert not STEERING.search(text)


def test_no_figure_is_a_dash() -> None:
    assert percent(12.345) == "12.35"
    assert percent(float("nan")) == "–"
