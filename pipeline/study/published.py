"""Published figures (``published.yaml``) beside one's own, with the conditions of each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline import datasets
from pipeline.datasets.reading import read_json
from pipeline.errors import ConfigError, InputError, nearest
from pipeline.printable import one_line
from pipeline.study import tables
from pipeline.study.protocol import COLUMNS, NONE, UNKNOWN, Conditions
from pipeline.study.tables import Format, words
from pipeline.yamls import first_problem, read_yaml

FILE = Path(__file__).resolve().parent / "published.yaml"


class Cost(BaseModel):
    """What a query costs beyond encoders and search, as one source states it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    calls: float | None = Field(None, ge=0)
    """Calls to a language or vision-language model."""
    seconds: float | None = Field(None, ge=0)
    """On the machine of whoever measured it."""
    source: str = "own"


class _Method(BaseModel):
    """What a source says of a method on every benchmark; its absence is ``unknown``."""

    model_config = ConfigDict(extra="forbid")
    conditions: dict[str, str] = {}
    costs: list[Cost] = []


class _Benchmark(BaseModel):
    model_config = ConfigDict(extra="forbid")
    split: str
    metrics: list[str]
    conditions: dict[str, str] = {}
    """Those of every row, such as the size of the one gallery that there is."""
    methods: dict[str, dict[str, str]] = {}
    """Conditions by method, on this benchmark alone."""
    rows: list[tuple[str, str, str, list[float | None]]]
    """Method, backbone, sources, and values in the order of ``metrics``."""


class Published(BaseModel):
    """The content of ``published.yaml``; every row names a source and has a value a metric."""

    model_config = ConfigDict(extra="forbid")
    sources: dict[str, str]
    notes: list[str]
    methods: dict[str, _Method] = {}
    datasets: dict[str, _Benchmark]

    @model_validator(mode="after")
    def _complete(self) -> "Published":
        for dataset, benchmark in self.datasets.items():
            for method, backbone, sources, values in benchmark.rows:
                known = sources.split() and set(sources.split()) <= set(self.sources)
                if not known or len(values) != len(benchmark.metrics):
                    raise ValueError(f"{method} {backbone}: unknown source or missing value")
                self.conditions(dataset, method)
        named = {row[0] for benchmark in self.datasets.values() for row in benchmark.rows}
        told = {*self.methods, *(m for b in self.datasets.values() for m in b.methods)}
        costs = {cost.source for method in self.methods.values() for cost in method.costs}
        if wrong := [*(told - named), *(costs - set(self.sources))]:
            raise ValueError(f"{min(wrong)}: is no method of a row, or no source")
        return self

    def conditions(self, dataset: str, method: str) -> Conditions:
        """Return a published row's conditions; ``unknown`` where its source does not say.

        What a benchmark says of the method goes before what counts for all of its rows, and that
        before what is said of the method everywhere. Raises ValueError for a wrong word.
        """
        benchmark = self.datasets[dataset]
        general = self.methods.get(method, _Method()).conditions
        told = general | benchmark.conditions | benchmark.methods.get(method, {})
        return _conditions(told, f"{dataset}, {method}")

    def costs(self, method: str) -> list[Cost]:
        """Return what sources say a query of the method costs."""
        return self.methods.get(method, _Method()).costs


def _conditions(told: Any, where: str) -> Conditions:
    if not isinstance(told, dict) or not all(isinstance(word, str) for word in told.values()):
        raise ValueError(f"{where}: they are words by condition ({', '.join(COLUMNS)})")
    try:
        return Conditions(**told)
    except (TypeError, ConfigError) as error:
        raise ValueError(f"{where}: {error}") from None


