"""Tables that leave the program, as text, CSV, Markdown or LaTeX.

Names and settings in them may come from other people's files, and the programs that open a table
obey what they find there: formulas in spreadsheets, commands in LaTeX, markup on web pages, escape
sequences in terminals. Here they all become plain words.
"""

import html
import re
import textwrap
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


def render(
    lines: Sequence[Mapping[str, Any]],
    form: Format,
    width: int | None = None,
    together: Sequence[str] = (),
) -> str:
    """Return lines of columns by name as a table that people read.

    A text for a terminal of ``width`` characters that is wider becomes several tables, one above
    the other, each of which begins with the first column; the columns ``together`` stay in one
    table where they fit.
    """
    safe = [{words(k, form): words(v, form) for k, v in line.items()} for line in lines]
    whole = _table(safe, form)
    return whole if fits(whole, width) or form != "text" else _stacked(safe, width or 0, together)


def fits(text: str, width: int | None) -> bool:
    """Return whether no line of a text is wider than a terminal; None is any width."""
    return width is None or all(len(line) <= width for line in text.splitlines())


def wrapped(text: str, width: int | None) -> str:
    """Return a text in lines of at most ``width`` characters, where words are not longer."""
    if width is None:
        return text
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _table(safe: Sequence[Mapping[str, str]], form: Format) -> str:
    # For LaTeX, tabulate itself escapes what is special there.
    return tabulate(
        safe, headers="keys", tablefmt=STYLES[form], disable_numparse=True, stralign="left"
    )


def _stacked(safe: Sequence[Mapping[str, str]], width: int, together: Sequence[str]) -> str:
    """Return as few tables as fit; where not even two columns do, a line a cell."""
    first, *others = dict.fromkeys(name for line in safe for name in line)
    units = [[name] for name in others if name not in together]
    if kept := [name for name in others if name in together]:
        own = fits(_part(safe, [first, *kept]), width)
        place = sum(name not in together for name in others[: others.index(kept[0])])
        units[place:place] = [kept] if own else [[name] for name in kept]
    blocks: list[list[str]] = []
    for unit in units:
        if blocks and fits(_part(safe, [first, *blocks[-1], *unit]), width):
            blocks[-1] += unit
        else:
            blocks.append([*unit])
    parts = [_part(safe, [first, *block]) for block in blocks]
    if all(fits(part, width) for part in parts):
        return "\n\n".join(parts)
    told = [
        "\n".join([line.get(first, ""), *(f"  {name}: {line.get(name, '')}" for name in others)])
        for line in safe
    ]
    return "\n\n".join(told)


def _part(safe: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    """Return a table of some columns; headings that are wider than their cells have more lines."""
    columns = {}
    for name in names:
        cells = [line.get(name, "") for line in safe]
        columns[wrapped(name, max(map(len, [*cells, *name.split()])))] = cells
    return tabulate(columns, "keys", STYLES["text"], disable_numparse=True, stralign="left")


def percent(value: float) -> str:
    """Return a figure in percent, or what stands for none."""
    return MISSING if pd.isna(value) else f"{float(value):.2f}"
