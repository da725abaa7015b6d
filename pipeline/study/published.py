"""Published figures (``published.yaml``) beside one's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.datasets.reading import read_json
from pipeline.errors import ConfigError, InputError, nearest
from pipeline.study import tables
from pipeline.study.tables import Format, words
from pipeline.yamls import first_problem, read_yaml

FILE = Path(__file__).resolve().parent / "published.yaml"


class _Benchmark(BaseModel):
    model_config = ConfigDict(extra="forbid")
    split: str
    metrics: list[str]
    rows: list[tuple[str, str, str, list[float | None]]]
    """Method, CLIP backbone, sources, and values in the order of ``metrics``."""


class Published(BaseModel):
    """The content of ``published.yaml``; every row names a source and has a value a metric."""

    model_config = ConfigDict(extra="forbid")
    sources: dict[str, str]
    notes: list[str]
    datasets: dict[str, _Benchmark]

    @model_validator(mode="after")
    def _complete(self) -> "Published":
        for benchmark in self.datasets.values():
            for method, backbone, sources, values in benchmark.rows:
                known = sources.split() and set(sources.split()) <= set(self.sources)
                if not known or len(values) != len(benchmark.metrics):
                    raise ValueError(f"{method} {backbone}: unknown source or missing value")
        return self


def load(file: Path = FILE) -> Published:
    """Read the figures; raises ConfigError naming the row that is wrong."""
    try:
        return Published.model_validate(read_yaml(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from None


def table(
    dataset: str, backbones: Sequence[str], mine: Mapping[str, Path]
) -> tuple[pd.DataFrame, Published]:
    """Return method, backbone, metrics in percent and source, a line a method; one's own last.

    ``mine`` maps a name, ``NAME`` or ``NAME@BACKBONE``, to a JSON file of metric to percentage, as
    ``seize evaluate --json`` prints it or the evaluation server answers. Raises ConfigError for an
    unknown dataset or backbone, InputError for a bad file.
    """
    published = load()
    if dataset not in published.datasets:
        raise ConfigError(
            f"There are no figures for {dataset!r}.{nearest(dataset, published.datasets)}"
        )
    benchmark = published.datasets[dataset]
    known = {backbone for _, backbone, _, _ in benchmark.rows}
    for backbone in backbones:
        if backbone not in known:
            raise ConfigError(f"There is no backbone {backbone!r}.{nearest(backbone, known)}")
    lines: list[dict[str, Any]] = [
        {"method": method, "backbone": backbone}
        | dict(zip(benchmark.metrics, values, strict=True))
        | {"source": f"published ({', '.join(sources.split())})"}
        for method, backbone, sources, values in benchmark.rows
        if not backbones or backbone in backbones
    ]
    for name, file in mine.items():
        method, _, backbone = name.partition("@")
        metrics = _read(file, benchmark.metrics)
        lines.append({"method": method, "backbone": backbone} | metrics | {"source": str(file)})
    return pd.DataFrame(lines), published


def _read(file: Path, metrics: Sequence[str]) -> dict[str, float | None]:
    content = read_json(file)
    if not isinstance(content, dict) or not any(metric in content for metric in metrics):
        raise InputError(f"{file} must map metrics such as {metrics[0]!r} to percentages.")
    for metric in metrics:
        value = content.get(metric)
        if value is not None and (not isinstance(value, int | float) or not 0 <= value <= 100):
            raise InputError(
                f"{file}: {metric!r} is {value!r}, not a percentage: give a number from 0 to 100."
            )
    return {metric: content.get(metric) for metric in metrics}


def render(dataset: str, frame: pd.DataFrame, published: Published, form: Format) -> str:
    """Return the table as text with its sources and the notes that tell what figures depend on."""
    if form == "csv":
        return tables.csv(frame).rstrip()
    metrics = published.datasets[dataset].metrics
    filled = frame.assign(
        **{
            metric: ["" if pd.isna(value) else f"{float(value):.2f}" for value in frame[metric]]
            for metric in metrics
        }
    )
    text = tables.render(filled.to_dict(orient="records"), form)  # type: ignore[arg-type]
    split = published.datasets[dataset].split
    notes = [f"{dataset} {split}, percent. Sources:"]
    notes += [f"{name}: {source}" for name, source in published.sources.items()]
    notes += [f"Note: {note}" for note in published.notes]
    start = "% " if form == "latex" else ""
    return text + "\n\n" + "\n".join(start + words(note, form) for note in notes)
