"""One table of validation metrics, a ranking a row: intervals and tests of their differences."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import interval, resample
from pipeline.datasets.reading import Predictions, read_json
from pipeline.errors import ConfigError, InputError, MissingStageError, nearest
from pipeline.printable import one_line
from pipeline.records import Ranking
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import search
from pipeline.stages.evaluate import predictions_of_files
from pipeline.stages.inputs import ready
from pipeline.store.jsonl import RecordFile, read_header
from pipeline.study import protocol, tables
from pipeline.study.protocol import UNTOLD, Conditions
from pipeline.study.significance import contributions, holm, randomisation_test
from pipeline.study.tables import MISSING, Format, percent, words

BEST = "best"
"""Stands for the row that is best at the metric that is compared."""
UNKNOWN = "unknown"
"""What is shown of a setting that a ranking does not tell; it differs from every setting."""


@dataclass(frozen=True)
class Row:
    """One ranking of a split: each metric's value in [0, 1] by query, and how it was made."""

    name: str
    values: Mapping[str, Mapping[str, float]]
    protocol: Mapping[str, Any] | None
    """The choices that make figures differ (``Run.protocol``), None where nothing tells."""
    conditions: Conditions = UNTOLD
    """What a reader has to know beside its figures."""
    lists: Mapping[str, Predictions] = field(default_factory=dict, repr=False)
    """The prediction lists themselves, by kind."""


def rows_of_run(run: Run) -> list[Row]:
    """Return a row for each of the run's methods; MissingStageError names those not searched."""
    found, missing = [], []
    for name in ready(run):
        one = run.with_method(name)
        try:
            lists = run.dataset.predictions(search.read(one))
        except MissingStageError:
            missing.append(name)
            continue
        values = run.dataset.per_query(lists)
        found.append(Row(name, values, run.protocol, protocol.of_run(one), lists))
    if missing:
        first = run.with_method(missing[0])
        alike = [name for name in missing if run.with_method(name).verified == first.verified]
        raise run.with_method(methods.join(alike)).missing(
            "verify" if first.verified else "search",
            search.ranking_file(first).file,
            f"No ranking by {missing[0]}",
        )
    return found


def row_of_files(dataset: Dataset, name: str, files: Sequence[Path]) -> Row:
    """Return the row of a ranking of the search stage (.jsonl), or of submission-shaped files.

    The protocol is read from the ranking's header, or from the ``.config.json`` beside the file.
    """
    first = files[0]
    if first.suffix == ".jsonl":
        rankings, header = read_ranking(first)
        lists = dataset.predictions(rankings)
    else:
        sidecar = first.with_suffix(".config.json")
        lists = predictions_of_files(dataset, files)
        content = read_json(sidecar) if sidecar.exists() else {}
        found = content.get("search", {}) if isinstance(content, dict) else None
        if not isinstance(found, dict):
            raise InputError(f"{sidecar}: 'search' must say how the submission was made.")
        header = found
    try:
        made = protocol_of(header, first)
        told = protocol.seen(protocol.of_header(dataset, header), dataset, lists)
        return Row(name, dataset.per_query(lists), made, told, lists)
    except InputError as error:
        raise InputError(f"{', '.join(map(str, files))}: {error}") from None


def protocol_of(header: Mapping[str, Any], file: Path) -> Mapping[str, Any] | None:
    """Return the protocol in a ranking's header, None where there is none; raises InputError."""
    found = header.get("protocol")
    if not isinstance(found, dict | None):
        raise InputError(f"{file}: 'protocol' in its header must hold settings by name.")
    return found


def read_ranking(file: Path) -> tuple[list[Ranking], dict[str, Any]]:
    """Return the rankings of a file of the search stage and its header; raises InputError."""
    header = read_header(file)
    if header.get("stage") != "search":
        raise InputError(
            f"{file} is not a ranking of the search stage: give one of cache/…/search/*.jsonl, or "
            "predictions as in a submission."
        )
    return search.rankings_in(RecordFile(file, header)), header


def check_protocols(rows: Sequence[Row], mixed: bool) -> dict[str, list[Any]]:
    """Return the protocol's fields with the rows' values; raises ConfigError where they differ."""
    known = [row.protocol or {} for row in rows]
    fields = list(dict.fromkeys(field for made in known for field in made))
    values = {field: [made.get(field, UNKNOWN) for made in known] for field in fields}
    differing = [
        field
        for field, found in values.items()
        if any(field not in made for made in known) or any(v != found[0] for v in found)
    ]
    if differing and not mixed:
        told = "; ".join(
            f"{field}: "
            + ", ".join(
                f"{row.name} {json.dumps(value)}"
                for row, value in zip(rows, values[field], strict=True)
            )
            for field in differing
        )
        raise ConfigError(
            f"These rankings were not made under one protocol, so their figures cannot be "
            f"compared: {one_line(told)}. To see them in one table all the same, add --mixed."
        )
    return values


