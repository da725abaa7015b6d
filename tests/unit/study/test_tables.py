"""Tables whose names come from others: no program that opens one obeys them."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.printable import STEERING
from pipeline.study.tables import FORMULA, fits, percent, render, wrapped
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


WIDE = [
    {"method": name, **{f"recall@{k}": f"{k}.00" for k in (1, 5, 10, 50)}, "recall@1 against x": d}
    for name, d in (("seize", ""), ("mean-ensemble", "+1.42 [-0.24, +3.60]"))
]


def test_a_table_wider_than_the_terminal_becomes_several_with_all_cells() -> None:
    whole = render(WIDE, "text")
    assert render(WIDE, "text", 200) == whole
    for width in (80, 60, 40):
        text = render(WIDE, "text", width)
        assert fits(text, width)
        assert "\n\n" in text
        for line in WIDE:
            assert all(cell in text for cell in line.values())
    for form in ("markdown", "latex"):
        assert render(WIDE, form, 40) == render(WIDE, form), "files have no terminal"


def test_columns_that_belong_together_stay_in_one_table() -> None:
    text = render(WIDE, "text", 66, together=("recall@50", "recall@1 against x"))
    first, second = text.split("\n\n")
    assert "recall@10" in first
    assert "recall@50" in second
    assert "+1.42 [-0.24, +3.60]" in second


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.text("xyz ", max_size=30), min_size=2),
        min_size=1,
        max_size=4,
    ),
    st.integers(20, 60),
)
def test_however_narrow_every_cell_is_there(rows: list[dict[str, str]], width: int) -> None:
    filled = [{"method": "m", **dict.fromkeys("abcdef", ""), **row} for row in rows]
    text = render(filled, "text", width)
    for row in filled:
        for cell in row.values():
            assert cell.strip() in text


def test_a_column_wider_than_the_terminal_makes_a_line_a_cell() -> None:
    text = render([{"method": "seize", "source": "y" * 30, "p": "0.1"}], "text", 32)
    assert text.splitlines() == ["seize", f"  source: {'y' * 30}", "  p: 0.1"]


def test_a_text_is_wrapped_between_words_for_a_terminal_alone() -> None:
    said = 'circo val, 200 queries: clip_weights "clip", pixels "corrected-and-more".'
    assert wrapped(said, None) == said
    assert fits(wrapped(said, 30), 30)
    assert wrapped(said, 30).replace("\n", " ") == said
