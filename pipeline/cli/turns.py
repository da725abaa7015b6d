"""The command that plays a benchmark's sessions."""

import functools
from typing import Any

import click

from pipeline.cli.options import Stage, json_option, run_options
from pipeline.printable import echo
from pipeline.stages import checks

STATES = ("given", "image", "query", "caption")


@click.command(cls=Stage)
@functools.partial(run_options, defaults={"search.method": "image+text"})
@click.option(
    "--state",
    type=click.Choice([*STATES, "all"]),
    default="all",
    show_default=True,
    help="what a turn leaves to the next: the image retrieved first, the query's vector, or its "
    "edited captions; given: the benchmark's own reference",
)
@json_option
def turns(run: Any, state: str, as_json: bool) -> None:
    """Play a benchmark's sessions turn by turn, with what each turn leaves to the next.

    Recall is of the last turns and by turn; where the benchmark names the objects of its images,
    precision, recall and F1 of the first image's are given, too. A state that a method cannot
    begin with is left out: a vector has no captions.

    Example: seize turns --dataset mtfashioniq --split val --method image+text,seize
    """
    checks.ground_truth(run)
    checks.method(run)
    from tabulate import tabulate

    from pipeline.run import dump
    from pipeline.stages import texts
    from pipeline.study import turns as study

    study.dataset_of(run)
    states: Any = STATES if state == "all" else (state,)
    found = study.table(run, texts.selection(run), states)
    if as_json:
        echo(dump({"metrics": found.to_dict(orient="records")}))
        return
    table = study.shown(run, found)
    echo(tabulate(table.to_dict("records"), "keys", "github", disable_numparse=True))


COMMANDS = (turns,)
"""What the command line takes from here."""