def baseline_of(dataset: Dataset, rows: Sequence[Row], asked: str | None, metric: str = "") -> str:
    """Return the row that the others are compared with: the first one unless ``asked``.

    ``best`` is the row that is best at ``metric``, the benchmark's headline by default. Raises
    ConfigError for a row that there is not.
    """
    names = [row.name for row in rows]
    if asked is None or asked in names:
        return asked or names[0]
    if asked != BEST:
        raise ConfigError(f"There is no row {asked!r} to compare with.{nearest(asked, names)}")
    once = np.ones((1, len(dataset.queries)))
    metric = metric or dataset.headline
    values = {row.name: dataset.means(row.values, once).get(metric) for row in rows}
    known = {name: float(value[0]) for name, value in values.items() if value is not None}
    if not known:
        raise ConfigError(f"No row has {metric}, so none is the best: name one with --baseline.")
    return max(known, key=lambda name: dataset.worth(metric, known[name]))


def check_names(rows: Sequence[Row]) -> None:
    """Raise ConfigError for two rows of one name."""
    counts = Counter(row.name for row in rows)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise ConfigError(
            f"Two rows are called {twice!r}. Give a file's row another name: --with NAME=FILE."
        )


def compare(
    dataset: Dataset,
    rows: Sequence[Row],
    baseline: str,
    resamples: int = 2000,
    seed: int = 0,
    permutations: int = 10_000,
) -> pd.DataFrame:
    """Return every metric of every row with 95 % intervals, one line a row and metric.

    Columns: method, metric, value, low, high (percent); difference, difference_low,
    difference_high (percentage points) against ``baseline`` by the paired bootstrap: queries
    (sessions, where they are turns) are resampled within their stratum, the same ones for both; p,
    that of Fisher's randomisation test of the difference, and p_holm, corrected for as many rows as
    are compared in this metric. Raises ConfigError for an unknown row, or two of one name.
    """
    check_names(rows)
    names = [row.name for row in rows]
    baseline = baseline_of(dataset, rows, baseline)
    weights = resample(dataset.strata(), dataset.units, resamples, seed)
    once = np.ones((1, len(dataset.queries)))
    exact = {row.name: dataset.means(row.values, once) for row in rows}
    sampled = {row.name: dataset.means(row.values, weights) for row in rows}
    chances = _chances(dataset, rows, baseline, permutations, seed)
    lines = []
    for name in names:
        for metric, value in exact[name].items():
            low, high = interval(sampled[name][metric])
            line = {"method": name, "metric": metric, "value": value[0], "low": low, "high": high}
            if metric in exact[baseline]:
                base = sampled[baseline][metric]
                low, high = interval(sampled[name][metric] - base)
                line |= {
                    "difference": value[0] - exact[baseline][metric][0],
                    "difference_low": low,
                    "difference_high": high,
                }
            p, corrected = chances.get((name, metric), (None, None))
            lines.append(line | {"p": p, "p_holm": corrected})
    numbers = {"p": "float64", "p_holm": "float64"}
    return pd.DataFrame(lines).astype(numbers)


