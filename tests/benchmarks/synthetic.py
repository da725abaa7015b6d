"""Whether triplets without annotations judge methods as annotated ones do, on the demo's CIRCO.

``python -m tests.benchmarks.synthetic``, after ``make demo``: what was computed is in the cache.
The order of methods and the tuned weights on a synthetic validation set are held against the true.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import pandas as pd
from tabulate import tabulate

from pipeline import config, datasets
from pipeline.config import Config
from pipeline.run import Run
from pipeline.stages import search
from pipeline.stages.everything import run_stages
from pipeline.stages.synthesize import of_dataset, synthesize
from pipeline.study.tune import grid_of, tune
from tests import documents

METHODS = (
    *("image", "text", "image+text", "sum", "cirevl", "mean-ensemble"),
    *("seize", "seize-rank", "ldre", "sdr", "pdv"),
)
TUNED = ("seize", "pdv", "sdr")
PROMPTS = ("demo-edit", "demo-difference")


def opened(name: str, root: Path, folder: Path, settings: Config) -> Run:
    """Return the val split of a dataset as a run below ``folder``."""
    loaded = datasets.load(name, "val", root)
    return Run(loaded, settings, folder / "cache", folder / "submissions")


def values(run: Run) -> pd.Series:
    """Return the first metric of every method, captioned, edited and embedded where needed."""
    run_stages(run.with_method("seize"))
    search.search(run.with_method(",".join(METHODS)))
    found = {}
    for name in METHODS:
        rankings = search.read(run.with_method(name))
        metrics = run.dataset.evaluate(run.dataset.predictions(rankings))
        found[name] = metrics[run.dataset.headline]
    return pd.Series(found)


def agreement(true: pd.Series, made: pd.Series) -> float:
    """Return Spearman's rank correlation of two orders of methods."""
    return float(true.rank().corr(made.rank()))


def tuned(run: Run, made: Run, name: str, folder: Path) -> dict[str, str]:
    """Return what a method loses on ``run`` by weights that were tuned on ``made``."""
    grid = grid_of(run.with_method(name).config, {})
    own = tune(run.with_method(name), grid, folder)
    other = tune(made.with_method(name), grid, folder)
    cells = own.table.set_index(list(grid))[own.metric]
    at = float(cells.loc[tuple(other.best[weight] for weight in grid)])
    return {
        "tuned on the true set": f"{own.value:.2f} ({_said(own.best)})",
        "on the synthetic set": f"{at:.2f} ({_said(other.best)})",
        "loss": f"{own.value - at:.2f}",
        "median of the grid": f"{cells.median():.2f}",
    }


def _said(best: dict[str, float]) -> str:
    return ", ".join(f"{weight} {value:g}" for weight, value in best.items())


def synthetic(run: Run, prompt: str, limit: int, folder: Path) -> Run:
    """Return a run on triplets that were written about the gallery of ``run``."""
    section = run.config.synthesize.model_copy(update={"prompt": prompt})
    source = replace(run, config=run.config.model_copy(update={"synthesize": section}))
    out = folder / "outputs" / f"synthetic-{prompt}"
    made = synthesize(of_dataset(source), out, "val", limit)
    click.echo(made.summary())
    return opened("triplets", out, folder, run.config)


def table(lines: Sequence[dict[str, str]]) -> str:
    """Return lines as a Markdown table."""
    return tabulate(lines, "keys", "github", disable_numparse=True)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("."))
@click.option("--limit", type=int, default=150, show_default=True, help="reference images")
@click.option("--write", is_flag=True, help="put the tables into docs/, too")
def main(folder: Path, limit: int, write: bool) -> None:
    """Print two tables in Markdown: methods, and tuned weights."""
    settings = config.load("demo")
    run = opened("circo", folder / "data" / "demo", folder, settings)
    true = values(run)
    runs = {prompt: synthetic(run, prompt, limit, folder) for prompt in PROMPTS}
    made = {prompt: values(one) for prompt, one in runs.items()}
    order = true.sort_values(ascending=False).index
    lines = [
        {
            "method": f"`{name}`",
            f"true, {run.dataset.headline}": f"{true[name]:.2f}",
            **{
                f"`{prompt}`, {runs[prompt].dataset.headline}": f"{found[name]:.2f}"
                for prompt, found in made.items()
            },
        }
        for name in order
    ]
    parts = [table(lines), ""]
    for prompt, found in made.items():
        count = len(runs[prompt].queries)
        best = str(found.idxmax())
        parts.append(
            f"Spearman's ρ of the order of {len(METHODS)} methods, {count} synthetic against "
            f"{len(run.queries)} true queries: `{prompt}` {agreement(true, found):.2f}; its best "
            f"method, `{best}`, has {true[best]:.2f} on the true set, where the best has "
            f"{true.max():.2f}.\n"
        )
    lines = [
        {"method": f"`{name}`", "prompt": f"`{prompt}`"} | tuned(run, one, name, folder / "outputs")
        for name in TUNED
        for prompt, one in runs.items()
    ]
    parts += [table(lines), ""]
    text = "\n".join(parts)
    click.echo(text)
    if write:
        documents.fill("synthetic", text)


if __name__ == "__main__":
    main()
