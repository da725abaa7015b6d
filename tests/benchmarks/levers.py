"""What each lever is worth on the demo and what it costs: ``python -m tests.benchmarks.levers``.

Run ``make demo`` first. Verdicts come from the cache where they are there, with the time they took.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd
from tabulate import tabulate

from pipeline import config, datasets
from pipeline.demo import levers
from pipeline.models.prompts.edit import ROLES
from pipeline.records import Ranking
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import search, verify
from pipeline.stages.everything import run_stages
from tests import documents

LAYOUTS = ("circo", "cirr", "fashioniq")
EMB = [f"{name}@emb" for name in ("joint", "seize+joint", "sum", "seize", "pdv", "image", "text")]
"""The joint embedder, and what others make of its space."""
POOLS = ["pool:seize,pdv", "pool:pdv,joint@emb", "pool:seize,pdv,joint@emb"]
STACKED = [
    "seize+verify",
    "lincir+verify",
    "mean-ensemble+verify",
    "pdv+verify",
    "seize+pdv+verify",
]
FUSIONS: dict[str, dict[str, Any]] = {
    "confidence, 0.5 and 0.01": {"fusion": "confidence", "accept": 0.5, "reject": 0.01},
    **{
        f"average, weight {weight}": {"fusion": "average", "weight": weight}
        for weight in (0.1, 0.25, 0.5, 0.75, 1.0)
    },
}


def runs(folder: Path, **overrides: str) -> Iterator[Run]:
    """Yield the demo's runs on its three layouts, captioned, edited and embedded."""
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    root = folder / "data" / "demo"
    for name in LAYOUTS:
        loaded = datasets.load(name, "val", root)
        settings = config.load("demo", {**fields})
        run = Run(loaded, settings, folder / "cache", folder / "submissions")
        run_stages(run)
        yield run


def fusions(runs: Sequence[Run], names: Sequence[str]) -> pd.DataFrame:
    """Return the first metric of each run by every fusion, all candidates being verified."""
    lines: dict[str, dict[str, str]] = {}

    def note(run: Run, method: str, how: str, rankings: Sequence[Ranking]) -> None:
        line = lines.setdefault(f"{method} {how}", {"method": method, "fusion": how})
        values = run.dataset.evaluate(run.dataset.predictions(rankings))
        line[f"{run.name}, {run.dataset.headline}"] = f"{values[run.dataset.headline]:.2f}"

    for run in runs:
        search.search(run.with_method(",".join(names)))
        for name in names:
            one = run.with_method(methods.verified(name))
            note(run, name, "not verified", search.read(one.unverified))
            verify.verify(one)
            known = verify.known_probabilities(one)
            for how, fusion in FUSIONS.items():
                limits = run.config.verifier.model_copy(update=fusion)
                note(run, name, how, [verify.reordered(*one, limits) for one in known])
    return pd.DataFrame(lines.values())


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("."))
@click.option("--write", is_flag=True, help="put the tables into docs/, too")
def main(folder: Path, write: bool) -> None:
    """Print tables in Markdown: every method, the other question, roles, and every fusion."""
    made: dict[str, list[str]] = {"levers": [], "fusions": []}

    def show(name: str, title: str, table: pd.DataFrame) -> None:
        text = tabulate(table.to_dict("records"), "keys", "github", disable_numparse=True)
        made[name].append(f"{title}:\n\n{text}\n")
        click.echo(f"\n{title}\n\n{text}")

    lacking = dict.fromkeys(ROLES, "edits with roles") | methods.lacking(config.load("demo"), "")
    every = methods.selection("all", lacking)
    tables = {
        "Every method, and stacked with the verifier (is the edited caption true of it?)": (
            {},
            [
                "mean-ensemble",
                *(name for name in every if name != "mean-ensemble"),
                *EMB,
                *POOLS,
                *STACKED,
                f"{POOLS[-1]}+verify",
            ],
        ),
        "Verified by the relative caption and both images": (
            {"verifier__prompt": "demo-change"},
            ["mean-ensemble", *STACKED],
        ),
        "Edits with roles": (
            {"llm__prompt": "demo-roles"},
            ["mean-ensemble", "seize", "roles", "seize+roles"],
        ),
    }
    for title, (overrides, names) in tables.items():
        found = levers.table(list(runs(folder, **overrides)), names)
        show("levers", title, found)
    for question in ("demo", "demo-change"):
        given = {"verifier__prompt": question, "verifier__early_stop": "false"}
        found = fusions(list(runs(folder, **given)), ["seize", "pdv"])
        show("fusions", f"Every candidate verified, `--question {question}`", found)
    for name, texts in made.items() if write else ():
        documents.fill(name, "\n".join(texts))


if __name__ == "__main__":
    main()
