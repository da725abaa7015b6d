"""Grid search of a method's weights on the validation split, from features on disk."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.config import Config, Kind, VerifierConfig, resolve_device
from pipeline.datasets.reading import Predictions
from pipeline.errors import ConfigError, nearest
from pipeline.records import Ranking
from pipeline.retrieval import methods
from pipeline.retrieval.methods.base import METHODS, Grid, Section
from pipeline.retrieval.parts import Part, parts
from pipeline.retrieval.pool import Pool
from pipeline.retrieval.ranking import Best, blocks, scores_of, top_images, without
from pipeline.retrieval.scoring import Ends, Score
from pipeline.retrieval.sections import validated
from pipeline.run import Run, log, progress
from pipeline.stages import checks, search, verify
from pipeline.stages.inputs import Inputs
from pipeline.store.features import FeatureFile
from pipeline.store.files import atomic, storage_errors, write_text
from pipeline.store.identity import fingerprint
from pipeline.study import pools, tables
from pipeline.yamls import first_problem

VERIFIED_LABELS = {
    "accept": "probability from which an image is accepted",
    "reject": "probability below which it is rejected",
    "weight": "weight of the probability",
}
VERIFIED_GRIDS: dict[Kind, dict[str, list[float]]] = {
    "confidence": {
        "accept": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0],
        "reject": [0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5],
    },
    "average": {"weight": [0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]},
}
"""What is tried for a method that ends in +verify, by fusion (``pipeline.retrieval.fusion``)."""
QUERIES = 1024
"""Queries ranked at a time, in every cell of the grid."""


@dataclass(frozen=True)
class Tuned:
    """What ``tune`` found."""

    table: pd.DataFrame
    """A line a cell: the parameters, then every metric in percent."""
    metric: str
    best: dict[str, float]
    value: float
    """The metric at the best cell, percent."""
    border: dict[str, str]
    """Parameters whose best value is the smallest or the largest tried."""
    csv: Path
    picture: Path | None


def grid_of(config: Config, given: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the grid to search: the method's own, with ``given`` values in place of its.

    That of a verified method is its fusion's. Raises ConfigError for a method without weights, a
    weight it does not have, or a value that the weight cannot have.
    """
    own, _ = _tunable(config)
    check_grid(config, given)
    return {weight: sorted(set(values)) for weight, values in (own | dict(given)).items()}


def check_grid(config: Config, grid: Grid) -> None:
    """Raise ConfigError for a weight that the method does not have, or a value it cannot have."""
    name = config.search.method
    _, known = _tunable(config)
    for weight, values in grid.items():
        if weight not in known:
            raise ConfigError(f"{name} has no parameter {weight!r}.{nearest(weight, known)}")
        if not values:
            raise ConfigError(f"--grid {weight}: there is no value to try.")
        for value in values:
            _check(config, name, weight, value)


def _tunable(config: Config) -> tuple[dict[str, list[float]], list[str]]:
    """Return the method's own grid, and the names of all its weights."""
    name = config.search.method
    if name != methods.base(name):
        methods.find(methods.base(name))
        own = VERIFIED_GRIDS[config.verifier.fusion]
        return own, list(own)
    method = methods.find(name)
    if method.parts:
        own = pools.grid(config, method.parts)
        return own, [*own, *method.parts]
    if not method.tuned:
        known = ", ".join(sorted(one for one, found in METHODS.items() if found.tuned))
        raise ConfigError(f"{name} has nothing to tune. Methods that have: {known}.")
    return {weight: list(values) for weight, values in method.tuned.items()}, list(
        dict.fromkeys([*method.tuned, *method.weights])
    )


def _check(config: Config, name: str, weight: str, value: float) -> None:
    """Raise ConfigError where a weight cannot have a value, whatever the others are."""
    try:
        if methods.is_pool(name) and name == methods.base(name):
            pools.with_cell(Pool(), {weight: value})
        elif name == methods.base(name):
            kind = methods.find(name).weights[weight]
            validated(kind, {weight: value})
        else:
            unordered = {"accept": 1.0, "reject": 0.0} | {weight: value}
            VerifierConfig.model_validate(config.verifier.model_dump() | unordered)
    except (ConfigError, ValidationError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"--grid {weight}: {value:g} cannot be tried: {why}") from None


def cells_of(config: Config, grid: Grid) -> list[dict[str, float]]:
    """Return the combinations of a grid's values that can be: accept is never below reject."""
    cells = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    verifier = config.verifier.model_dump()
    return [
        cell
        for cell in cells
        if "accept" not in cell or cell["accept"] >= cell.get("reject", verifier["reject"])
    ]


