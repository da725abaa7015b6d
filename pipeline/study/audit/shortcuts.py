"""Queries that one modality solves, and what methods are worth on the others.

After Attimonelli et al., *Do Composed Image Retrieval Benchmarks Require Multimodal Composition?*
(arXiv 2605.14787): a query is shortcut-solvable if its target is within the first k (10 there) of a
ranking by the reference image alone or by the text alone, of any of the retrievers that are asked;
composition required if it is not, but some method that reads both finds it; unresolved if nothing
does. As published, 32.2 to 83.6 % of four benchmarks' queries are shortcut-solvable by eleven
retrievers. Here the retrievers are the rankings given, so a share is one of *these* rankings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.base import Dataset
from pipeline.datasets.metrics import interval, resample
from pipeline.records import Query
from pipeline.study.compare import Row
from pipeline.study.tables import MISSING

FIRST = 10
"""The k of arXiv 2605.14787."""

Label = Literal["shortcut-solvable", "composition required", "unresolved"]
Part = Literal["all", "shortcut-solvable", "rest"]
PARTS: tuple[Part, ...] = ("all", "shortcut-solvable", "rest")


@dataclass(frozen=True)
class Value:
    """A figure in percent with its 95 % interval; NaN where there is nothing to measure."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the figure as people read it."""
        if np.isnan(self.value):
            return MISSING
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Shortcuts:
    """Which queries one modality solves, and every method's metrics with and without them."""

    first: int
    metric: str
    """The benchmark's headline."""
    singles: dict[str, Value]
    """Share of queries that each single-modality row solves."""
    labels: dict[str, Label]
    """By query id."""
    shares: dict[Label, Value]
    chance: float
    """Share that a ranking at random would solve, in percent."""
    counts: dict[Part, int]
    metrics: dict[str, dict[str, dict[Part, Value]]]
    """By row, metric and part of the queries; the single-modality rows are rows, too."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figures mean, for below the table."""
        return (
            f"Shortcut-solvable: the target is within the first {self.first} of a ranking by one "
            f"modality ({', '.join(self.singles)}); after arXiv 2605.14787, which publishes 32.2 "
            "to 83.6 % for eleven retrievers together.",
            "The rest is what these rankings miss, so they are at or near 0 on it by definition.",
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "first": self.first,
            "singles": {name: vars(value) for name, value in self.singles.items()},
            "shares": {label: vars(value) for label, value in self.shares.items()},
            "chance": self.chance,
            "counts": self.counts,
            "metrics": {
                name: {m: {p: vars(v) for p, v in parts.items()} for m, parts in metrics.items()}
                for name, metrics in self.metrics.items()
            },
            "labels": self.labels,
        }


def targets(query: Query) -> tuple[str, ...]:
    """Return what solves a query: its single target, or any relevant image where it has none."""
    return query.relevant if query.target is None else (query.target,)


def solved(dataset: Dataset, row: Row, first: int) -> set[str]:
    """Return the queries of which a target is within the first images of the row's whole lists."""
    lists = row.lists[dataset.kinds[0]]
    return {
        query.id
        for query in dataset.queries
        if not set(targets(query)).isdisjoint(lists[query.id][:first])
    }


def shortcuts(
    dataset: Dataset,
    singles: Sequence[Row],
    rows: Sequence[Row],
    first: int = FIRST,
    resamples: int = 2000,
) -> Shortcuts:
    """Label every query, and measure every row on all queries, the shortcut-solvable, the rest."""
    alone = {row.name: solved(dataset, row, first) for row in singles}
    together = {row.name: solved(dataset, row, first) for row in rows}
    by_one: set[str] = set().union(*alone.values())
    by_both: set[str] = set().union(*together.values())
    labels: dict[str, Label] = {
        query.id: "shortcut-solvable"
        if query.id in by_one
        else "composition required"
        if query.id in by_both
        else "unresolved"
        for query in dataset.queries
    }
    weights = resample(dataset.strata(), dataset.units, resamples)

    def share(names: set[str]) -> Value:
        inside = np.array([query.id in names for query in dataset.queries], dtype=float)
        low, high = interval(100 * (weights @ inside) / len(inside))
        return Value(100 * float(inside.mean()), low, high)

    kinds: tuple[Label, ...] = ("shortcut-solvable", "composition required", "unresolved")
    chosen: dict[Part, set[str]] = {
        "all": set(labels),
        "shortcut-solvable": by_one,
        "rest": set(labels) - by_one,
    }
    measured = {part: _measured(dataset, [*singles, *rows], names, resamples)
                for part, names in chosen.items()}  # fmt: skip
    metrics: dict[str, dict[str, dict[Part, Value]]] = {
        row.name: {
            metric: {part: measured[part][row.name][metric] for part in PARTS}
            for metric in measured["all"][row.name]
        }
        for row in (*singles, *rows)
    }
    return Shortcuts(
        first,
        dataset.headline,
        {name: share(names) for name, names in alone.items()},
        labels,
        {kind: share({q for q, label in labels.items() if label == kind}) for kind in kinds},
        100 * float(np.mean([_by_chance(dataset, query, first) for query in dataset.queries])),
        {part: len(names) for part, names in chosen.items()},
        metrics,
    )


def _measured(
    dataset: Dataset, rows: Sequence[Row], names: set[str], resamples: int
) -> Mapping[str, Mapping[str, Value]]:
    """Return each row's metrics on some of the queries, which are resampled among themselves."""
    inside = np.array([query.id in names for query in dataset.queries])
    strata = [[i for i in numbers if inside[i]] for numbers in dataset.strata()]
    strata = [numbers for numbers in strata if numbers]
    weights = resample(strata, dataset.units, resamples)
    once = inside[None].astype(float)
    found = {}
    for row in rows:
        exact, sampled = dataset.means(row.values, once), dataset.means(row.values, weights)
        found[row.name] = {m: _value(float(v[0]), sampled[m]) for m, v in exact.items()}
    return found


def _value(exact: float, samples: NDArray[np.float64]) -> Value:
    return Value(exact, *((exact, exact) if np.isnan(exact) else interval(samples)))


def _by_chance(dataset: Dataset, query: Query, first: int) -> float:
    """Return the chance that a target is among the first images of a gallery in random order."""
    size, wanted = len(dataset.galleries[query.gallery]), len(targets(query))
    missed = 1.0
    for place in range(min(first, size)):
        missed *= max(size - wanted - place, 0) / (size - place)
    return 1 - missed


def share_lines(found: Shortcuts) -> list[dict[str, str]]:
    """Return the table of shares."""
    shares = found.shares
    rows = {f"by {name}": str(value) for name, value in found.singles.items()}
    rows |= {
        "by any of them: shortcut-solvable": str(shares["shortcut-solvable"]),
        "by both modalities alone: composition required": str(shares["composition required"]),
        "by none: unresolved": str(shares["unresolved"]),
        "by one ranking at random": f"{found.chance:.2f}",
    }
    return [{"solved": name, "share of queries": value} for name, value in rows.items()]


def metric_lines(found: Shortcuts) -> list[dict[str, str]]:
    """Return the table of the headline metric on all queries and on the parts."""
    headings = {part: f"{part} ({found.counts[part]} queries)" for part in PARTS}
    return [
        {"method": name} | {headings[part]: str(metrics[found.metric][part]) for part in PARTS}
        for name, metrics in found.metrics.items()
        if found.metric in metrics
    ]
