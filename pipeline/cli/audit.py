"""The commands that question figures: of a benchmark (audit), and of papers (reproduce)."""

from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import FiniteRange, Stage, format_option, json_option, run_options
from pipeline.cli.pairs import Pair
from pipeline.printable import echo
from pipeline.stages import checks


@click.command(cls=Stage)
@run_options
@click.option(
    "--single",
    "singles",
    multiple=True,
    metavar="METHOD|NAME=FILE",
    help="a ranking by one modality alone; image and text by default",
)
@click.option(
    "--with",
    "others",
    multiple=True,
    type=Pair(),
    metavar="NAME=FILE[,FILE]",
    help="another ranking by both modalities (cache/…/search/*.jsonl), or predictions",
)
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
        alone = compare.rows_of_run(run.with_method(",".join(methods))) if methods else []
        alone += [_row(compare, run, *pair) for pair in files]
        rows = [row for row in compare.rows_of_run(run) if row.name not in methods]
        rows += [_row(compare, run, *pair) for pair in others]
    made = auditing.audit(run, alone, rows, first, near, resamples)
    text = dump(made.as_json()) if as_json else auditing.render(made, form)
    if out is None:
        echo(text)
    else:
        write_text(out, text + "\n")


def _row(compare: Any, run: Any, name: str, files: str) -> Any:
    return compare.row_of_files(run.dataset, name, [Path(file) for file in files.split(",")])


COMMANDS = (audit,)
