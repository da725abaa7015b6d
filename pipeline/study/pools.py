"""Tuning of pools: k of reciprocal rank fusion, and how much each part weighs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.config import Config
from pipeline.datasets.reading import Predictions
from pipeline.retrieval import methods
from pipeline.retrieval.pool import Pool
from pipeline.retrieval.sections import validated
from pipeline.run import Run
from pipeline.stages import search

TRIED = [0.25, 0.5, 1.0, 2.0, 4.0]
"""Weights of each part but the first, against whose 1 they count."""


def grid(config: Config, parts: Sequence[str]) -> dict[str, list[float]]:
    """Return the values that are tried by default: k for ranks, the parts' weights for scores."""
    rule = config.search.section(Pool.name).get("rule", Pool().rule)
    return Pool.grid() if rule == "rrf" else dict.fromkeys(parts[1:], TRIED)


def with_cell(settings: Pool, cell: Mapping[str, float]) -> Pool:
    """Return the settings with a cell's values, which are k or parts' weights; ConfigError."""
    k = {name: value for name, value in cell.items() if name == "k"}
    weights = settings.weights | {name: v for name, v in cell.items() if name != "k"}
    return validated(Pool, settings.model_dump() | k | {"weights": weights})


def ranked(run: Run, cells: Sequence[Mapping[str, float]]) -> list[dict[str, Predictions]]:
    """Return the predictions of every cell, from the rankings of the parts; MissingStageError."""
    settings, parts = search.pool_settings(run), search.parts_of(run)
    rankings = [search.read(one) for one in parts.values()]
    return [
        run.dataset.predictions(search.pooled(run, with_cell(settings, cell), rankings))
        for cell in cells
    ]


def unvaried(settings: Mapping[str, Any], varied: Collection[str]) -> dict[str, Any]:
    """Return a pool's settings in a ranking's header without the weights that were varied."""
    own = dict(settings[Pool.name])
    own["weights"] = {name: v for name, v in own["weights"].items() if name not in varied}
    return {**settings, Pool.name: own}


def weights_of(run: Run) -> dict[str, float]:
    """Return the run's own value of everything that can be tuned of its pool."""
    settings, parts = search.pool_settings(run), methods.find(run.config.search.method).parts
    return {"k": settings.k} | dict(zip(parts, settings.of(parts), strict=True))
