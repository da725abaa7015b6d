"""The commands that compare, tune and show results."""

import functools
import math
from pathlib import Path
from typing import Any

import click

from pipeline import datasets
from pipeline.cli.numbers import FiniteRange
from pipeline.cli.options import Stage, format_option, json_option, run_options
from pipeline.cli.pairs import Pair, others_option, rows_of_files
from pipeline.cli.printing import terminal_width
from pipeline.cli.registered import dataset_option
from pipeline.printable import echo
from pipeline.stages import checks

MOST_VALUES = 10_000
"""Values of one parameter that a grid may have."""


class Grid(click.ParamType[tuple[str, list[float]], str]):
    """A parameter with the values to try: ``name=a,b,c`` or ``name=start:stop:step``."""

    name = "grid"

    def convert(self, value: Any, *context: Any) -> tuple[str, list[float]]:
        """Return the parameter's name and the values; fails where they are none, or not finite."""
        name, _, values = value.partition("=")
        try:
            found = _steps(*values.split(":")) if ":" in values else values.split(",")
            numbers = [float(number) for number in found]
        except (ValueError, TypeError, ZeroDivisionError, OverflowError):
            numbers = []
        if not (name and numbers and all(map(math.isfinite, numbers))):
            self.fail(
                f"{value!r} is not PARAMETER=a,b,c or PARAMETER=start:stop:step, of finite numbers "
                f"that lead from start to stop in at most {MOST_VALUES:,} steps.",
                *context,
            )
        return name, numbers


def _steps(start: str, stop: str, step: str) -> list[float]:
    first, last, by = float(start), float(stop), float(step)
    count = int((last - first) / by + 1e-9)  # below 0 where the step leads away
    if not 0 <= count < MOST_VALUES or (last - first) * by < 0:
        raise ValueError
    return [round(first + i * by, 10) for i in range(count + 1)]


@click.command(cls=Stage)
@functools.partial(run_options, defaults={"search.method": "all"})
@others_option
@click.option(
    "--baseline",
    help="row that the others are compared with, or best: the first metric's; the first by default",
)
@click.option("--metric", "metrics", multiple=True, help="metrics to show; the first is compared")
@click.option("--resamples", type=click.IntRange(100, 1_000_000), default=2000, show_default=True)
@click.option(
    "--permutations",
    type=click.IntRange(100, 10_000_000),
    default=10_000,
    show_default=True,
    help="swaps of Fisher's randomisation test",
)
@click.option(
    "--variants",
    is_flag=True,
    help="the reference masked and kept, the shared concept told and not; calls no model",
)
@click.option("--mixed", is_flag=True, help="allow rows made under different protocols")
@click.option("--out", type=click.Path(path_type=Path), help="file for the table")
@format_option
@json_option
def compare(
    run: Any,
    others: tuple[tuple[str, str], ...],
    baseline: str | None,
    metrics: tuple[str, ...],
    resamples: int,
    permutations: int,
    mixed: bool,
    variants: bool,
    out: Path | None,
    form: Any,
    as_json: bool,
) -> None:
    """Print one table of validation metrics: a row for each method's ranking (--method all).

    Differences against the baseline come with 95 % intervals of the paired bootstrap, and with p of
    Fisher's randomisation test, as it is and corrected for all rows by Holm.

    Example: seize compare --dataset circo --split val --baseline mean-ensemble --format latex
    """
    checks.ground_truth(run)
    checks.method(run)
    from pipeline.run import dump
    from pipeline.store.files import write_text
    from pipeline.study import compare as table

    if variants:
        from pipeline.study import variants as both

        rows, mixed = both.rows(run), True
    else:
        rows = table.rows_of_run(run)
    rows += rows_of_files(run.dataset, others)
    settings = table.check_protocols(rows, mixed)
    baseline = table.baseline_of(run.dataset, rows, baseline, metrics[0] if metrics else "")
    found = table.compare(run.dataset, rows, baseline, resamples, permutations=permutations)
    if as_json:
        lines = found.to_dict(orient="records")
        conditions = {row.name: row.conditions.as_json() for row in rows}
        told = {"baseline": baseline, "protocol": settings, "conditions": conditions}
        echo(dump(told | {"table": lines}))
        return
    width = terminal_width() if out is None else None
    text = table.render(run.dataset, found, rows, settings, baseline, metrics, form, width)
    if out is None:
        echo(text)
    else:
        write_text(out, text + "\n")