def _chances(
    dataset: Dataset, rows: Sequence[Row], baseline: str, permutations: int, seed: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return p and its correction by row and metric, of what row and baseline both have."""
    shares = {row.name: contributions(dataset, row.values) for row in rows}
    base = shares.pop(baseline)
    pairs = [(name, m) for name, own in shares.items() for m in own if m in base]
    if not pairs:
        return {}
    differences = np.stack([shares[name][m] - base[m] for name, m in pairs], axis=1)
    found = dict(zip(pairs, randomisation_test(differences, permutations, seed), strict=True))
    corrected: dict[tuple[str, str], tuple[float, float]] = {}
    for metric in base:
        family = [pair for pair in pairs if pair[1] == metric]
        p = [float(found[pair]) for pair in family]
        corrected |= dict(zip(family, zip(p, holm(p), strict=True), strict=True))
    return corrected


def shown(dataset: Dataset, metrics: Sequence[str], found: pd.DataFrame) -> list[str]:
    """Return the metrics to show: those asked for, or all but the parts of others.

    Raises ConfigError for a metric that the table does not have.
    """
    known = list(dict.fromkeys(found["metric"]))
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"{dataset.name} has no metric {metric!r}.{nearest(metric, known)}")
    return list(metrics) or [metric for metric in known if "/" not in metric]


def render(
    dataset: Dataset,
    found: pd.DataFrame,
    rows: Sequence[Row],
    settings: Mapping[str, Sequence[Any]],
    baseline: str,
    metrics: Sequence[str],
    form: Format,
    width: int | None = None,
) -> str:
    """Return the table as text: wide for people, one line a row and metric (tidy) for CSV.

    Every row tells its ``Conditions``; of ``settings`` (``check_protocols``) those that differ are
    columns too, the others stand below. Where a terminal of ``width`` characters is narrower, the
    conditions that all rows have alike stand below as well, and the columns in several tables.
    """
    names = list(dict.fromkeys(found["method"]))
    conditions = {row.name: row.conditions for row in rows}
    if form == "csv":
        made = found
        for field in protocol.COLUMNS:
            told = {name: getattr(conditions[name], field) for name in names}
            made = made.assign(**{field: found["method"].map(told)})
        for field, values in settings.items():
            of = dict(zip(names, values, strict=True))
            made = made.assign(**{_column(field, found.columns): found["method"].map(of)})
        return tables.csv(made)
    columns = shown(dataset, metrics, found)
    main = metrics[0] if metrics else dataset.headline
    wide = found.pivot(index="method", columns="metric", values="value")
    cells = found.set_index(["method", "metric"])
    differing = {f: v for f, v in settings.items() if any(value != v[0] for value in v)}
    tested = (f"{main} against {baseline}", "p", "p (Holm)")
    lines: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        line: dict[str, Any] = {"method": name}
        own = {metric: percent(wide[metric][name]) for metric in columns}
        against, *chances = MISSING, MISSING, MISSING
        if name == baseline:
            against, *chances = "", "", ""
        elif (name, main) in cells.index:
            cell = cells.loc[(name, main)]
            against, chances = difference(cell), [chance(cell["p"]), chance(cell["p_holm"])]
        own |= dict(zip(tested, (against, *chances), strict=True))
        more = {f: values[number] for f, values in differing.items() if f not in protocol.TOLD}
        told = {_column(f, ["method", *own]): value for f, value in more.items()}
        lines.append(line | told | own | conditions[name].cells)
    table, alike = tables.render(lines, form), ""
    if form == "text" and not tables.fits(table, width):
        lines, alike = _without_alike(lines, [conditions[name] for name in names])
        table = tables.render(lines, form, width, tested)
    same = {field: values[0] for field, values in settings.items() if field not in differing}
    note = _note(dataset, same, form) + alike
    if form == "latex":
        return f"{table}\n% {note}"
    return f"{table}\n\n{tables.wrapped(note, width) if form == 'text' else note}"


def _without_alike(
    lines: Sequence[dict[str, Any]], conditions: Sequence[Conditions]
) -> tuple[list[dict[str, Any]], str]:
    """Return lines without the conditions that all rows have alike, and a sentence with these."""
    first, *others = (one.cells for one in conditions)
    alike = {name: word for name, word in first.items() if all(o[name] == word for o in others)}
    kept = [{name: cell for name, cell in line.items() if name not in alike} for line in lines]
    told = ", ".join(f"{name} {word}" for name, word in alike.items() if word != protocol.NONE)
    return kept, f" All rows: {told}." if told else ""


def _column(field: str, taken: Iterable[str]) -> str:
    """Return the name of a setting's column, which other columns do not have."""
    return f"protocol.{field}" if field in set(taken) else field


def difference(cell: Any) -> str:
    """Return a cell's difference against the baseline, with its interval, where there is one."""
    low, high = cell["difference_low"], cell["difference_high"]
    if pd.isna(cell["difference"]):
        return MISSING
    return f"{cell['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def chance(p: float) -> str:
    """Return a p-value with four digits, or what stands for none."""
    return MISSING if pd.isna(p) else f"{p:.4f}"


def _note(dataset: Dataset, settings: Mapping[str, Any], form: Format) -> str:
    said = ", ".join(
        words(f"{field} {json.dumps(value)}", form) for field, value in settings.items()
    )
    return (
        f"{dataset.name} {dataset.split}, {len(dataset.queries)} queries, percent; "
        "in brackets 95 % intervals of the paired bootstrap; p of Fisher's randomisation test, "
        f"two-sided, and corrected for all rows by Holm. Protocol: {said or UNKNOWN}."
    )