def tune(run: Run, grid: Grid, folder: Path, metric: str | None = None) -> Tuned:
    """Rank the validation queries in every cell of ``grid`` in one pass over the gallery.

    Each distinct vector (q⁺ of an α⁺, q⁻ of an α⁻) is compared with a block once, and cells combine
    these similarities. Writes a CSV, and a picture where one or two parameters vary. Raises
    ConfigError on a split that is not for tuning, and for a grid without any cell, or with weights
    or values that the method cannot have.
    """
    checks.tuning(run)
    check_grid(run.config, grid)
    metric = metric or run.dataset.headline
    if metric not in run.dataset.metrics:
        known = run.dataset.metrics
        raise ConfigError(f"{run.dataset.name} has no metric {metric!r}.{nearest(metric, known)}")
    cells = cells_of(run.config, grid)
    if not cells:
        raise ConfigError(
            "accept is below reject in every cell of the grid: give --grid accept=… larger values."
        )
    if run.verified:
        ranked = _verified(run, cells)
    elif methods.is_pool(run.config.search.method):
        ranked = pools.ranked(run, cells)
    else:
        ranked = _searched(run, grid, cells)
    table = pd.DataFrame(
        [cell | run.dataset.evaluate(found) for cell, found in zip(cells, ranked, strict=True)]
    )
    place = int(np.argmax([run.dataset.worth(metric, value) for value in table[metric]]))
    best = cells[place]
    content = {"grid": grid, "search": search.header(run)}
    method = methods.in_file_names(run.config.search.method)
    stem = f"tune-{run.name}-{method}-{fingerprint(content)}"
    csv = folder / f"{stem}.csv"
    told = {f"protocol.{field}": value for field, value in run.protocol.items()}
    told["run"] = identity(run, grid)
    write_text(csv, tables.csv(table.assign(**told)))
    picture = _draw(run, table, grid, metric, best, folder / f"{stem}.png")
    value = float(table[metric].to_numpy()[place])
    return Tuned(table, metric, best, value, border(best, grid), csv, picture)


def _searched(
    run: Run, grid: Grid, cells: Sequence[Mapping[str, float]]
) -> list[dict[str, Predictions]]:
    """Return the predictions of every cell of a method's weights."""
    inputs = Inputs(run)
    method = methods.find(run.config.search.method)
    base = methods.settings(run.config, method.name, run.dataset.name)
    if "drops" in grid:
        inputs.clues.largest_drops(int(max(grid["drops"])))  # smaller k are parts of this
    scores = [methods.scored(method, inputs.clues, _with(base, cell)) for cell in cells]
    for item, reason in inputs.lacks(method.name).items():
        log.warning("[tune %s] %s: %s", run.name, item, reason)
    return rank_all(run, scores, inputs.images)


def _verified(run: Run, cells: Sequence[Mapping[str, float]]) -> list[dict[str, Predictions]]:
    """Return the predictions of every cell of the fusion's parameters; needs every verdict."""
    known = verify.known_probabilities(run)
    found = []
    for cell in cells:
        config = run.config.verifier.model_copy(update=dict(cell))
        rankings = [verify.reordered(ranking, given, config) for ranking, given in known]
        found.append(run.dataset.predictions(rankings))
    return found


def identity(run: Run, parameters: Iterable[str]) -> str:
    """Return a fingerprint of all that shapes a ranking but ``parameters``, which were varied."""
    header = search.header(run)
    varied = set(parameters)
    if "verifier" in header:
        header["verifier"] = {k: v for k, v in header["verifier"].items() if k not in varied}
    if not run.verified:
        kept = {
            section: {name: value for name, value in weights.items() if name not in varied}
            for section, weights in header["settings"].items()
        }
        if methods.is_pool(run.config.search.method):
            kept = pools.unvaried(kept, varied)
        header["settings"] = kept
    return fingerprint(header)


def _with(base: Sequence[Section], cell: Mapping[str, float]) -> tuple[Section, ...]:
    """Return the sections with a cell's values; raises ConfigError where one cannot be."""
    found = []
    for one in base:
        own = {name: value for name, value in cell.items() if name in type(one).model_fields}
        found.append(validated(type(one), one.model_dump() | own))
    return tuple(found)


def label(run: Run, weight: str) -> str:
    """Return what a weight is called in the picture."""
    if run.verified:
        return VERIFIED_LABELS[weight]
    if weight in methods.find(run.config.search.method).parts:
        return f"weight of {weight}"
    return methods.find(run.config.search.method).weights[weight].label(weight)


def weights_of(run: Run) -> dict[str, float]:
    """Return the run's own value of everything that can be tuned of its method."""
    if run.verified:
        return {name: getattr(run.config.verifier, name) for name in VERIFIED_LABELS}
    if methods.is_pool(run.config.search.method):
        return pools.weights_of(run)
    found = methods.settings(run.config, run.config.search.method, run.dataset.name)
    return {name: value for one in found for name, value in one.model_dump().items()}


def border(best: Mapping[str, float], grid: Grid) -> dict[str, str]:
    """Return which of the best values are the smallest or largest tried, of two or more."""
    found = {}
    for name, value in best.items():
        if len(grid[name]) > 1 and value in (min(grid[name]), max(grid[name])):
            found[name] = "smallest" if value == min(grid[name]) else "largest"
    return found