@click.command(cls=Stage)
@run_options
@click.option(
    "--grid",
    "grids",
    multiple=True,
    type=Grid(),
    metavar="PARAMETER=VALUES",
    help="values to try: a,b,c or start:stop:step, e.g. negative=0:3:0.25",
)
@click.option("--metric", help="the metric to be best at; the benchmark's first by default")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("outputs"),
    show_default=True,
    help="folder for the CSV and the picture",
)
@json_option
def tune(
    run: Any,
    grids: tuple[tuple[str, list[float]], ...],
    metric: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Try a grid of the method's weights on val, from features on disk; print the best.

    Parameters are the method's weights, as `search` of the configuration calls them: positive and
    negative (α⁺, α⁻) of seize and seize-rank, drops and temperature (k, τ) of ldre, and so on; of
    METHOD+verify accept and reject, or, with an average as its fusion, weight.

    Example: seize tune --dataset circo --split val --method seize --grid negative=0:3:0.25
    """
    checks.tuning(run)
    from pipeline.study import tune as tuning

    name = run.config.search.method
    grid = tuning.grid_of(run.config, dict(grids))
    tuned = tuning.tune(run, grid, out, metric)
    if as_json:
        from pipeline.run import dump

        files = {"csv": str(tuned.csv), "picture": tuned.picture and str(tuned.picture)}
        found = {"best": tuned.best, "metric": tuned.metric, "value": tuned.value}
        echo(dump(found | {"border": tuned.border, "protocol": run.protocol} | files))
        return
    best = ", ".join(f"{name} {value:g}" for name, value in tuned.best.items())
    cells = len(tuned.table)
    echo(f"{run.name}, {name}: {tuned.metric} {tuned.value:.2f} at {best} ({cells} cells)")
    for parameter, end in tuned.border.items():
        echo(
            f"Warning: {parameter} {tuned.best[parameter]:g} is the {end} value tried; the best "
            f"may lie beyond. Widen with --grid {parameter}=…"
        )
    for file in (tuned.csv, tuned.picture):
        if file is not None:
            echo(f"  {file}")


@click.command(cls=Stage)
@run_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="the page; outputs/report-DATASET-SPLIT.html"
)
@click.option("--open", "open_page", is_flag=True, help="show the page in the browser")
@click.option(
    "--compare",
    "other",
    metavar="METHOD|FILE",
    help="another ranking beside it: a method that was searched, or cache/…/search/*.jsonl",
)
@click.option("--mixed", is_flag=True, help="allow rankings made under different protocols")
@click.option(
    "--tuned",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV of `seize tune`; the newest one of this run in outputs by default",
)
@click.option(
    "--top", type=click.IntRange(1, 1000), default=10, show_default=True, help="images a query"
)
@click.option(
    "--queries", type=click.IntRange(1, 1_000_000_000), help="show only so many, evenly spread"
)
@click.option(
    "--megabytes",
    type=FiniteRange(min=0, min_open=True, max=1_000_000),
    default=20,
    show_default=True,
    help="what the file may weigh; thumbnails are as large as that allows",
)
@json_option
def report(
    run: Any, out: Path | None, open_page: bool, other: str | None, as_json: bool, **options: Any
) -> None:
    """Write one HTML file to look at: metrics, tuning, provenance, and every query with its images.

    It needs nothing else and asks nothing of the network, so it can be given away.

    Example: seize report --dataset circo --split val --data-root /data --compare mean-ensemble
    """
    from pipeline.pages import report as page

    out = out or Path("outputs") / f"report-{run.name}.html"
    written = page.report(run, out, page.Options(other=other, **options))
    if as_json:
        from dataclasses import asdict

        from pipeline.run import dump

        echo(dump(asdict(written) | {"file": str(written.file)}))
    else:
        size = written.bytes / page.MEGABYTE
        echo(
            f"{run.name}: {written.queries} queries, {written.images} images, {size:.1f} MB"
            f" -> {written.file}"
        )
    if open_page:
        click.launch(out.resolve().as_uri())


@click.command("table")
@dataset_option()
@click.option(
    "--backbone", "backbones", multiple=True, help="B/32, L/14, G/14, MLLM …; all by default"
)
@click.option(
    "--mine",
    multiple=True,
    type=Pair(),
    metavar="NAME[@BACKBONE]=FILE",
    help="your own row: JSON from `seize evaluate --json`, or of what the server answered",
)
@click.option(
    "--where",
    "wanted",
    multiple=True,
    type=Pair(),
    metavar="CONDITION=WORD",
    help="only rows known to be so: reference=masked, concept=no, fashioniq_split=original, "
    "training=training-free …",
)
@click.option("--rank", "metric", metavar="METRIC", help="the best first, of one protocol alone")
@click.option("--mixed", is_flag=True, help="rank rows of different or unknown protocols")
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="PNG: cost against quality"
)
@click.option(
    "--cost",
    "axis",
    type=click.Choice(["calls", "seconds"]),
    default="calls",
    show_default=True,
    help="what the picture has across",
)
@format_option
@json_option
def table_(
    dataset: str,
    backbones: tuple[str, ...],
    mine: tuple[tuple[str, str], ...],
    wanted: tuple[tuple[str, str], ...],
    metric: str | None,
    mixed: bool,
    picture: Path | None,
    axis: Any,
    form: Any,
    as_json: bool,
) -> None:
    """Show published figures with their sources and conditions beside one's own.

    Rows whose conditions differ, or are not known, have no order unless --mixed. An own row's file
    may tell "conditions" and "cost" ({"calls": …, "seconds": …} a query) beside its metrics.

    Example: seize table --dataset circo --backbone L/14 --mine "mine@L/14=server.json"
    """
    benchmark = datasets.find(dataset)
    from pipeline.run import dump
    from pipeline.study import costs, published

    own = {name: Path(file) for name, file in mine}
    found = published.load()
    entries = published.entries(found, dataset, backbones, own)
    entries = published.where(entries, dict(wanted))
    if metric is not None:
        entries = published.ranked(dataset, entries, metric, mixed)
    if picture is not None:
        shown = metric or benchmark.headline
        title = f"{dataset} {found.datasets[dataset].split}: cost against quality"
        costs.draw(costs.points(entries, axis, shown), axis, shown, title, picture)
    frame = published.frame(entries)
    if as_json:
        lines = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
        spent = [[cost.model_dump() for cost in entry.costs] for entry in entries]
        lines = [line | {"costs": own} for line, own in zip(lines, spent, strict=True)]
        echo(dump({"table": lines, "sources": found.sources, "notes": found.notes}))
    else:
        echo(published.render(dataset, frame, found, form, terminal_width()))


COMMANDS = (compare, tune, report, table_)
