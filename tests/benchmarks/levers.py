"""What each lever is worth on the demo and what it costs: ``python -m tests.benchmarks.levers``.

Run ``make demo`` first. Verdicts come from the cache where they are there, with the time they took.
"""

from collections.abc import Iterator
from pathlib import Path

import click
from tabulate import tabulate

from pipeline import config, datasets, methods
from pipeline.demo import levers
from pipeline.everything import run_stages
from pipeline.run import Run

LAYOUTS = ("circo", "cirr", "fashioniq")
STACKED = ["seize+verify", "mean-ensemble+verify", "pdv+verify", "seize+pdv+verify"]


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


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("."))
def main(folder: Path) -> None:
    """Print three tables in Markdown: every method, the other question, and roles."""
    every = methods.selection("all", with_roles=False)
    tables = {
        "Every method, and stacked with the verifier (is the edited caption true of it?)": (
            {},
            ["mean-ensemble", *(name for name in every if name != "mean-ensemble"), *STACKED],
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
        click.echo(f"\n{title}\n")
        click.echo(tabulate(found.to_dict("records"), "keys", "github", disable_numparse=True))


if __name__ == "__main__":
    main()
