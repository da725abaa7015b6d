"""The commands that question figures: of a benchmark (audit), and of papers (reproduce)."""

import functools
from pathlib import Path
from typing import Any

import click

from pipeline.cli.numbers import FiniteRange
from pipeline.cli.options import (
    Stage,
    cache_option,
    data_root_option,
    format_option,
    json_option,
    run_options,
)
from pipeline.cli.overrides import override_options
from pipeline.cli.pairs import Pair, others_option, rows_of_files
from pipeline.errors import MissingStageError
from pipeline.printable import echo
from pipeline.stages import checks

MACHINE = (
    *("--clip", "--pretrained"),
    *("--device", "--workers", "--strict", "--follow-links", "--allow-pickle"),
)
"""Overrides that say where things are and what computes; a recipe has the others."""


@click.command(cls=Stage)
@run_options
@click.option(
    "--single",
    "singles",
    multiple=True,
    metavar="METHOD|NAME=FILE",
    help="a ranking by one modality alone; image and text by default",
)
@others_option
@click.option(
    "--first",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="a query is solved by a ranking whose first so many images hold its target",
)
@click.option(
    "--near",
    type=FiniteRange(min=0, max=1),
    default=0.98,
    show_default=True,
    help="cosine from which images are called near-duplicates",
)
@click.option("--resamples", type=click.IntRange(100, 1_000_000), default=2000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="file for the tables")
@format_option
@json_option
def audit(
    run: Any,
    singles: tuple[str, ...],
    others: tuple[tuple[str, str], ...],
    first: int,
    near: float,
    resamples: int,
    out: Path | None,
    form: Any,
    as_json: bool,
) -> None:
    """Which queries does one modality solve, and what are methods worth on the others?

    Also: copies of the reference in the gallery, ground truths that are the reference or cannot be
    retrieved, and texts that the encoder cuts. Needs rankings by `image`, `text` and --method.

    Example: seize audit --dataset circo --split val --method seize,pdv
    """
    checks.method(run)
    from pipeline.run import dump
    from pipeline.store.files import write_text
    from pipeline.study import audit as auditing
    from pipeline.study import compare

    alone: list[compare.Row] = []
    rows: list[compare.Row] = []
    if run.dataset.has_ground_truth:
        chosen = singles or ("image", "text")
        files = [Pair()(text) for text in chosen if "=" in text]
        methods = [text for text in chosen if "=" not in text]
        for method in methods:
            auditing.check_single(method)
        alone = compare.rows_of_run(run.with_method(",".join(methods))) if methods else []
        alone += rows_of_files(run.dataset, files)
        rows = [row for row in compare.rows_of_run(run) if row.name not in methods]
        rows += rows_of_files(run.dataset, others)
    made = auditing.audit(run, alone, rows, first, near, resamples)
    text = dump(made.as_json()) if as_json else auditing.render(made, form)
    if out is None:
        echo(text)
    else:
        write_text(out, text + "\n")


@click.command(cls=Stage)
@click.argument("recipe", required=False)
@click.option("--case", "cases", multiple=True, help="only this case of the recipe")
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("."),
    show_default=True,
    help="folder of the files that the paper's authors released",
)
@click.option(
    "--answer",
    "answers",
    multiple=True,
    type=Pair(),
    metavar="CASE=FILE",
    help="what the evaluation server answered: JSON of metrics in percent",
)
@data_root_option
@cache_option
@click.option(
    "--submissions",
    type=click.Path(path_type=Path),
    default=Path("submissions"),
    show_default=True,
    help="where submission files go",
)
@functools.partial(override_options, chosen_options=MACHINE)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="file to attach to an issue: .json, or Markdown",
)
@json_option
def reproduce(
    recipe: str | None,
    cases: tuple[str, ...],
    files: Path,
    answers: tuple[tuple[str, str], ...],
    data_root: Path,
    cache: Path,
    submissions: Path,
    overrides: dict[str, Any],
    out: Path | None,
    as_json: bool,
) -> None:
    """Run a paper's RECIPE, by name or as a YAML file, and print its figures beside ours.

    Without RECIPE all are listed. A case that cannot be run says what to fetch. Ends with 1 where a
    figure is outside its tolerance, with 4 where no case could be run.

    Example: seize reproduce seize --files released --data-root /data --out report.md
    """
    from pipeline.study.reproduce import recipes

    if recipe is None:
        for name in recipes.names():
            echo(f"{name}: {recipes.load(name).title}")
        return
    from pipeline.run import dump
    from pipeline.store.files import write_text
    from pipeline.study import reproduce as reproducing
    from pipeline.study.reproduce import page

    found = recipes.load(recipe)
    chosen = recipes.chosen(found, cases)
    told = {name: Path(file) for name, file in answers}
    recipes.chosen(found, tuple(told))  # names cases
    place = reproducing.Place(data_root, files, cache, submissions, told, overrides)
    made = reproducing.reproduce(found, chosen, place)
    content = dump(made.as_json())
    echo(content if as_json else page.render(made, "text"))
    if out is not None:
        write_text(
            out, (content if out.suffix == ".json" else page.render(made, "markdown")) + "\n"
        )
    if not made.was_run:
        raise MissingStageError("No case could be run: fetch what is named above, and repeat.")
    if made.differs:
        raise SystemExit(1)


COMMANDS = (audit, reproduce)