def rank_all(
    run: Run, scores: Sequence[Score], images: FeatureFile
) -> list[dict[str, Predictions]]:
    """Return the predictions of every score, as ``search.rank`` would one by one."""
    found: list[dict[str, Ranking]] = [{} for _ in scores]
    device = resolve_device(run.config.runtime.device)
    found_parts = parts(run, images)
    total = sum(-(-len(p.places) // QUERIES) * p.gallery.shape[0] for p in found_parts)
    with progress(total, 0, "image", f"{len(scores)} cells") as bar:
        for part in found_parts:
            for start in range(0, len(part.places), QUERIES):
                chosen = part.slice(start, start + QUERIES)
                own = [score.map(itemgetter(chosen.places)) for score in scores]
                if all(isinstance(score, Ends) for score in own):
                    ranked = _one_pass(run, own, chosen, device, bar)  # type: ignore[arg-type]
                else:
                    ranked = [_alone(run, score, chosen, device) for score in own]
                for rankings, (best, groups) in zip(found, ranked, strict=True):
                    made = search.rankings_of(run, chosen, best[0], best[1], groups)
                    rankings |= {ranking.query: ranking for ranking in made}
    return [run.dataset.predictions([r[query.id] for query in run.queries]) for r in found]


Ranked = tuple[tuple[Tensor, Tensor], list[Tensor]]
"""Best scores and rows (queries, k), and for each query the scores of its group."""


def _alone(run: Run, score: Score, part: Part, device: str) -> Ranked:
    k = run.top_k
    best = top_images(score, part.gallery, k, part.inside, part.excluded, device)
    asked = any(part.groups)
    return best, scores_of(score, part.gallery, part.groups, part.inside, device) if asked else []


def _one_pass(run: Run, scores: Sequence[Ends], part: Part, device: str, bar: Any) -> list[Ranked]:
    vectors: dict[bytes, Tensor] = {}

    def known(vector: Tensor) -> bytes:
        key = vector.numpy().tobytes()
        vectors.setdefault(key, vector.to(device))
        return key

    ends = [(known(score.positive), known(score.negative), score.take_max) for score in scores]
    queries, width = len(part.places), max((len(group) for group in part.groups), default=0)
    kept = [Best(queries, run.top_k) for _ in scores]
    of_groups = [torch.zeros(queries, width) for _ in scores]
    padded = [group + [-1] * (width - len(group)) for group in part.groups]
    members = torch.tensor(padded, dtype=torch.long).reshape(queries, width)
    for rows, features in blocks(
        part.gallery, part.inside, device, bar.update, queries * len(vectors)
    ):
        similarity = {key: vector @ features.T for key, vector in vectors.items()}
        column = torch.searchsorted(rows, members).clamp(max=len(rows) - 1)
        here = rows[column] == members
        for (positive, negative, take_max), best, groups in zip(ends, kept, of_groups, strict=True):
            smaller = torch.maximum if take_max else torch.minimum
            score = smaller(similarity[positive], similarity[negative]).cpu()
            if width:
                groups[here] = score.gather(1, column)[here]
            best.add(without(score, rows, part.excluded), rows)
    split = [
        [row[: len(group)] for row, group in zip(groups, part.groups, strict=True)]
        for groups in of_groups
    ]
    return [((best.scores, best.rows), groups) for best, groups in zip(kept, split, strict=True)]


def _draw(
    run: Run,
    table: pd.DataFrame,
    grid: Grid,
    metric: str,
    best: Mapping[str, float],
    file: Path,
) -> Path | None:
    """Draw the metric over one parameter as a line, over two as a heat map; else return None."""
    varying = [name for name, values in grid.items() if len(values) > 1]
    if not 1 <= len(varying) <= 2:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    title = f"{run.name}, {run.config.search.method}: {metric} (%)"
    if len(varying) == 1:
        (name,) = varying
        axes.plot(table[name], table[metric], marker="o")
        axes.set(xlabel=label(run, name), ylabel=f"{metric} (%)", title=title)
        axes.axvline(best[name], linestyle=":")
    else:
        down, across = varying
        wide = table.pivot(index=down, columns=across, values=metric)
        shown = axes.imshow(wide.to_numpy(), origin="lower", aspect="auto", cmap="viridis")
        axes.set_xticks(range(len(wide.columns)), [f"{value:g}" for value in wide.columns])
        axes.set_yticks(range(len(wide.index)), [f"{value:g}" for value in wide.index])
        axes.set(xlabel=label(run, across), ylabel=label(run, down), title=title)
        x, y = grid[across].index(best[across]), grid[down].index(best[down])
        axes.plot(x, y, marker="s", markersize=14, markerfacecolor="none", color="red")
        figure.colorbar(shown, ax=axes)
    with atomic(file) as temporary, storage_errors(file):
        figure.savefig(temporary, format="png", dpi=120)
    return file
