"""Tables that leave the program, as text, CSV, Markdown or LaTeX.

Names and settings in them may come from other people's files, and the programs that open a table
obey what they find there: formulas in spreadsheets, commands in LaTeX, markup on web pages, escape
sequences in terminals. Here they all become plain words.
"""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from tabulate import tabulate

from pipeline.printable import one_line

Format = Literal["text", "csv", "markdown", "latex"]
FORMATS: tuple[Format, ...] = ("text", "csv", "markdown", "latex")
STYLES = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}

MISSING = "–"
"""What stands for a figure that there is none of."""

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet would compute (OWASP: CSV injection)."""
MARKDOWN = re.compile(r"([\\`*\[\]|])")


def csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV; a text that begins as formulas do has an apostrophe before it."""
    safe = frame.rename(columns=no_formula)
    for place, kind in enumerate(safe.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe.isetitem(place, [no_formula(value) for value in safe.iloc[:, place]])
    return str(safe.to_csv(index=False))


def no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    steers = FORMULA.match(value) or value.startswith(("\t", "\r"))
    return one_line(f"'{value}" if steers else value)


def words(value: Any, form: Format) -> str:
    """Return a name or setting as plain words on one line; LaTeX's are for a comment."""
    text = one_line(str(value))
    if form == "markdown":
        return MARKDOWN.sub(r"\\\1", html.escape(text, quote=False))
    return text


def render(lines: Sequence[Mapping[str, Any]], form: Format) -> str:
    """Return lines of columns by name as a table that people read."""
    safe = [{words(k, form): words(v, form) for k, v in line.items()} for line in lines]
    # For LaTeX, tabulate itself escapes what is special there.
    return tabulate(
        safe, headers="keys", tablefmt=STYLES[form], disable_numparse=True, stralign="left"
    )


def percent(value: float) -> str:
    """Return a figure in percent, or what stands for none."""
    return MISSING if pd.isna(value) else f"{float(value):.2f}"