def load(file: Path = FILE) -> Published:
    """Read the figures; raises ConfigError naming the row that is wrong."""
    try:
        return Published.model_validate(read_yaml(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    method: str
    backbone: str
    values: Mapping[str, float | None]
    """By metric, in percent."""
    source: str
    conditions: Conditions
    costs: Sequence[Cost]

    @property
    def line(self) -> dict[str, Any]:
        """The row as columns by name."""
        told = {"method": self.method, "backbone": self.backbone, **self.values}
        return told | self.conditions.cells | {"source": self.source}


def entries(
    published: Published, dataset: str, backbones: Sequence[str], mine: Mapping[str, Path]
) -> list[Entry]:
    """Return the published rows of a benchmark, and one's own after them.

    ``mine`` maps a name, ``NAME`` or ``NAME@BACKBONE``, to a JSON file: see ``_own``. Raises
    ConfigError for an unknown dataset or backbone, InputError for a bad file.
    """
    if dataset not in published.datasets:
        raise ConfigError(
            f"There are no figures for {dataset!r}.{nearest(dataset, published.datasets)}"
        )
    benchmark = published.datasets[dataset]
    known = {backbone for _, backbone, _, _ in benchmark.rows}
    for backbone in backbones:
        if backbone not in known:
            raise ConfigError(f"There is no backbone {backbone!r}.{nearest(backbone, known)}")
    found = [
        Entry(
            method,
            backbone,
            dict(zip(benchmark.metrics, values, strict=True)),
            f"published ({', '.join(sources.split())})",
            published.conditions(dataset, method),
            published.costs(method),
        )
        for method, backbone, sources, values in benchmark.rows
        if not backbones or backbone in backbones
    ]
    return found + [_own(name, file, benchmark.metrics) for name, file in mine.items()]


def where(found: Sequence[Entry], wanted: Mapping[str, str]) -> list[Entry]:
    """Return the rows of which the conditions are as ``wanted``, by field; raises ConfigError."""
    for field in wanted:
        if field not in COLUMNS:
            raise ConfigError(f"There is no condition {field!r}.{nearest(field, COLUMNS)}")
    kept = [
        entry
        for entry in found
        if all(getattr(entry.conditions, field) == word for field, word in wanted.items())
    ]
    if not kept:
        told = ", ".join(f"{field}={word}" for field, word in wanted.items())
        raise ConfigError(f"No row is known to have {told}.")
    return kept


def ranked(dataset: str, found: Sequence[Entry], metric: str, mixed: bool) -> list[Entry]:
    """Return the rows of a dataset that have ``metric``, the best first.

    Raises ConfigError where their conditions differ or are not known, unless ``mixed``: a rank says
    that one method is better than another, and such figures do not say so.
    """
    known = list(dict.fromkeys(m for entry in found for m in entry.values))
    if metric not in known:
        raise ConfigError(f"There is no metric {metric!r} here.{nearest(metric, known)}")
    having = [entry for entry in found if entry.values.get(metric) is not None]
    differing = {}
    for field, heading in COLUMNS.items():
        words = dict.fromkeys(getattr(entry.conditions, field) for entry in having)
        if len(words) > 1 or UNKNOWN in words:
            differing[heading] = ", ".join(words)
    if differing and not mixed:
        told = "; ".join(f"{heading}: {words}" for heading, words in differing.items())
        raise ConfigError(
            "These rows were not measured under one protocol, or it is not known, so they have no "
            f"order ({one_line(told)}). Choose some with --where CONDITION=WORD, or add --mixed."
        )
    worth = datasets.find(dataset).worth
    return sorted(having, key=lambda entry: -worth(metric, entry.values[metric] or 0.0))


def table(
    dataset: str, backbones: Sequence[str], mine: Mapping[str, Path]
) -> tuple[pd.DataFrame, Published]:
    """Return method, backbone, metrics in percent, conditions and source, a line a method.

    One's own are last; see ``entries``.
    """
    published = load()
    return frame(entries(published, dataset, backbones, mine)), published


def frame(found: Sequence[Entry]) -> pd.DataFrame:
    """Return the rows as a frame."""
    return pd.DataFrame([entry.line for entry in found])


def _own(name: str, file: Path, metrics: Sequence[str]) -> Entry:
    """Return one's own row, from a JSON object of percentages by metric.

    It is what ``seize evaluate --json`` prints, or what the evaluation server answers, and may have
    ``conditions`` (as ``seize compare --json`` tells them) and ``cost`` (calls and seconds a query)
    beside them. Raises InputError naming the file.
    """
    method, _, backbone = name.partition("@")
    content = read_json(file)
    if not isinstance(content, dict) or not any(metric in content for metric in metrics):
        raise InputError(f"{file} must map metrics such as {metrics[0]!r} to percentages.")
    for metric in metrics:
        value = content.get(metric)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value <= 100):
            raise InputError(
                f"{file}: {metric!r} is {value!r}, not a percentage: give a number from 0 to 100."
            )
    try:
        conditions = _conditions(content.get("conditions", {}), "conditions")
        costs = [Cost.model_validate(content["cost"])] if "cost" in content else []
    except ValidationError as error:
        raise InputError(f"{file}: cost: {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None
    values = {metric: content.get(metric) for metric in metrics}
    return Entry(method, backbone, values, str(file), conditions, costs)


def render(
    dataset: str, frame: pd.DataFrame, published: Published, form: Format, width: int | None = None
) -> str:
    """Return the table as text with its sources and the notes that tell what figures depend on.

    A condition that none of the rows has, or all have alike, is told once below it. ``width`` is
    the terminal's, see ``tables.render``.
    """
    if form == "csv":
        return tables.csv(frame).rstrip()
    metrics = published.datasets[dataset].metrics
    alike = {
        heading: frame[heading].iloc[0]
        for heading in COLUMNS.values()
        if frame[heading].nunique() == 1
    }
    filled = frame.drop(columns=list(alike)).assign(
        **{
            metric: ["" if pd.isna(value) else f"{float(value):.2f}" for value in frame[metric]]
            for metric in metrics
        }
    )
    text = tables.render(filled.to_dict(orient="records"), form, width)  # type: ignore[arg-type]
    split = published.datasets[dataset].split
    told = ", ".join(f"{heading} {word}" for heading, word in alike.items() if word != NONE)
    notes = [f"{dataset} {split}, percent{'; ' if told else ''}{told}. Sources:"]
    cited = set(re.findall(r"\w+", " ".join(frame["source"])))
    notes += [f"{name}: {source}" for name, source in published.sources.items() if name in cited]
    notes += [f"Note: {note}" for note in published.notes]
    start = "% " if form == "latex" else ""
    return text + "\n\n" + "\n".join(start + words(note, form) for note in notes)
