"""What every head of a composer is worth on the demo: ``python -m tests.benchmarks.composers``.

Run ``make demo`` first. Each head is trained on the same synthetic triplets of the demo's training
scenes, none of which the benchmarks show; the rows without training are from the cache.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from pipeline import config, datasets
from pipeline.datasets.triplets import Triplets
from pipeline.demo import composer as demo
from pipeline.models import composers
from pipeline.models.composers.training import Composing
from pipeline.models.training import loop
from pipeline.models.training.files import Files
from pipeline.run import Run
from pipeline.stages import composing, embed, inputs, search
from pipeline.stages.everything import run_stages
from pipeline.study import compare
from tests import documents

LAYOUTS = ("circo", "cirr", "fashioniq")
FREE = ["mean-ensemble", "pdv", "image+text", "image", "text"]
STACKED = ["seize+composer", "pdv+composer"]


def row(run: Run, name: str, shown: str) -> compare.Row:
    """Return a method's row of a run, under another name."""
    one = run.with_method(name)
    embed.embed(one)
    inputs.make_clues(one)
    search.search(one)
    return compare.Row(shown, compare.rows_of_run(one)[0].values, None)


def trained(folder: Path, head: str, steps: int) -> tuple[Path, str]:
    """Train a head on the triplets below ``folder``; return its checkpoint and what it took.

    A training that was stopped, or is done, goes on.
    """
    settings = demo.CHOSEN.model_copy(update={"head": head, "steps": steps})
    preset = config.load("demo", {"search.method": "image+text"})
    run = Run(Triplets("train", folder), preset, folder / "cache", folder)
    lessons = composing.lessons(run, composers.find(head).reads_tokens)
    task = Composing(lessons.examples, settings, lessons.identity)
    file = folder / f"{head}.safetensors"
    loop.train(task, file, settings, half=True)
    weights = sum(p.numel() for p in task.module.parameters())
    told = json.loads(Files(file).record.read_text(encoding="utf-8"))
    return file, f"{weights:,} weights, {told['seconds']} s"


def rows_of(name: str, folder: Path, files: dict[str, Path]) -> list[compare.Row]:
    """Return the rows of a layout: those without training first, then every head's."""

    def run(**changes: Any) -> Run:
        fields = {field.replace("__", "."): value for field, value in changes.items()}
        loaded = datasets.load(name, "val", folder / "data" / "demo")
        preset = config.load("demo", fields)
        return Run(loaded, preset, folder / "cache", folder / "submissions")

    run_stages(run())
    found = [row(run(), method, f"`{method}`") for method in FREE]
    for head, file in files.items():
        if composers.find(head).reads_tokens:
            own = run(clip__model=f"composer:{file}", search__joint__prompt="change")
            found.append(row(own, "joint", f"`{head}`"))
            continue
        own = run(search__composer__checkpoint=str(file))
        found.append(row(own, "composer", f"`{head}`"))
        if head == demo.CHOSEN.head:
            found += [row(own, method, f"`{method}`, {head}") for method in STACKED]
    return found


def table(found: dict[str, Sequence[compare.Row]], took: dict[str, str]) -> str:
    """Return the first metric of every row and layout, with its difference against the first."""
    lines: dict[str, dict[str, str]] = {}
    for name, rows in found.items():
        dataset = datasets.load(name, "val", Path("data") / "demo")
        cells = compare.compare(dataset, rows, rows[0].name)
        for _, cell in cells[cells["metric"] == dataset.headline].iterrows():
            head = str(cell["method"]).strip("`")
            line = lines.setdefault(
                str(cell["method"]),
                {
                    "row": str(cell["method"]),
                    "re-implemented from": composers.find(head).title if head in took else "",
                },
            )
            text = f"{cell['value']:.2f}"
            if cell["method"] != rows[0].name:
                text += f" ({compare.difference(cell)})"
            line[f"{name}, {dataset.headline}"] = text
    for shown, line in lines.items():
        line["trained"] = took.get(shown.strip("`"), "as above" if "composer" in shown else "")
    return tabulate(list(lines.values()), "keys", "github", disable_numparse=True)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("."))
@click.option("--steps", type=int, default=demo.CHOSEN.steps, show_default=True)
@click.option("--heads", default=",".join(composers.names()), show_default=True)
@click.option("--only-train", is_flag=True, help="train, and measure another time")
@click.option("--write", is_flag=True, help="put the table into docs/, too")
def main(folder: Path, steps: int, heads: str, only_train: bool, write: bool) -> None:
    """Train every head, and print a row each beside the methods without training."""
    lessons = (folder / "outputs" / "composers").absolute()
    if not (lessons / "triplets.train.jsonl").exists():
        demo.build_triplets(lessons)
    files, took = {}, {}
    for head in heads.split(","):
        files[head], took[head] = trained(lessons, head, steps)
        click.echo(f"{head}: {took[head]}")
    if only_train:
        return
    text = table({name: rows_of(name, folder, files) for name in LAYOUTS}, took)
    click.echo(text)
    if write:
        documents.fill("composers", text)


if __name__ == "__main__":
    main()
