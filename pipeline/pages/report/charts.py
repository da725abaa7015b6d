"""The figures above the gallery of queries: metrics, parts of them, and the map of a tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from pipeline.errors import InputError
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.study.tune import identity, label, weights_of

DARK = 0.55
"""Luminance below which a cell of the map is labelled in white."""


@dataclass(frozen=True)
class Figure:
    """One metric of one ranking, in percent, with its 95 % interval."""

    value: float
    low: float
    high: float
    difference: tuple[float, float, float] | None
    """Against the first ranking, in percentage points, with its interval; None for the first."""
    p: float | None = None
    """That of Fisher's randomisation test of the difference; None for the first ranking."""


@dataclass(frozen=True)
class Line:
    """One metric, a figure each ranking."""

    label: str
    figures: list[Figure]


def lines(found: pd.DataFrame, headline: str) -> tuple[list[Line], dict[str, list[Line]]]:
    """Return the metrics, the headline first, and the parts of metrics by the metric's name.

    ``found`` is what ``compare.compare`` returns with the first ranking as its baseline.
    """
    whole: list[Line] = []
    parts: dict[str, list[Line]] = {}
    for name, rows in found.groupby("metric", sort=False):
        metric, slash, part = str(name).partition("/")
        figures = [
            _figure(row, is_first=number == 0)
            for number, row in enumerate(rows.to_dict(orient="records"))
        ]
        line = Line(part.replace("_", " ") if slash else metric, figures)
        (parts.setdefault(metric, []) if slash else whole).append(line)
    whole.sort(key=lambda line: line.label != headline)
    return whole, parts


def _figure(row: dict[Any, Any], is_first: bool) -> Figure:
    names = ("difference", "difference_low", "difference_high")
    difference = None if is_first else tuple(float(row[name]) for name in names)
    p = None if is_first else float(row["p"])
    return Figure(row["value"], row["low"], row["high"], difference, p)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Cell:
    """One cell of the map; ``column`` and ``row`` count from 0."""

    column: int
    row: int
    value: float
    fill: str
    ink: str
    is_best: bool
    is_own: bool
    """Whether the ranking that is reported was made with these values."""


@dataclass(frozen=True)
class HeatMap:
    """A metric in percent over one or two of a method's parameters."""

    metric: str
    across: str
    columns: list[str]
    down: str | None
    rows: list[str]
    cells: list[Cell]
    best: dict[str, float]
    """Every parameter at the best cell of the whole table."""
    best_value: float
    fixed: dict[str, float]
    """Parameters that vary too, at the best values of which the map is cut out."""


def newest_tuning(run: Run, folder: Path) -> Path | None:
    """Return the newest table that ``seize tune`` wrote into ``folder`` about this very run."""
    method = methods.in_file_names(run.config.search.method)
    stem = f"tune-{run.name}-{method}-{'[0-9a-f]' * 12}.csv"
    files = sorted(folder.glob(stem), key=lambda file: file.stat().st_mtime, reverse=True)
    return next((file for file in files if _is_of(run, file)), None)


def can_be_tuned(run: Run) -> bool:
    """Return whether `seize tune` would take this run: its method has weights, its split is one
    to tune on."""
    tunable = run.verified or bool(methods.find(run.config.search.method).tuned)
    return tunable and run.dataset.for_tuning


def _is_of(run: Run, file: Path) -> bool:
    try:
        table = _read(run, file)
    except InputError:
        return False
    of = identity(run, _parameters(run, table))
    return "run" in table and bool((table["run"] == of).all())


def _read(run: Run, file: Path) -> pd.DataFrame:
    try:
        # A fingerprint may look like a number (2357462e0301), and is none.
        table = pd.read_csv(file, dtype={"run": str})
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as CSV: {error}") from None
    names = _parameters(run, table)
    if table.empty or not names or not all(map(is_numeric_dtype, (table[n] for n in names))):
        method = run.config.search.method
        raise InputError(
            f"{file} is not a table of `seize tune` for {method}: give a CSV that it wrote."
        )
    if not np.isfinite(table[names].to_numpy(float)).all():
        raise InputError(f"{file} has cells of {', '.join(names)} that are no finite numbers.")
    return table


def _parameters(run: Run, table: pd.DataFrame) -> list[str]:
    known = weights_of(run)
    return [str(name) for name in table if name in known]


def heat_map(run: Run, file: Path) -> HeatMap:
    """Return the map of a table that ``seize tune`` wrote; InputError where it is none.

    Where more than two parameters vary, the first two are shown, at the best of the others.
    """
    table = _read(run, file)
    metric = run.dataset.headline
    if metric not in table or not is_numeric_dtype(table[metric]):
        raise InputError(
            f"{file} has no figures of {metric}; it is not about {run.dataset.name}: give a CSV "
            "that `seize tune` wrote for it."
        )
    names = _parameters(run, table)
    best_row = table.iloc[int(table[metric].to_numpy().argmax())]
    varying = [name for name in names if table[name].nunique() > 1] or names[:1]
    *down, across = varying[:2]
    fixed = {name: float(best_row[name]) for name in varying[2:]}
    for name, value in fixed.items():
        table = table[table[name] == value]
    values = {name: sorted(table[name].unique()) for name in varying[:2]}
    own = weights_of(run)
    cells = []
    for record in table.to_dict(orient="records"):
        fill, ink = _colours(float(record[metric]), table[metric])
        cells.append(
            Cell(
                column=values[across].index(record[across]),
                row=values[down[0]].index(record[down[0]]) if down else 0,
                value=float(record[metric]),
                fill=fill,
                ink=ink,
                is_best=all(record[name] == best_row[name] for name in varying),
                is_own=all(abs(record[name] - own[name]) < 1e-12 for name in names),
            )
        )
    return HeatMap(
        metric=metric,
        across=label(run, across),
        columns=_labels(values[across]),
        down=label(run, down[0]) if down else None,
        rows=_labels(values[down[0]]) if down else [""],
        cells=cells,
        best={label(run, name): float(best_row[name]) for name in names},
        best_value=float(best_row[metric]),
        fixed={label(run, name): value for name, value in fixed.items()},
    )


def _labels(values: Sequence[float]) -> list[str]:
    return [f"{value:g}" for value in values]


def _colours(value: float, among: "pd.Series[float]") -> tuple[str, str]:
    """Return a cell's colour of the map viridis, and the colour of text that is legible on it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    low, high = among.min(), among.max()
    red, green, blue, _ = colormaps["viridis"]((value - low) / (high - low) if high > low else 1.0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return to_hex((red, green, blue)), "#ffffff" if luminance < DARK else "#000000"
