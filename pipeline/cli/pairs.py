"""Options whose values are pairs: files that are rows of a table, among others."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.datasets.base import Dataset
    from pipeline.study.compare import Row


class Pair(click.ParamType[tuple[str, str], str]):
    """Two texts joined by an equals sign, such as ``NAME=FILE``."""

    name = "pair"

    def convert(self, value: Any, *context: Any) -> tuple[str, str]:
        """Return the two texts; fails where one of them is missing."""
        first, equals, second = value.partition("=")
        if not (first and equals and second):
            form = getattr(context[0] if context else None, "metavar", None) or "NAME=VALUE"
            self.fail(f"{value!r} is not {form}.", *context)
        return first, second


others_option = click.option(
    "--with",
    "others",
    multiple=True,
    type=Pair(),
    metavar="NAME=FILE[,FILE]",
    help="another row: a ranking (cache/…/search/*.jsonl) or predictions as in a submission",
)


def rows_of_files(dataset: "Dataset", pairs: Iterable[tuple[str, str]]) -> "list[Row]":
    """Return a row for each name and its files; raises InputError for one that cannot be used."""
    from pipeline.study.compare import row_of_files

    return [row_of_files(dataset, name, [Path(f) for f in told.split(",")]) for name, told in pairs]
